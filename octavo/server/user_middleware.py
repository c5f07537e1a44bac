"""Middleware that a user brings, by import path: a class of ASGI middleware, or an async function of a request."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware

from octavo.errors import ConfigError


def user_middleware(import_path: str) -> Middleware:
    """The middleware at `import_path` ("module.name"): a class `(app)`, or an async function `(request, call_next)`.

    Raises:
        ConfigError: there is no such thing, or it is neither.
    """
    module_name, _, name = import_path.rpartition(".")
    if not module_name:
        raise ConfigError(f"middleware {import_path!r} is no import path; give it as module.name")
    try:
        found: Any = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"middleware {import_path!r} can't be imported: {error}; give the path of a class or an async function"
        ) from None
    if inspect.iscoroutinefunction(found):
        return Middleware(BaseHTTPMiddleware, dispatch=found)
    if isinstance(found, type):
        make: Any = found
        return Middleware(make)
    raise ConfigError(
        f"middleware {import_path!r} is {type(found).__name__}; it must be a class or an async function "
        "(request, call_next)"
    )
