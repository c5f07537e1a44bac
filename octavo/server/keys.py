"""API keys: which routes are open without one, and how a key is compared.

What is not named as open is closed, unknown routes included. The path is the one that the router sees; nothing here
reads the Host header.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection, Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from octavo.server.errors import ApiError
from octavo.server.failures import error_response
from octavo.server.paths import path_below_root

# The page asks for a key itself; a browser could not send one for the page's own files.
OPEN_PATHS = frozenset({"/", "/page/page.css", "/page/page.js", "/health", "/ready", "/ping", "/version"})


class KeyCheck:
    """ASGI middleware: 401 without `Authorization: Bearer KEY` or `x-api-key: KEY`, KEY being one of `api_keys`."""

    def __init__(self, app: ASGIApp, *, api_keys: Iterable[str], open_paths: Collection[str]) -> None:
        self._app = app
        self._digests = [hashlib.sha256(key.encode()).digest() for key in api_keys]
        self._open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] == "http" and path_below_root(scope) not in self._open_paths:
            problem = self._problem(scope)
            if problem is None:
                await self._app(scope, receive, send)
            else:
                error = ApiError(401, problem, headers={"WWW-Authenticate": "Bearer"})
                await error_response(error, scope)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _problem(self, scope: Scope) -> str | None:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        keys = [value for name, value in scope["headers"] if name == b"x-api-key"]  # as Anthropic's clients send it
        if len(keys) > 1:
            return "the x-api-key header must be one"
        if given:
            scheme, _, key = given[0].partition(b" ")
            if len(given) > 1 or scheme.lower() != b"bearer":
                return "the Authorization header must be one, of the form Bearer KEY"
            keys.append(key)
        if not keys:
            return "an API key is needed; send it as the header Authorization: Bearer KEY, or x-api-key: KEY"
        digests = [hashlib.sha256(key.strip()).digest() for key in keys]
        # Every key is compared to its end, so that the time tells nothing of which one was near.
        matches = [hmac.compare_digest(digest, known) for digest in digests for known in self._digests]
        return None if any(matches) else "the API key is wrong; send one that the server was started with"
