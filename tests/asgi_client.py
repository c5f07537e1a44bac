"""Requests to the server's app without a network: whole answers by httpx, and answers that are left halfway."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
from fake_async_engine import FakeAsyncEngine

from octavo.server.app import create_app
from octavo.server.settings import ServerSettings

MODEL = "tiny"
JSON = {"content-type": "application/json"}


def app_of(engine: FakeAsyncEngine, **settings: Any) -> Any:
    return create_app(engine, ServerSettings(served_model_names=(MODEL,), **settings))  # type: ignore[arg-type]


def post(
    engine: FakeAsyncEngine, path: str, body: Any, *, headers: dict[str, str] | None = None, **settings: Any
) -> httpx.Response:
    """The whole answer to one request."""

    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(app=app_of(engine, **settings))
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            return await client.post(path, content=json.dumps(body), headers={**JSON, **(headers or {})})

    return asyncio.run(run())


def events_of(response: httpx.Response) -> list[Any]:
    """The data of each event; the last one must be [DONE]."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    events = response.text.split("\n\n")
    assert events.pop() == ""
    assert all(event.startswith("data: ") for event in events)
    assert events.pop() == "data: [DONE]"
    return [json.loads(event[len("data: ") :]) for event in events]


async def post_and_leave(
    app: Any, path: str, body: Any, *, after_bytes: int | None, stalls: bool = False
) -> list[bytes]:
    """Post, read some bytes of the answer and go away; None: go away before there are any. What was read.

    A client that `stalls` has stopped reading before it goes, so that the server waits in a `send`.
    """
    read: list[bytes] = []
    gone = asyncio.Event()
    requested = False

    async def receive() -> dict[str, Any]:
        nonlocal requested
        if not requested:
            requested = True
            return {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body" and not gone.is_set():
            read.append(message["body"])
            if after_bytes is not None and sum(map(len, read)) >= after_bytes:
                gone.set()
                if stalls:
                    await asyncio.Event().wait()

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"server"), (b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1),
        "server": ("server", 80),
    }
    answering = asyncio.ensure_future(app(scope, receive, send))
    if after_bytes is None:
        for _ in range(20):
            await asyncio.sleep(0)
        gone.set()
    await asyncio.wait_for(answering, timeout=5)
    return read
