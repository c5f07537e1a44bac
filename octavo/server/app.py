"""The application: routes, what stands around them, and in which order. It knows no sockets and no processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from octavo.errors import OctavoError
from octavo.server.errors import ApiError, ErrorResponse
from octavo.server.failures import CatchAll, exception_handler
from octavo.server.keys import OPEN_PATHS, KeyCheck
from octavo.server.limits import BodyLimit
from octavo.server.request_log import RequestLog
from octavo.server.routes import chat, completions, health, messages, models, page, responses, tokenize
from octavo.server.settings import ServerSettings
from octavo.server.state import attach
from octavo.server.user_middleware import user_middleware
from octavo.version import __version__

if TYPE_CHECKING:
    from octavo.engine.async_engine import AsyncEngine

_ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorResponse, "description": "The request is wrong; the message says how"},
    "5XX": {"model": ErrorResponse, "description": "The server can't serve it, or not now"},
}


def create_app(engine: AsyncEngine, settings: ServerSettings) -> FastAPI:
    """The server as an ASGI application.

    Raises:
        ConfigError: a middleware of the settings can't be imported.
    """
    routers = [routes.router for routes in (health, models, tokenize, chat, completions, responses, messages, page)]
    paths = {route.path for router in routers for route in router.routes if isinstance(route, APIRoute)}
    handle = exception_handler({path for path in paths if path == "/" or not path.endswith("/")})
    app = FastAPI(
        title="octavo",
        version=__version__,
        docs_url=None if settings.disable_docs else "/docs",
        redoc_url=None if settings.disable_docs else "/redoc",
        openapi_url=None if settings.disable_docs else "/openapi.json",
        redirect_slashes=False,  # a redirect would be built from the Host header
        middleware=_middleware(engine, settings),
        exception_handlers=dict.fromkeys((ApiError, OctavoError, HTTPException, RequestValidationError), handle),
        responses=_ERRORS,
    )
    app.root_path = settings.root_path.rstrip("/")  # with it, paths are taken with and without the prefix
    attach(app, engine, settings)
    for router in routers:
        app.include_router(router)
    return app


def _middleware(engine: AsyncEngine, settings: ServerSettings) -> list[Middleware]:
    """What stands around the routes, outermost first."""
    stack = [
        Middleware(RequestLog, metrics=engine.metrics, log_requests=settings.log_requests),
        Middleware(BodyLimit, max_body_bytes=settings.max_body_bytes),
        Middleware(
            CORSMiddleware,
            allow_origins=settings.allowed_origins,
            allow_methods=settings.allowed_methods,
            allow_headers=settings.allowed_headers,
            allow_credentials=settings.allow_credentials,
        ),
        Middleware(CatchAll),
    ]
    if settings.api_keys:
        open_paths = OPEN_PATHS if settings.metrics_need_key else OPEN_PATHS | {"/metrics"}
        stack.append(Middleware(KeyCheck, api_keys=settings.api_keys, open_paths=open_paths))
    return stack + [user_middleware(path) for path in reversed(settings.middleware)]
