"""HTTPServer: uvicorn as octavo runs it. Signals are somebody else's matter; headers have a limit."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
from collections.abc import Generator
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEADER_BYTES = 64 * 1024  # of a request's target and all its headers
_KEEP_ALIVE_SECONDS = 5  # an idle connection is closed after this


class LimitedProtocol(HttpToolsProtocol):
    """The HTTP protocol with a limit on what stands before the body: more is answered with 400."""

    _num_header_bytes = 0

    def on_message_begin(self) -> None:
        self._num_header_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def _count(self, num_bytes: int) -> None:
        self._num_header_bytes += num_bytes
        if self._num_header_bytes > MAX_HEADER_BYTES:
            raise ValueError(f"more than {MAX_HEADER_BYTES} bytes of headers")


class HTTPServer:
    """A uvicorn server over a socket that listens already."""

    def __init__(
        self,
        app: Any,
        *,
        log_level: str,
        shutdown_timeout: float,
        ssl_keyfile: str | None,
        ssl_certfile: str | None,
        ssl_ca_certs: str | None,
        ssl_cert_reqs: int,
    ) -> None:
        _log_like_octavo(log_level)
        config = uvicorn.Config(
            app,
            http=LimitedProtocol,
            ws="none",
            log_config=None,
            log_level=log_level,
            access_log=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=shutdown_timeout,  # type: ignore[arg-type]  # seconds; fractions do
            ssl_keyfile=ssl_keyfile,
            ssl_certfile=ssl_certfile,
            ssl_ca_certs=ssl_ca_certs,
            ssl_cert_reqs=ssl.VerifyMode(ssl_cert_reqs),
        )
        self._server = _Uvicorn(config)

    async def run(self, listener: socket.socket) -> None:
        """Serve until `stop`, and then until the requests under way have finished."""
        await self._server.serve(sockets=[listener])

    def stop(self, *, at_once: bool = False) -> None:
        """Accept no more connections and let `run` end: after the requests under way, or without waiting for them."""
        self._server.should_exit = True
        if at_once:
            self._server.force_exit = True


class _Uvicorn(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def _log_like_octavo(level: str) -> None:
    """uvicorn's own lines go where octavo's go."""
    logger = logging.getLogger("uvicorn")
    logger.handlers = logging.getLogger("octavo").handlers
    logger.setLevel(level.upper() if level != "trace" else logging.DEBUG)
    logger.propagate = False
