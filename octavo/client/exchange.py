"""One HTTP exchange as cheap as Python allows: a request out, the body of the answer to a callback as it arrives.

For measurements, whose client shares the machine with the server. Each exchange has a connection of its own. It knows
no redirects, no compression and no proxies; all else goes through `Endpoint.client`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import cast

import httptools

from octavo.client.endpoint import CONNECT_TIMEOUT, Endpoint
from octavo.client.errors import broken_off, unreachable


def post_bytes(endpoint: Endpoint, path: str, body: bytes) -> bytes:
    """A POST request of JSON, ready for the wire."""
    port = "" if endpoint.port in (80, 443) else f":{endpoint.port}"
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    headers = {
        "host": f"{host}{port}",
        "content-type": "application/json",
        "content-length": str(len(body)),
        "connection": "close",
        **endpoint.headers,
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {endpoint.path_prefix}{path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body


async def exchange(
    endpoint: Endpoint, request: bytes, on_body: Callable[[bytes], None], tls: ssl.SSLContext | None
) -> int:
    """Send `request`, hand each piece of the answer's body to `on_body`, and return the status.

    Raises:
        EngineError: no connection, or one that ends before the answer does.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[int] = loop.create_future()

    def protocol() -> _Exchange:
        return _Exchange(request, on_body, done)

    try:
        if endpoint.socket is not None:
            connecting = loop.create_unix_connection(protocol, endpoint.socket)
        else:
            connecting = loop.create_connection(protocol, endpoint.host, endpoint.port, ssl=tls)
        transport, _ = await asyncio.wait_for(connecting, CONNECT_TIMEOUT)
    except (OSError, asyncio.TimeoutError) as error:
        raise unreachable(endpoint.url, error) from None
    try:
        return await done
    except ConnectionError:
        raise broken_off(endpoint.url) from None
    finally:
        transport.close()


class _Exchange(asyncio.Protocol):
    def __init__(self, request: bytes, on_body: Callable[[bytes], None], done: asyncio.Future[int]) -> None:
        self._request = request
        self._done = done
        self.on_body = on_body  # called by the parser, which looks for its callbacks when it is made
        self._parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.WriteTransport, transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        if self._done.done():
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._done.set_exception(ConnectionError(str(error)))

    def on_message_complete(self) -> None:
        self._done.set_result(self._parser.get_status_code())

    def connection_lost(self, error: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(ConnectionError("the connection ended before the answer did"))
