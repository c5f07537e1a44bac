"""What the HTTP process and the engine process say to each other. Msgpack of declared types (msgspec), never pickle.

To the engine: Open once, then Add and Finish as requests come and go, and Stop. From it: Opened, Ready, then one Step
per step that has news; Failed when it can't go on. Both processes run on one machine: monotonic times are comparable.
"""

from __future__ import annotations

import msgspec

from octavo.config import EngineArgs
from octavo.engine.opened import OpenedModel
from octavo.observability.stats import EngineStats
from octavo.request import FinishReason, Request, RequestUpdate


class Open(msgspec.Struct, tag=True, frozen=True):
    """Find this model and get ready."""

    args: EngineArgs


class Add(msgspec.Struct, tag=True, frozen=True):
    """Queue these requests."""

    requests: list[Request]


class Finish(msgspec.Struct, tag=True, frozen=True):
    """End requests before their tokens do; ids that are not known any more are passed over."""

    request_ids: list[str]
    reason: FinishReason
    stop_reason: int | str | None = None


class Stop(msgspec.Struct, tag=True, frozen=True):
    """End the process."""


class Opened(msgspec.Struct, tag=True, frozen=True):
    """The model is found and its configuration settled; its weights are being read."""

    model: OpenedModel


class Ready(msgspec.Struct, tag=True, frozen=True):
    """Requests are served from now on."""


class Step(msgspec.Struct, tag=True, frozen=True):
    """What one step did. A request that the engine had to end has the finish reason ERROR."""

    updates: list[RequestUpdate]
    stats: EngineStats
    num_added: int  # requests taken in since the start, so that the other side knows which ones `stats` count


class Failed(msgspec.Struct, tag=True, frozen=True):
    """The engine process ends."""

    kind: str  # the name of a class in octavo.errors
    message: str


ToEngine = Open | Add | Finish | Stop
FromEngine = Opened | Ready | Step | Failed

encode = msgspec.msgpack.Encoder().encode
_TO_ENGINE: msgspec.msgpack.Decoder[ToEngine] = msgspec.msgpack.Decoder(ToEngine)
_FROM_ENGINE: msgspec.msgpack.Decoder[FromEngine] = msgspec.msgpack.Decoder(FromEngine)


def decode_to_engine(data: bytes) -> ToEngine:
    """Raises msgspec.ValidationError when `data` is no such message."""
    return _TO_ENGINE.decode(data)


def decode_from_engine(data: bytes) -> FromEngine:
    """Raises msgspec.ValidationError when `data` is no such message."""
    return _FROM_ENGINE.decode(data)
