"""`octavo chat`: commands, history, streaming; with a fake LLM, and once as a process with the default model."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from octavo import CompletionOutput, RequestOutput, SamplingParams
from octavo.cli.chat import Conversation
from octavo.errors import ContextLengthError


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
    Conversation(fake, SamplingParams(), system).loop(lambda: remaining.pop(0) if remaining else None)
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


@pytest.mark.slow
def test_the_commands_run_as_a_user_would_run_them(default_gguf: Path) -> None:
    octavo = [sys.executable, "-c", "from octavo.cli.main import main; main()"]
    flags = ["-m", str(default_gguf), "--temperature", "0", "--max-tokens", "8", "--max-model-len", "512"]

    def run(*args: str, text: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run([*octavo, *args, *flags], input=text, capture_output=True, text=True, check=True)

    chat = run("chat", text="What is the capital of France?\n/exit\n")
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
