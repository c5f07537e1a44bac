"""Errors on their way out: every exception of a route or a middleware becomes an answer in the API's own form."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Coroutine
from typing import Any

from fastapi import Request, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from octavo.errors import unknown_name
from octavo.server.anthropic_errors import anthropic_body, is_anthropic
from octavo.server.errors import ApiError, error_reply
from octavo.server.paths import path_below_root

_LONGEST_PATH = 100  # characters of it in a message


def error_response(error: BaseException, scope: Scope) -> Response:
    """The whole answer to a request that ended with `error`."""
    reply = error_reply(error)
    body = anthropic_body(reply) if is_anthropic(path_below_root(scope)) else reply.body
    return Response(json.dumps(body), reply.status, reply.headers, media_type="application/json")


def exception_handler(route_paths: Collection[str]) -> Callable[[Request, Exception], Coroutine[Any, Any, Response]]:
    """The app's handler of the exceptions that `error_reply` knows; `route_paths` are offered for an unknown route."""

    async def handle(request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            if error.status_code == 405:
                error = _wrong_method(request, error)
            elif error.status_code == 404 and "endpoint" not in request.scope:
                error = ApiError(
                    404, unknown_name("route", request.scope["path"][:_LONGEST_PATH], route_paths), type="Not Found"
                )
        return error_response(error, request.scope)

    return handle


def _wrong_method(request: Request, error: HTTPException) -> ApiError:
    allowed = (error.headers or {}).get("Allow", "")
    return ApiError(405, f"the route does not take {request.method[:20]}; use {allowed}", headers={"Allow": allowed})


class CatchAll:
    """ASGI middleware: an exception that nobody handled is answered with 500 and its traceback logged."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def note_start(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, note_start)
        except Exception as error:
            if scope["type"] != "http":
                raise
            response = error_response(error, scope)
            if not started:  # else the connection is closed on an answer without an end
                await response(scope, receive, send)
