"""Server-sent events: how chunks are written, and the response that sends them for as long as somebody listens.

What is the same in every chunk of a stream is encoded once. It knows no shape of a choice.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any, Generic, Protocol, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from octavo.server.errors import error_reply
from octavo.server.generation import CLIENT_CLOSED_REQUEST, ClientDisconnected, while_connected
from octavo.server.token_count import TokenCount

encode_json = msgspec.json.encode
_T = TypeVar("_T")
_Item = TypeVar("_Item", contravariant=True)
_END = b"}\n\n"
_DONE = b"data: [DONE]\n\n"


class ChunkWriter:
    """Chunks of one stream.

    Args:
        head: the fields that every chunk begins with.
        usage_at_end, usage_everywhere: see `stream_usage`.
    """

    def __init__(
        self, head: Mapping[str, Any], count: TokenCount, *, usage_at_end: bool, usage_everywhere: bool
    ) -> None:
        self.count = count
        self.usage_everywhere = usage_everywhere
        self._usage_at_end = usage_at_end
        self._prefix = b"data: " + encode_json(head)[:-1] + b',"choices":['

    def chunk(self, choice: Mapping[str, Any], **more: Any) -> bytes:
        """A chunk of one choice; `more` are fields beside the choices."""
        if self.usage_everywhere:
            more["usage"] = self.count.usage()
        tail = b"," + encode_json(more)[1:-1] if more else b""
        return self._prefix + encode_json(choice) + b"]" + tail + _END

    def around_text(self, choice: Mapping[str, Any]) -> tuple[bytes, bytes]:
        """What stands before and after the text in a chunk that has nothing else to tell.

        `choice` has the number 0.5 where the JSON of the text goes.
        """
        before, after = encode_json(choice).split(b"0.5")
        return self._prefix + before, after + b"]" + _END

    def end(self) -> bytes:
        """What ends a stream."""
        if not self._usage_at_end:
            return _DONE
        return self._prefix + b'],"usage":' + encode_json(self.count.usage()) + _END + _DONE


class Events(Protocol[_Item]):
    """One kind of stream."""

    def of(self, item: _Item) -> bytes:
        """The events that an output gives, maybe none."""

    def end(self) -> bytes:
        """What ends a stream."""

    def failed(self, error: Exception) -> bytes:
        """What ends a stream that `error` has broken off."""


class Chunks:
    """The streams of OpenAI's completions, by what is the same in them."""

    writer: ChunkWriter

    def end(self) -> bytes:
        return self.writer.end()

    def failed(self, error: Exception) -> bytes:
        return b"data: " + encode_json(error_reply(error).body) + b"\n\n" + _DONE


async def stream(
    request: Request, outputs: AsyncGenerator[_T, None], events: Events[_T], headers: Mapping[str, str]
) -> Response:
    """The answer to a streaming request. Raises what `outputs` raises before its first output."""
    try:
        first = await while_connected(request.receive, anext(outputs))
    except ClientDisconnected:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    return EventStream(first, outputs, events, headers)


class EventStream(Response, Generic[_T]):
    """Sends events.

    Args:
        first: the first output: it was waited for, so that what fails before it is an error with a status.
        outputs: those that follow; closed in every case, which aborts what is unfinished.
    """

    def __init__(
        self, first: _T, outputs: AsyncGenerator[_T, None], events: Events[_T], headers: Mapping[str, str]
    ) -> None:
        self._first = first
        self._outputs = outputs
        self._events = events
        self.status_code = 200
        self.background = None
        all_headers = {
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-cache",
            "x-accel-buffering": "no",  # reverse proxies would hold the events back
            **headers,
        }
        self.raw_headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in all_headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await while_connected(receive, self._send(send))
        except ClientDisconnected:
            pass
        finally:
            await self._outputs.aclose()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            of = self._events.of
            await self._send_body(send, of(self._first))
            async for item in self._outputs:
                await self._send_body(send, of(item))
            last = self._events.end()
        except Exception as error:
            last = self._events.failed(error)
        await send({"type": "http.response.body", "body": last, "more_body": False})

    @staticmethod
    async def _send_body(send: Send, body: bytes) -> None:
        if body:
            await send({"type": "http.response.body", "body": body, "more_body": True})
