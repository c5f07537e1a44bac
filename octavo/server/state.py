"""What a route reaches from its request: the engine, the settings, and the name of the model it serves."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from fastapi import FastAPI, Request

from octavo.errors import NotFoundError, shown
from octavo.server.settings import ServerSettings

if TYPE_CHECKING:
    from octavo.engine.async_engine import AsyncEngine


def attach(app: FastAPI, engine: AsyncEngine, settings: ServerSettings) -> None:
    """Make both reachable from the app's requests."""
    app.state.engine = engine
    app.state.settings = settings


def engine_of(request: Request) -> AsyncEngine:
    return cast("AsyncEngine", request.app.state.engine)


def settings_of(request: Request) -> ServerSettings:
    return cast(ServerSettings, request.app.state.settings)


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
