"""What a route reaches from its request: the engine, the settings, the stored responses, the name of its model."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from fastapi import FastAPI, Request

from octavo.errors import NotFoundError, shown
from octavo.server.reply import ReplyFormats
from octavo.server.response_background import BackgroundResponses
from octavo.server.response_store import ResponseStore
from octavo.server.settings import ServerSettings

if TYPE_CHECKING:
    from octavo.engine.async_engine import AsyncEngine


def attach(app: FastAPI, engine: AsyncEngine, settings: ServerSettings) -> None:
    """Make them reachable from the app's requests, what follows from them, and a store for responses.

    Raises:
        ConfigError: the settings name a parser that there is not.
    """
    app.state.engine = engine
    app.state.settings = settings
    app.state.formats = ReplyFormats.choose(engine, settings)
    app.state.background = BackgroundResponses(settings.response_store_max_responses)
    app.state.responses = ResponseStore(
        max_responses=settings.response_store_max_responses,
        max_bytes=settings.response_store_max_bytes,
        ttl=settings.response_store_ttl,
    )


def engine_of(request: Request) -> AsyncEngine:
    return cast("AsyncEngine", request.app.state.engine)


def settings_of(request: Request) -> ServerSettings:
    return cast(ServerSettings, request.app.state.settings)


def responses_of(request: Request) -> ResponseStore:
    return cast(ResponseStore, request.app.state.responses)


def background_of(request: Request) -> BackgroundResponses:
    return cast(BackgroundResponses, request.app.state.background)


def formats_of(request: Request) -> ReplyFormats:
    return cast(ReplyFormats, request.app.state.formats)


def check_model(request: Request, model: str | None) -> str:
    """The name to answer with: the one asked for, or the first served one when none was named.

    Raises:
        NotFoundError: no such model is served.
    """
    names = settings_of(request).served_model_names
    if not model:
        return names[0]
    if model not in names:
        valid = ", ".join(map(repr, names))
        raise NotFoundError(f"there is no model {shown(model)} here; this server has {valid}", param="model")
    return model
