"""A small server for tests: an ASGI application on a free port, or on a socket, in a thread of this process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import uvicorn

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Handler = Callable[[str, dict[str, str], Any], "Reply | None"]


class Reply:
    """What the application answers: a status with JSON, or the pieces of an event stream."""

    def __init__(
        self,
        content: Any = None,
        *,
        status: int = 200,
        pieces: list[bytes] | None = None,
        pause: float = 0.0,
        breaks_off: bool = False,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.status = status
        self.pieces = [json.dumps(content).encode()] if pieces is None else pieces
        self.pause = pause  # seconds before each piece
        self.breaks_off = breaks_off
        self.headers = headers or {}


class App:
    """An application over `handler(path, headers, body)`; `asked` holds the requests that it has seen."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self.asked: list[tuple[str, dict[str, str], Any]] = []
        self.num_running = 0
        self.max_running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        given = json.loads(body) if body else None
        self.asked.append((scope["path"], headers, given))
        reply = self._handler(scope["path"], headers, given) or Reply({"error": {"message": "no"}}, status=404)
        self.num_running += 1
        self.max_running = max(self.max_running, self.num_running)
        try:
            await self._answer(reply, send)
        finally:
            self.num_running -= 1

    async def _answer(self, reply: Reply, send: Send) -> None:
        encoded = [(name.encode(), value.encode()) for name, value in reply.headers.items()]
        await send({"type": "http.response.start", "status": reply.status, "headers": encoded})
        for piece in reply.pieces:
            await asyncio.sleep(reply.pause)
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        if reply.breaks_off:
            raise ConnectionAbortedError
        await send({"type": "http.response.body", "body": b""})


def events(*contents: Any) -> list[bytes]:
    """The pieces of an event stream."""
    return [b"data: " + (c.encode() if isinstance(c, str) else json.dumps(c).encode()) + b"\n\n" for c in contents]


@contextlib.contextmanager
def serving(app: App, uds: Path | None = None) -> Iterator[str]:
    """The address under which `app` answers."""
    listener = socket.socket(socket.AF_UNIX if uds else socket.AF_INET)
    listener.bind(str(uds) if uds else ("127.0.0.1", 0))
    listener.listen(128)
    config = uvicorn.Config(app, log_level="critical", lifespan="off", ws="none", loop="asyncio")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"unix://{uds}" if uds else f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
