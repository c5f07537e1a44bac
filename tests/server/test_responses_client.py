"""The official `openai` client's responses, unmodified, against the app."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import openai
import pytest
from asgi_client import MODEL, app_of
from fake_async_engine import FakeAsyncEngine
from openai import AsyncOpenAI

from octavo.errors import EngineError

TEXT = "naïve 日本語 🙂 fox"
Question = Callable[[AsyncOpenAI], Awaitable[Any]]


def ask(question: Question, *, engine: FakeAsyncEngine | None = None, **settings: Any) -> Any:
    """What a client gets."""

    async def run() -> Any:
        app = app_of(engine or FakeAsyncEngine([TEXT], seed=1), **settings)
        http = httpx.AsyncClient(transport=httpx.ASGITransport(app=app))
        async with AsyncOpenAI(base_url="http://server/v1", api_key="key", http_client=http, max_retries=0) as client:
            return await question(client)

    return asyncio.run(run())


def without_ids(response: Any) -> dict[str, Any]:
    """What two answers to the same question have in common."""
    fields: dict[str, Any] = response.to_dict()
    for name in ("id", "created_at", "completed_at"):
        del fields[name]
    for item in fields["output"]:
        del item["id"]
        for part in item.get("content") or []:
            part.pop("parsed", None)
    return fields


def test_create_and_its_life() -> None:
    async def life(client: AsyncOpenAI) -> None:
        first = await client.responses.create(model=MODEL, input="hi", instructions="be brief")
        assert first.output_text == TEXT
        assert first.usage is not None
        assert first.usage.total_tokens == first.usage.input_tokens + first.usage.output_tokens
        assert (await client.responses.retrieve(first.id)).to_dict() == first.to_dict()
        # The output of one is input of the next, as the client's own objects.
        said: Any = [{"role": "user", "content": "hi"}, *first.output, {"role": "user", "content": "go on"}]
        by_hand = await client.responses.create(model=MODEL, input=said)
        chained = await client.responses.create(model=MODEL, input="go on", previous_response_id=first.id)
        assert chained.usage is not None
        assert by_hand.usage is not None
        assert chained.usage.input_tokens == by_hand.usage.input_tokens
        counted = await client.responses.input_tokens.count(model=MODEL, input=said)
        assert counted.input_tokens == by_hand.usage.input_tokens
        await client.responses.delete(first.id)
        with pytest.raises(openai.NotFoundError, match="no response"):
            await client.responses.retrieve(first.id)

    ask(life)


def test_background_and_cancel() -> None:
    engine = FakeAsyncEngine([TEXT])
    engine.pause_after = 2

    async def life(client: AsyncOpenAI) -> Any:
        made = await client.responses.create(model=MODEL, input="hi", background=True)
        assert made.status == "queued"
        return await client.responses.cancel(made.id)

    assert ask(life, engine=engine).status == "cancelled"


def test_a_stream_accumulates_to_the_whole() -> None:
    async def streamed(client: AsyncOpenAI) -> tuple[Any, list[str]]:
        kinds = []
        async with client.responses.stream(model=MODEL, input="hi") as stream:
            async for event in stream:
                kinds.append(event.type)
            return await stream.get_final_response(), kinds

    for seed in range(5):
        final, kinds = ask(streamed, engine=FakeAsyncEngine([TEXT], seed=seed))
        whole = ask(lambda client: client.responses.create(model=MODEL, input="hi"))
        whole.usage.output_tokens = final.usage.output_tokens  # each seed spells the text in other tokens
        whole.usage.total_tokens = final.usage.total_tokens
        assert without_ids(final) == without_ids(whole)
        assert kinds[0] == "response.created"
        assert kinds[-1] == "response.completed"


def test_a_stream_in_the_background_is_taken_up() -> None:
    async def read(client: AsyncOpenAI) -> tuple[Any, Any, Any]:
        name = ""
        async for event in await client.responses.create(model=MODEL, input="hi", background=True, stream=True):
            if event.type == "response.created":
                name = event.response.id
            if event.sequence_number == 4:
                break
        rest = [event async for event in await client.responses.retrieve(name, stream=True, starting_after=4)]
        async with client.responses.stream(response_id=name, starting_after=4) as stream:
            accumulated = await stream.get_final_response()
        return rest, accumulated, await client.responses.retrieve(name)

    rest, accumulated, whole = ask(read)
    assert rest[0].sequence_number == 5
    assert rest[-1].response.to_dict() == whole.to_dict()
    assert without_ids(accumulated) == without_ids(whole)


def test_raw_events() -> None:
    async def read(client: AsyncOpenAI) -> str:
        stream = await client.responses.create(model=MODEL, input="hi", stream=True)
        return "".join([event.delta async for event in stream if event.type == "response.output_text.delta"])

    assert ask(read) == TEXT


def test_errors_have_their_classes() -> None:
    with pytest.raises(openai.BadRequestError, match="input_image") as bad:
        ask(
            lambda client: client.responses.create(
                model=MODEL,
                input=[{"role": "user", "content": [{"type": "input_image", "image_url": "x", "detail": "auto"}]}],
            )
        )
    assert bad.value.param == "input.0.content.0.type"
    engine = FakeAsyncEngine([TEXT])
    engine.fail_after, engine.error = 2, EngineError("secret")

    async def read(client: AsyncOpenAI) -> Any:
        async with client.responses.stream(model=MODEL, input="hi") as stream:
            return [event async for event in stream][-1]

    assert ask(read, engine=engine).response.error.code == "server_error"
