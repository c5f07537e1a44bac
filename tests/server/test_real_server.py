"""A real server with the default model: the official client, equality with LLM, many streams, the client commands."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
from openai import AsyncOpenAI, OpenAI
from real_server import RealServer, wait_for

from octavo import LLM, SamplingParams

pytestmark = pytest.mark.slow

MODEL = "smol"
KEY = "sesame"
MESSAGES: Any = [{"role": "user", "content": "Name three colours of the rainbow, with an emoji each."}]
PROMPT = "The capital of France is"


@pytest.fixture(scope="module")
def server(default_gguf: Path) -> Iterator[RealServer]:
    flags = ["--served-model-name", MODEL, "other-name", "--max-model-len", "1024", "--no-metrics-key"]
    with RealServer(str(default_gguf), *flags, "--api-key", "first", KEY) as started:
        yield started.wait_until_ready()


@pytest.fixture(scope="module")
def client(server: RealServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as made:
        yield made


def idle(server: RealServer) -> bool:
    names = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")
    return all(server.metric(name) == 0 for name in names)


def test_models(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL, "other-name"]
    assert client.models.retrieve("other-name").id == "other-name"


def test_completions_are_those_of_llm(client: OpenAI, default_llm: LLM) -> None:
    (alone,) = default_llm.generate(PROMPT, SamplingParams(temperature=0, max_tokens=24), use_tqdm=False)
    answer = client.completions.create(model=MODEL, prompt=PROMPT, temperature=0, max_tokens=24)
    assert answer.choices[0].text == alone.outputs[0].text
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 24
    stream = client.completions.create(model=MODEL, prompt=PROMPT, temperature=0, max_tokens=24, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == alone.outputs[0].text


def test_chat_is_that_of_llm(client: OpenAI, default_llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=48, stop=["Yellow", "\n\n\n"])
    (alone,) = default_llm.chat(MESSAGES, params, use_tqdm=False)
    fields: Any = {"temperature": 0, "max_completion_tokens": 48, "stop": ["Yellow", "\n\n\n"]}
    answer = client.chat.completions.create(model=MODEL, messages=MESSAGES, **fields)
    assert answer.choices[0].message.content == alone.outputs[0].text
    assert answer.choices[0].finish_reason == alone.outputs[0].finish_reason
    options: Any = {"include_usage": True}
    stream = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, stream=True, stream_options=options, **fields
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == alone.outputs[0].text
    assert chunks[-1].usage == answer.usage


def test_a_seed_gives_the_same_tokens_alone_and_in_a_crowd(client: OpenAI) -> None:
    def ask() -> str:
        answer = client.completions.create(model=MODEL, prompt=PROMPT, seed=7, temperature=1.0, max_tokens=12, n=2)
        return "|".join(choice.text for choice in answer.choices)

    assert ask() == ask()


def test_errors(client: OpenAI, server: RealServer) -> None:
    with pytest.raises(openai.NotFoundError, match="smol"):
        client.completions.create(model="nobody", prompt=PROMPT)
    with pytest.raises(openai.BadRequestError, match="1024"):
        client.completions.create(model=MODEL, prompt="long " * 2000)
    with pytest.raises(openai.AuthenticationError):
        OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0).models.list()


def test_a_timeout_of_the_client_ends_its_request(client: OpenAI, server: RealServer) -> None:
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.3).completions.create(
            model=MODEL, prompt=PROMPT, max_tokens=900, extra_body={"ignore_eos": True}
        )
    wait_for(lambda: idle(server), 5)


def test_two_hundred_streams_half_of_which_are_dropped(server: RealServer) -> None:
    http = psutil.Process(server.process.pid)
    sizes = []
    for round_number in range(2):
        texts = asyncio.run(_crowd(server, seed=round_number))
        assert len(texts) == 100
        assert all(texts)
        wait_for(lambda: idle(server), 10)
        assert httpx.get(f"{server.url}/load", headers={"Authorization": f"Bearer {KEY}"}).json() == {"server_load": 0}
        sizes.append(http.memory_info().rss)
    assert sizes[1] - sizes[0] < 16 * 2**20


async def _crowd(server: RealServer, seed: int) -> list[str]:
    """The texts of 100 whole streams, beside 100 that are left midway."""
    rng = random.Random(seed)
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0, timeout=300) as client:

        async def one(index: int) -> str | None:
            drop_after = rng.randrange(1, 8) if index % 2 else None
            text = ""
            stream = await client.completions.create(
                model=MODEL, prompt=f"{index}. {PROMPT}", max_tokens=12, stream=True, extra_body={"ignore_eos": True}
            )
            async with stream:
                num_chunks = 0
                async for chunk in stream:
                    num_chunks += 1
                    if num_chunks == drop_after:
                        return None
                    text += chunk.choices[0].text
                    reason = chunk.choices[0].finish_reason
            assert reason == "length"
            return text

        texts = await asyncio.gather(*(one(index) for index in range(200)))
    return [text for text in texts if text is not None]


def command(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    code = "import sys; from octavo.cli.main import main; main(sys.argv[1:])"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=180, **options
    )


def test_the_client_commands(server: RealServer, tmp_path: Path) -> None:
    there = ["--url", server.url, "--api-key", KEY, "--model", MODEL]
    done = command("complete", *there, "--temperature", "0", "--max-tokens", "4", PROMPT)
    assert done.returncode == 0, done.stderr
    assert "Paris" in done.stdout
    done = command("chat", "--url", server.url, "--api-key", KEY, "-m", MODEL, "--max-tokens", "8", input="Hi\n/exit\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    result = tmp_path / "result.json"
    load = ["--num-prompts", "6", "--random-input-len", "16", "--random-output-len", "8", "--no-progress"]
    done = command("bench", "serve", *there, *load, "--result-file", str(result))
    assert done.returncode == 0, done.stderr
    assert json.loads(result.read_text())["result"]["completed"] == 6


def test_run_batch_with_an_engine_of_its_own(default_gguf: Path, tmp_path: Path) -> None:
    def line(custom_id: str, **body: Any) -> str:
        request = {"custom_id": custom_id, "method": "POST", "url": "/v1/completions", "body": body}
        return json.dumps(request)

    lines = [line(f"r{i}", prompt=PROMPT, max_tokens=4, temperature=0) for i in range(3)]
    lines += ["this is no JSON", line("bad", prompt=PROMPT, max_tokens=-1)]
    given, results = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    given.write_text("\n".join(lines))
    done = command("run-batch", "-i", str(given), "-o", str(results), "-m", str(default_gguf), "--max-model-len", "512")
    assert done.returncode == 1, done.stderr
    answers = [json.loads(text) for text in results.read_text().splitlines()]
    good = {a["custom_id"]: a["response"]["body"]["choices"][0]["text"] for a in answers if a["error"] is None}
    assert set(good) == {"r0", "r1", "r2"}
    assert all("Paris" in text for text in good.values())
    assert len(answers) == 5


def test_it_answers_soon_after_it_was_started(default_gguf: Path) -> None:
    started = time.monotonic()
    with RealServer(str(default_gguf)) as server:
        server.wait_until_ready()
        answer = httpx.post(f"{server.url}/v1/completions", json={"prompt": PROMPT, "max_tokens": 1}, timeout=30)
        seconds = time.monotonic() - started
        assert answer.status_code == 200
    assert seconds < 20  # 6 on a quiet machine
