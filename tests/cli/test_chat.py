"""`octavo chat`: commands, history, streaming; with a fake LLM, with a server, and once as a process with a model."""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from local_server import App, Reply, events, serving

from octavo import CompletionOutput, RequestOutput, SamplingParams
from octavo.cli import chat
from octavo.cli.chat import Conversation, LocalAnswerer
from octavo.errors import ConfigError, ContextLengthError


class FakeLLM:
    """Answers with what it was asked, in two pieces."""

    def __init__(self) -> None:
        self.asked: list[list[dict[str, str]]] = []

    def stream_chat(self, messages: list[dict[str, str]], params: SamplingParams) -> Iterator[RequestOutput]:
        self.asked.append([dict(message) for message in messages])
        text = messages[-1]["content"]
        if text == "too long":
            raise ContextLengthError("the prompt has 9 tokens, but max_model_len is 8", param="prompt")
        for piece in ("you said ", text):
            completion = CompletionOutput(index=0, text=piece, token_ids=[1])
            yield RequestOutput(request_id="0", prompt=None, prompt_token_ids=[1], outputs=[completion])
        if text == "interrupt":
            raise KeyboardInterrupt


def talk(*lines: str, system: str | None = None) -> FakeLLM:
    llm = FakeLLM()
    remaining = list(lines)
    fake: Any = llm
    Conversation(LocalAnswerer(fake, SamplingParams()), system).loop(lambda: remaining.pop(0) if remaining else None)
    return llm


def roles(messages: list[dict[str, str]]) -> list[str]:
    return [message["role"] for message in messages]


def test_answers_are_streamed_and_the_history_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    llm = talk("hello", "", "again")
    out, err = capsys.readouterr()
    assert out == "you said hello\nyou said again\n"
    assert "2 tokens" in err
    assert "tok/s" in err
    assert roles(llm.asked[1]) == ["user", "assistant", "user"]
    assert llm.asked[1][1]["content"] == "you said hello"


def test_commands(capsys: pytest.CaptureFixture[str]) -> None:
    llm = talk(
        "/help", "a", "/clear", "b", "/system be brief", "c", "/clear", "d", "/system", "e", "/nonsense", "/exit", "f"
    )
    assert [roles(messages) for messages in llm.asked] == [
        ["user"],
        ["user"],
        ["system", "user"],
        ["system", "user"],
        ["user"],
    ]
    assert llm.asked[2][0]["content"] == "be brief"
    err = capsys.readouterr().err
    assert "/system TEXT" in err
    assert "there is no command /nonsense" in err


def test_a_message_that_does_not_fit_is_taken_back(capsys: pytest.CaptureFixture[str]) -> None:
    llm = talk("too long", "short", system="s")
    assert "/clear" in capsys.readouterr().err
    assert roles(llm.asked[1]) == ["system", "user"]


def test_an_interrupted_answer_stays_in_the_history(capsys: pytest.CaptureFixture[str]) -> None:
    llm = talk("interrupt", "go on")
    assert "(stopped)" in capsys.readouterr().err
    assert llm.asked[1][1] == {"role": "assistant", "content": "you said interrupt"}


def serve_chat(path: str, headers: dict[str, str], body: Any) -> Reply:
    if path == "/v1/models":
        return Reply({"data": [{"id": "m1"}, {"id": "m2"}]})
    text = body["messages"][-1]["content"]
    if text == "too long":
        return Reply({"error": {"message": "it is too long", "code": "context_length_exceeded"}}, status=400)
    if text == "break":
        return Reply(pieces=events({"choices": [{"delta": {"content": "I was"}}]}), breaks_off=True)
    contents = [{"choices": [{"delta": {"content": piece}}]} for piece in ("you said ", text)]
    return Reply(pieces=events(*contents, {"choices": [], "usage": {"completion_tokens": 5}}, "[DONE]"))


def chat_with(monkeypatch: pytest.MonkeyPatch, text: str, *flags: str) -> App:
    app = App(serve_chat)
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    parser = argparse.ArgumentParser()
    chat.add_arguments(parser)
    with serving(app) as url:
        assert chat.run(parser.parse_args(["--url", url, *flags])) == 0
    return app


def test_a_server_answers_as_a_model_here_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--system-prompt", "s", "--temperature", "0.5", "-m", "m2"]
    app = chat_with(monkeypatch, "hello\ntoo long\nbreak\nagain\n", *flags)
    out, err = capsys.readouterr()
    assert out == "you said hello\nI wasyou said again\n"
    assert "5 tokens" in err
    assert "it is too long (/clear forgets the conversation)" in err
    assert "ended before the answer did" in err
    bodies = [body for _, _, body in app.asked[1:]]
    assert [roles(body["messages"]) for body in bodies] == [
        ["system", "user"],
        ["system", "user", "assistant", "user"],
        ["system", "user", "assistant", "user"],
        ["system", "user", "assistant", "user"],
    ]
    assert bodies[0]["model"] == "m2"
    assert bodies[0]["temperature"] == 0.5
    assert "top_p" not in bodies[0]


def test_the_servers_first_model_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chat_with(monkeypatch, "hello\n").asked[1][2]["model"] == "m1"


def test_flags_of_an_engine_have_no_place_beside_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="--dtype has no effect with --url"):
        chat_with(monkeypatch, "", "--dtype", "float32")


@pytest.mark.slow
def test_the_commands_run_as_a_user_would_run_them(default_gguf: Path) -> None:
    octavo = [sys.executable, "-c", "from octavo.cli.main import main; main()"]
    flags = ["-m", str(default_gguf), "--temperature", "0", "--max-tokens", "8", "--max-model-len", "512"]

    def run(*args: str, text: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run([*octavo, *args, *flags], input=text, capture_output=True, text=True, check=True)

    chat = run("chat", text="What is the capital of France? Answer in one sentence.\n/exit\n")
    assert "Paris" in chat.stdout
    assert "tok/s" in chat.stderr
    generate = run("generate", text="The capital of France is\n\nOne, two, three,\n")
    assert "The capital of France is Paris" in generate.stdout
    assert "One, two, three, four" in generate.stdout
    bad = subprocess.run(
        [*octavo, "generate", "a", "--top-p", "3", *flags], capture_output=True, text=True, check=False
    )
    assert bad.returncode == 2
    assert bad.stderr.splitlines()[-1].startswith("octavo generate: --top-p: top_p must be in (0, 1]")
    missing = subprocess.run([*octavo, "generate", "a", "-m", "./nothing"], capture_output=True, text=True, check=False)
    assert missing.returncode == 1
    assert "Traceback" not in missing.stderr
