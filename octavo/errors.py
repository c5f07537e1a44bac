"""The errors that octavo raises, and the wording that they share.

    OctavoError
    ├── ConfigError (ValueError)           an argument of the engine is wrong; nothing was started
    ├── ModelError                         the model can't be used
    │   ├── ModelNotFoundError             no such folder, file or hub id, or it can't be fetched
    │   ├── UnsupportedModelError          a model that octavo has no code for
    │   └── WeightError                    weights missing, left over, damaged or of the wrong shape
    ├── RequestError (ValueError)          one request is wrong; others go on. `param` names the field
    │   ├── InvalidRequestError            a field has a wrong type or value
    │   ├── ContextLengthError             the prompt does not fit the context
    │   └── NotFoundError                  the request names something that is not there
    └── EngineError                        the engine can't go on, or not now
        ├── EngineDeadError                the engine has stopped; build a new one
        ├── OutOfMemoryError               memory is too small; names the option and a value that fits
        └── OverloadedError                too many requests wait; try again later

Each message says what was given, what is allowed and what to do. This module knows no HTTP codes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class OctavoError(Exception):
    """The root: `except OctavoError` catches all that octavo raises on purpose."""


class ConfigError(OctavoError, ValueError):
    """An argument of the engine has a wrong name, type or value."""


class ModelError(OctavoError):
    """The model can't be used."""


class ModelNotFoundError(ModelError):
    """There is no such model, or it can't be fetched from here."""


class UnsupportedModelError(ModelError):
    """The model needs something that octavo does not have."""


class WeightError(ModelError):
    """The weights do not fit the model, or their file is damaged."""


class RequestError(OctavoError, ValueError):
    """One request is wrong. `param` is the name of the field, None where no single field is to blame."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class InvalidRequestError(RequestError):
    """A field of the request has a wrong type or value."""


class ContextLengthError(RequestError):
    """The prompt, or the prompt and what it asks for, is longer than the context."""


class NotFoundError(RequestError):
    """The request names a model, an adapter or a response that is not there."""


class EngineError(OctavoError):
    """The engine can't serve."""


class EngineDeadError(EngineError):
    """The engine has stopped and can't be used again."""


class OutOfMemoryError(EngineError):
    """Memory is too small for what was asked."""


class OverloadedError(EngineError):
    """The queue is full."""


def unknown_name(what: str, given: str, valid: Iterable[str]) -> str:
    """A sentence for a name that does not exist: what was given, the nearest names, or all when none is near."""
    names = sorted(valid)
    near = difflib.get_close_matches(given, names, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"valid: {', '.join(names)}"
    return f"unknown {what} {given!r}; {hint}"


def shown(value: Any, limit: int = 80) -> str:
    """`value` as it may stand in a message: its repr, cut to `limit` characters."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
