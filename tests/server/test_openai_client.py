"""The official `openai` client, unmodified, against the app."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from asgi_client import MODEL
from fake_async_engine import FakeAsyncEngine
from openai import AsyncOpenAI
from openai_asgi import TEXT, ask

MESSAGES: Any = [{"role": "user", "content": "hi"}]


def test_models() -> None:
    async def names(client: AsyncOpenAI) -> list[str]:
        return [model.id async for model in client.models.list()]

    assert ask(names) == [MODEL]


def test_completions() -> None:
    answer = ask(lambda client: client.completions.create(model=MODEL, prompt="hi", max_tokens=100, logprobs=1))
    assert answer.choices[0].text == TEXT
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert len(answer.choices[0].logprobs.tokens) == answer.usage.completion_tokens


def test_chat() -> None:
    answer = ask(
        lambda client: client.chat.completions.create(
            model=MODEL, messages=MESSAGES, n=2, logprobs=True, top_logprobs=1, extra_body={"top_k": 5}
        )
    )
    assert [choice.message.content for choice in answer.choices] == [TEXT, TEXT]
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].logprobs.content[0].top_logprobs[0].logprob == -0.25


def test_streams() -> None:
    async def chat(client: AsyncOpenAI) -> tuple[str, Any]:
        text, usage = "", None
        stream = await client.chat.completions.create(
            model=MODEL, messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
        async for chunk in stream:
            usage = chunk.usage
            text += "".join(choice.delta.content or "" for choice in chunk.choices)
        return text, usage

    async def complete(client: AsyncOpenAI) -> str:
        stream = await client.completions.create(model=MODEL, prompt="hi", max_tokens=100, stream=True)
        return "".join([chunk.choices[0].text async for chunk in stream])

    async def accumulate(client: AsyncOpenAI) -> Any:
        async with client.chat.completions.stream(model=MODEL, messages=MESSAGES) as stream:
            return await stream.get_final_completion()

    text, usage = ask(chat)
    assert (text, ask(complete)) == (TEXT, TEXT)
    assert usage.completion_tokens > 0
    assert ask(accumulate).choices[0].message.content == TEXT


def test_errors_have_their_classes() -> None:
    async def unknown(client: AsyncOpenAI) -> Any:
        return await client.chat.completions.create(model="gpt-9", messages=MESSAGES)

    async def hot(client: AsyncOpenAI) -> Any:
        return await client.completions.create(model=MODEL, prompt="hi", temperature=9)

    with pytest.raises(openai.NotFoundError, match=MODEL) as missing:
        ask(unknown)
    assert missing.value.param == "model"
    with pytest.raises(openai.BadRequestError, match=r"temperature must be in \[0, 2\]") as bad:
        ask(hot)
    assert bad.value.param == "temperature"
    with pytest.raises(openai.AuthenticationError):
        ask(hot, key="wrong", api_keys=("secret",))


def test_a_failure_in_mid_stream_raises() -> None:
    engine = FakeAsyncEngine([TEXT])
    engine.fail_after = 2

    async def read(client: AsyncOpenAI) -> None:
        async for _ in await client.completions.create(model=MODEL, prompt="hi", stream=True):
            pass

    with pytest.raises(openai.APIError, match="engine has stopped"):
        ask(read, engine=engine)
