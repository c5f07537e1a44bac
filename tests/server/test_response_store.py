"""Responses that are kept: got, gone on with, deleted, cancelled, and gone when there is no more room for them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from asgi_client import app_of, post_and_leave
from fake_async_engine import FakeAsyncEngine

from octavo.errors import EngineError, NotFoundError
from octavo.server.response_store import ResponseStore

PATH = "/v1/responses"
Talk = Callable[[httpx.AsyncClient], Awaitable[None]]


def talk(engine: FakeAsyncEngine, conversation: Talk, **settings: Any) -> None:
    """Several requests to one app."""

    async def run() -> None:
        transport = httpx.ASGITransport(app=app_of(engine, **settings))
        async with httpx.AsyncClient(transport=transport, base_url="http://server/v1") as client:
            await conversation(client)

    asyncio.run(run())


async def create(client: httpx.AsyncClient, status: int = 200, **fields: Any) -> Any:
    answer = await client.post("/responses", json={"input": "hi", **fields})
    assert answer.status_code == status, answer.text
    return answer.json()


async def until(client: httpx.AsyncClient, response_id: str, *statuses: str) -> Any:
    """The response when it has one of these statuses."""
    for _ in range(1000):
        answer = (await client.get(f"/responses/{response_id}")).json()
        if answer["status"] in statuses:
            return answer
        await asyncio.sleep(0)
    raise AssertionError(answer)


def test_a_response_is_got_and_deleted() -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        made = await create(client)
        got = await client.get(f"/responses/{made['id']}")
        assert got.json() == made
        assert got.headers["content-type"] == "application/json"
        deleted = await client.delete(f"/responses/{made['id']}")
        assert deleted.json() == {"id": made["id"], "object": "response", "deleted": True}
        for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/cancel")):
            gone = await client.request(method, f"/responses/{made['id']}{path}")
            assert gone.status_code == 404
            assert f"no response '{made['id']}' here" in gone.json()["error"]["message"]

    talk(FakeAsyncEngine(), conversation)


def test_a_streamed_response_is_there_when_its_stream_ends() -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        async with client.stream("POST", "/responses", json={"input": "hi", "stream": True}) as stream:
            last = [line async for line in stream.aiter_lines() if line.startswith("data: ")][-1]
        made = json.loads(last.removeprefix("data: "))["response"]
        assert (await client.get(f"/responses/{made['id']}")).json() == made

    talk(FakeAsyncEngine(), conversation)


def test_a_chain_has_all_that_was_said_and_the_last_instructions() -> None:
    engine = FakeAsyncEngine(["yes"])

    async def conversation(client: httpx.AsyncClient) -> None:
        first = await create(client, input="one", instructions="be brief")
        second = await create(client, input=[{"role": "user", "content": "two"}], previous_response_id=first["id"])
        await client.delete(f"/responses/{first['id']}")
        third = await create(client, input="three", previous_response_id=second["id"], instructions="be kind")
        assert third["previous_response_id"] == second["id"]
        path = "/responses/input_tokens"
        counted = await client.post(path, json={"input": "three", "previous_response_id": second["id"]})
        assert counted.json()["input_tokens"] < third["usage"]["input_tokens"]  # it has no instructions

    talk(engine, conversation)

    def turn(role: str, text: str) -> str:
        return f"<|im_start|>{role}\n{text}<|im_end|>\n"

    begun = turn("user", "one") + turn("assistant", "yes") + turn("user", "two")
    opened = "<|im_start|>assistant\n"
    assert engine.calls[1].prompt.text == begun + opened
    later = turn("assistant", "yes") + turn("user", "three")
    assert engine.calls[2].prompt.text == turn("system", "be kind") + begun + later + opened


def test_items_are_referred_to() -> None:
    engine = FakeAsyncEngine(["yes"])

    async def conversation(client: httpx.AsyncClient) -> None:
        first = await create(client)
        reference = {"type": "item_reference", "id": first["output"][0]["id"]}
        user = {"role": "user", "content": "hi"}
        referring = await create(client, input=[user, reference, user])
        chained = await create(client, previous_response_id=first["id"])
        assert referring["usage"] == chained["usage"]
        await client.delete(f"/responses/{first['id']}")
        error = (await create(client, 404, input=[reference]))["error"]
        assert error["param"] == "input.0.id"

    talk(engine, conversation)
    assert engine.calls[1].prompt.token_ids == engine.calls[2].prompt.token_ids


def test_what_is_not_to_be_stored_is_not() -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        made = await create(client, store=False)
        assert made["store"] is False
        assert (await client.get(f"/responses/{made['id']}")).status_code == 404

    talk(FakeAsyncEngine(), conversation)


def test_a_server_that_stores_none_says_so() -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        made = await create(client)
        assert made["store"] is False
        for field in ("store", "background"):
            error = (await create(client, 400, **{field: True}))["error"]
            assert error["param"] == field
            assert "stores no responses" in error["message"]
        error = (await create(client, 404, previous_response_id=made["id"]))["error"]
        assert "this server stores no responses" in error["message"]

    talk(FakeAsyncEngine(), conversation, response_store_max_responses=0)


def test_the_oldest_makes_room() -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        ids = [(await create(client))["id"] for _ in range(3)]
        statuses = [(await client.get(f"/responses/{i}")).status_code for i in ids]
        assert statuses == [404, 200, 200]
        error = (await create(client, 404, previous_response_id=ids[0]))["error"]
        assert "stores the last 2" in error["message"]

    talk(FakeAsyncEngine(), conversation, response_store_max_responses=2)


def test_the_bounds_of_a_store() -> None:
    now = 0.0
    store = ResponseStore(max_responses=3, max_bytes=100, ttl=10, clock=lambda: now)

    def keep(name: str, size: int) -> None:
        body = b'{"output":[]}'.ljust(size)
        store.keep(name, body, [], status="completed", in_background=False)  # the conversation takes 2 bytes

    def kept() -> set[str]:
        found = set()
        for name in "abcdefg":
            try:
                store.get(name, "id")
            except NotFoundError:
                continue
            found.add(name)
        return found

    keep("a", 38)
    keep("b", 38)
    assert (kept(), store.num_bytes) == ({"a", "b"}, 80)
    keep("c", 38)
    assert (kept(), store.num_bytes) == ({"b", "c"}, 80)  # by size
    keep("d", 1000)
    assert kept() == {"b", "c"}  # larger than the store
    keep("e", 98)
    assert (kept(), len(store)) == ({"e"}, 1)
    store.delete("e", "id")
    assert (store.num_bytes, len(store)) == (0, 0)
    for name in "abcd":
        keep(name, 20)
        now += 4
    assert kept() == {"c", "d"}  # b is too old, a was over the count
    now = 100
    assert (kept(), store.num_bytes) == (set(), 0)


def test_a_response_in_the_background() -> None:
    engine = FakeAsyncEngine(["the fox jumps"])
    engine.pause_after = 2

    async def conversation(client: httpx.AsyncClient) -> None:
        made = await create(client, background=True)
        assert (made["status"], made["output"], made["usage"]) == ("queued", [], None)
        await until(client, made["id"], "in_progress")
        error = (await create(client, 400, previous_response_id=made["id"]))["error"]
        assert "still under way" in error["message"]
        engine.go.set()
        done = await until(client, made["id"], "completed")
        assert done["output"][0]["content"][0]["text"] == "the fox jumps"
        assert done["background"] is True
        again = await client.post(f"/responses/{made['id']}/cancel")
        assert again.json() == done  # it has ended, and stays as it is

    talk(engine, conversation)


def test_a_response_in_the_background_is_cancelled() -> None:
    engine = FakeAsyncEngine(["the fox jumps"])
    engine.pause_after = 2

    async def conversation(client: httpx.AsyncClient) -> None:
        made = await create(client, background=True)
        await until(client, made["id"], "in_progress")
        for _ in range(20):
            await asyncio.sleep(0)
        answer = (await client.post(f"/responses/{made['id']}/cancel")).json()
        assert answer["status"] == "cancelled"
        assert answer["output"][0]["status"] == "incomplete"
        assert answer["output"][0]["content"][0]["text"] == "the fox"
        assert len(engine.aborted) == 1
        assert engine.num_unfinished == 0
        assert (await client.get(f"/responses/{made['id']}")).json() == answer
        error = (await create(client, 400, previous_response_id=made["id"]))["error"]
        assert "is cancelled" in error["message"]

    talk(engine, conversation)


def test_one_in_the_background_is_cancelled_before_it_began_or_by_deleting_it() -> None:
    engine = FakeAsyncEngine(["the fox jumps"])
    engine.pause_after = 0

    async def conversation(client: httpx.AsyncClient) -> None:
        made = await create(client, background=True)
        cancelled = (await client.post(f"/responses/{made['id']}/cancel")).json()
        assert (cancelled["status"], engine.num_unfinished) == ("cancelled", 0)
        made = await create(client, background=True)
        assert (await client.delete(f"/responses/{made['id']}")).json()["deleted"] is True
        assert engine.num_unfinished == 0
        assert (await client.get(f"/responses/{made['id']}")).status_code == 404

    talk(engine, conversation)


def test_only_what_is_in_the_background_can_be_cancelled() -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        made = await create(client)
        answer = await client.post(f"/responses/{made['id']}/cancel")
        assert answer.status_code == 400
        assert "not made in the background" in answer.json()["error"]["message"]

    talk(FakeAsyncEngine(), conversation)


def test_a_failure_in_the_background_is_kept() -> None:
    engine = FakeAsyncEngine()
    engine.fail_after, engine.error = 1, EngineError("secret")

    async def conversation(client: httpx.AsyncClient) -> None:
        made = await create(client, background=True)
        failed = await until(client, made["id"], "failed")
        assert failed["error"]["code"] == "server_error"
        assert "secret" not in json.dumps(failed)

    talk(engine, conversation)


def test_the_background_is_bounded() -> None:
    engine = FakeAsyncEngine()
    engine.pause_after = 0

    async def conversation(client: httpx.AsyncClient) -> None:
        for _ in range(2):
            await create(client, background=True)
        error = (await create(client, 503, background=True))["error"]
        assert "2 responses are under way" in error["message"]
        engine.go.set()

    talk(engine, conversation, response_store_max_responses=2)


@pytest.mark.parametrize(("stream", "after_bytes"), [(False, None), (True, None), (True, 1)])
def test_a_client_that_leaves_ends_its_request_and_nothing_is_kept(stream: bool, after_bytes: int | None) -> None:
    engine = FakeAsyncEngine(["the fox jumps over the lazy dog"])
    engine.pause_after = 3 if after_bytes else 0

    async def run() -> int:
        app = app_of(engine)
        await post_and_leave(app, PATH, {"input": "hi", "stream": stream}, after_bytes=after_bytes)
        assert engine.num_unfinished == 0
        return len(app.state.responses)

    assert asyncio.run(run()) == 0
    assert len(engine.aborted) == 1


async def events(client: httpx.AsyncClient, response_id: str, after: int | None = None) -> list[Any]:
    """The events of a response from the one after `after` on."""
    query = "stream=true" if after is None else f"stream=true&starting_after={after}"
    answer = await client.get(f"/responses/{response_id}?{query}")
    assert answer.status_code == 200, answer.text
    return [json.loads(line[len("data: ") :]) for line in answer.text.splitlines() if line.startswith("data: ")]


def test_a_stream_in_the_background_goes_on_without_its_client_and_can_be_taken_up() -> None:
    engine = FakeAsyncEngine(["the fox jumps"])
    engine.pause_after = 2

    async def run() -> None:
        app = app_of(engine)
        body = {"input": "hi", "background": True, "stream": True}
        read = b"".join(await post_and_leave(app, PATH, body, after_bytes=1)).decode()
        created = json.loads(read.split("data: ")[1].split("\n")[0])
        assert (created["type"], created["response"]["status"]) == ("response.created", "queued")
        assert (engine.aborted, engine.num_unfinished) == ([], 1)
        name = created["response"]["id"]
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://server/v1") as client:
            await until(client, name, "in_progress")
            reading = asyncio.create_task(events(client, name))
            for _ in range(20):
                await asyncio.sleep(0)
            engine.go.set()
            whole = await reading
            assert [event["sequence_number"] for event in whole] == list(range(len(whole)))
            kinds = [event["type"] for event in whole]
            assert kinds[:4] == [
                *("response.created", "response.queued", "response.in_progress", "response.output_item.added"),
            ]
            assert kinds[-1] == "response.completed"
            assert await events(client, name) == whole
            assert await events(client, name, 3) == whole[4:]
            assert await events(client, name, 1000) == []
            assert (await client.get(f"/responses/{name}")).json() == whole[-1]["response"]
            await create(client, previous_response_id=name)

    asyncio.run(run())


def test_a_stream_in_the_background_ends_when_it_is_cancelled_or_fails() -> None:
    engine = FakeAsyncEngine(["the fox jumps"])
    engine.pause_after = 2

    async def conversation(client: httpx.AsyncClient) -> None:
        body = {"input": "hi", "background": True, "stream": True}
        reading = asyncio.create_task(client.post("/responses", json=body))
        while not engine.num_unfinished:
            await asyncio.sleep(0)
        (name,) = (call.request_id for call in engine.calls)
        await until(client, name, "in_progress")
        await client.post(f"/responses/{name}/cancel")
        assert "event: response.cancelled" in (await reading).text
        engine.fail_after = 1
        assert "event: response.failed" in (await client.post("/responses", json=body)).text

    talk(engine, conversation)


def test_only_what_is_streamed_in_the_background_can_be_followed() -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        for fields in ({}, {"background": True}):
            made = await create(client, **fields)
            await until(client, made["id"], "completed")
            answer = await client.get(f"/responses/{made['id']}?stream=true")
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "stream")
        assert (await client.get("/responses/resp_1?stream=true")).status_code == 404
        body = {"input": "hi", "background": True, "stream": True}
        text = (await client.post("/responses", json=body)).text
        name = json.loads(text.split("data: ")[1].split("\n")[0])["response"]["id"]
        answer = await client.get(f"/responses/{name}?stream=true&starting_after=x")
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "starting_after")

    talk(FakeAsyncEngine(), conversation)
