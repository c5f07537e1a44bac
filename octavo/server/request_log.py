"""One log line and one observation of the HTTP metrics for every request.

Both name the route by its template, such as /v1/models/{model_id:path}: a path as sent would bring in a client's text
and, in the metrics, a series for each.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from octavo.log import get_logger

if TYPE_CHECKING:
    from octavo.observability.prometheus import ServerMetrics

logger = get_logger(__name__)

UNKNOWN = "unknown"  # what was sent matched no route, or was refused before it was routed
CLIENT_GONE = 499  # no answer was begun: the client left first
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})
_PROBES = frozenset({"/health", "/ready", "/ping", "/metrics", "/load"})  # asked for every few seconds


class RequestLog:
    """ASGI middleware that watches; it changes nothing."""

    def __init__(self, app: ASGIApp, *, metrics: ServerMetrics, log_requests: bool) -> None:
        self._app = app
        self._metrics = metrics
        self._log_requests = log_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        status = CLIENT_GONE

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, note_status)
        finally:
            seconds = time.perf_counter() - start
            method = scope["method"] if scope["method"] in _METHODS else "OTHER"
            handler = getattr(scope.get("route"), "path", UNKNOWN)
            self._metrics.http(method, handler, status, seconds)
            if self._log_requests:
                level = logging.DEBUG if handler in _PROBES and status < 400 else logging.INFO
                client = scope.get("client") or ("local", 0)
                logger.log(level, "%s %s %s %d (%.3f s)", client[0], method, handler, status, seconds)
