"""One request to an ASGI application, sent exactly as given: odd paths, bare headers, bodies in pieces."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Answer:
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    content: bytes = b""

    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def error(self) -> dict[str, Any]:
        """The error object; the body holds nothing else."""
        body = self.json()
        assert list(body) == ["error"]
        assert list(body["error"]) == ["message", "type", "param", "code"]
        error: dict[str, Any] = body["error"]
        return error


def ask(
    app: Any,
    method: str,
    path: str,
    *,
    headers: dict[str, str] | None = None,
    body: bytes | Sequence[bytes] = b"",
    root_path: str = "",
) -> Answer:
    """The whole answer. A body that is a sequence comes in pieces, without a Content-Length."""
    pieces = [body] if isinstance(body, bytes) else list(body)
    answer = Answer()
    sent = iter(pieces)
    left = len(pieces)

    async def receive() -> dict[str, Any]:
        nonlocal left
        left -= 1
        if left < 0:
            await asyncio.Event().wait()  # the client stays
        return {"type": "http.request", "body": next(sent), "more_body": left > 0}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            assert answer.status == 0
            answer.status = message["status"]
            answer.headers = {name.decode("ascii"): value.decode("latin-1") for name, value in message["headers"]}
        else:
            answer.content += message["body"]

    given = {"host": "server", **({"content-length": str(len(body))} if isinstance(body, bytes) else {})}
    given.update(headers or {})
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": root_path,
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in given.items()],
        "client": ("127.0.0.1", 1),
        "server": ("server", 80),
    }
    asyncio.run(app(scope, receive, send))
    return answer


def ask_json(app: Any, path: str, body: Any, **options: Any) -> Answer:
    """POST `body`: bytes as they are, everything else as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"content-type": "application/json", **options.pop("headers", {})}
    return ask(app, "POST", path, headers=headers, body=content, **options)
