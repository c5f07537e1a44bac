"""The official `anthropic` client, unmodified, against the app."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic import AsyncAnthropic
from asgi_client import MODEL, app_of
from fake_async_engine import FakeAsyncEngine

from octavo.errors import EngineError

TEXT = "naïve 日本語 🙂 fox"
MESSAGES: Any = [{"role": "user", "content": "hi"}]
FIELDS: Any = {"model": MODEL, "max_tokens": 100, "messages": MESSAGES}
Question = Callable[[AsyncAnthropic], Awaitable[Any]]


def ask(question: Question, *, engine: FakeAsyncEngine | None = None, key: str = "secret", **settings: Any) -> Any:
    """What a client gets."""

    async def run() -> Any:
        app = app_of(engine or FakeAsyncEngine([TEXT], seed=1), **settings)
        http = httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app))
        async with AsyncAnthropic(base_url="http://server", api_key=key, http_client=http, max_retries=0) as client:
            return await question(client)

    return asyncio.run(run())


def test_create_and_go_on() -> None:
    async def talk(client: AsyncAnthropic) -> None:
        first = await client.messages.create(**FIELDS, system="be brief", stop_sequences=["zzz"])
        assert first.content[0].type == "text"
        assert first.content[0].text == TEXT
        assert first.stop_reason == "end_turn"
        # The blocks of one answer are those of the next question, as the client's own objects.
        said: Any = [*MESSAGES, {"role": "assistant", "content": first.content}, {"role": "user", "content": "go on"}]
        second = await client.messages.create(**{**FIELDS, "messages": said})
        counted = await client.messages.count_tokens(model=MODEL, messages=said)
        assert counted.input_tokens == second.usage.input_tokens > first.usage.input_tokens

    ask(talk, api_keys=("secret",))


def test_a_stream_accumulates_to_the_whole() -> None:
    async def streamed(client: AsyncAnthropic) -> tuple[Any, str]:
        async with client.messages.stream(**FIELDS) as stream:
            text = "".join([text async for text in stream.text_stream])
            return await stream.get_final_message(), text

    for seed in range(5):
        final, text = ask(streamed, engine=FakeAsyncEngine([TEXT], seed=seed))
        whole = ask(lambda client: client.messages.create(**FIELDS))
        assert text == TEXT
        # Each seed spells the text in other tokens.
        final.id, final.usage.output_tokens = whole.id, whole.usage.output_tokens
        assert final.to_dict() == whole.to_dict()


def test_raw_events_and_the_beta_route() -> None:
    async def read(client: AsyncAnthropic) -> list[str]:
        return [event.type async for event in await client.messages.create(**FIELDS, stream=True)]

    kinds = ask(read)
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    answer = ask(lambda client: client.beta.messages.create(**FIELDS, betas=["x"]))
    assert answer.content[0].text == TEXT


def test_errors_have_their_classes() -> None:
    async def read(client: AsyncAnthropic) -> None:
        async with client.messages.stream(**FIELDS) as stream:
            await stream.until_done()

    with pytest.raises(anthropic.NotFoundError, match=MODEL):
        ask(lambda client: client.messages.create(**{**FIELDS, "model": "other"}))
    with pytest.raises(anthropic.BadRequestError, match="temperature"):
        ask(lambda client: client.messages.create(**FIELDS, extra_body={"temperature": 9}))
    with pytest.raises(anthropic.AuthenticationError):
        ask(read, key="wrong", api_keys=("secret",))
    engine = FakeAsyncEngine([TEXT])
    engine.fail_after, engine.error = 2, EngineError("secret")
    with pytest.raises(anthropic.APIStatusError, match="the engine failed"):
        ask(read, engine=engine)
