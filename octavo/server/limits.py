"""The limit on the body of a request, whether its length is announced or it comes in chunks."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from octavo.server.failures import error_response


class BodyLimit:
    """ASGI middleware: 413 for a body of more than `max_body_bytes`, as soon as that is known."""

    def __init__(self, app: ASGIApp, *, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if announced.isdigit() and int(announced[:20]) > self._max_body_bytes:
            await error_response(self._too_large(), scope)(scope, receive, send)
            return
        num_bytes = 0

        async def counted() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self._max_body_bytes:
                raise self._too_large()
            return message

        await self._app(scope, counted, send)

    def _too_large(self) -> HTTPException:
        # An HTTPException, since the framework turns others that come from reading a body into a 400.
        return HTTPException(
            413,
            f"the body is larger than {self._max_body_bytes} bytes; send less in one request",
            headers={"Connection": "close"},
        )
