"""From an error to the answer that a client gets: status, OpenAI's error object, headers.

`error_reply` is the one table. What a client may read is decided here: the messages of errors that a request caused
go out, those of errors from the depths go to the log and a fixed sentence goes out in their place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from http.client import responses
from typing import Any, NamedTuple

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from octavo.errors import EngineDeadError, EngineError, NotFoundError, OverloadedError, RequestError
from octavo.log import get_logger
from octavo.server.body_errors import body_problem, parse_problem

logger = get_logger(__name__)

RETRY_AFTER_SECONDS = 1
_ENGINE_DEAD = "the engine has stopped; the server ends and has to be started again"
_ENGINE_FAILED = "the engine failed and ended this request; send it again"
_INTERNAL = "internal error; the server's log says more"
_PARSE_FAILED = "There was an error parsing the body"  # FastAPI's words; the cause says more
_TYPES = {
    400: "BadRequestError",
    404: "NotFoundError",
    413: "Content Too Large",
    500: "InternalServerError",
}
_MAX_MESSAGE = 2000  # characters
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{6,}")


class ApiError(Exception):
    """An answer in the form of an exception, for what has no class in `octavo.errors`."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str | None = None,
        param: str | None = None,
        code: int | str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type
        self.param = param
        self.code = code
        self.headers = dict(headers or {})


class ErrorReply(NamedTuple):
    status: int
    body: dict[str, Any]  # {"error": {"message", "type", "param", "code"}}
    headers: dict[str, str]


class ErrorObject(BaseModel):
    message: str
    type: str
    param: str | None = None
    code: int | str | None = None


class ErrorResponse(BaseModel):
    """The body of every answer that is an error."""

    error: ErrorObject


def error_reply(error: BaseException) -> ErrorReply:
    """The answer to a request that ended with `error`. What the client may not read is logged."""
    if isinstance(error, ApiError):
        return _reply(error.status, error.message, error.type, error.param, error.code, error.headers)
    if isinstance(error, NotFoundError):
        return _reply(404, str(error), param=error.param)
    if isinstance(error, RequestError):
        return _reply(400, str(error), param=error.param)
    if isinstance(error, RequestValidationError):
        return _reply(400, *body_problem(error.errors(), error.body))
    if isinstance(error, HTTPException):
        if error.detail == _PARSE_FAILED and error.__cause__ is not None:
            return _reply(400, parse_problem(error.__cause__), "Bad Request")
        return _reply(error.status_code, str(error.detail), _phrase(error.status_code), headers=error.headers)
    if isinstance(error, OverloadedError):
        return _reply(503, str(error), headers={"Retry-After": str(RETRY_AFTER_SECONDS)})
    if isinstance(error, EngineDeadError):
        logger.error("%s", error)
        return _reply(503, _ENGINE_DEAD)
    if isinstance(error, EngineError):
        logger.error("%s", error)
        return _reply(500, _ENGINE_FAILED)
    logger.error("a request failed", exc_info=error)
    return _reply(500, _INTERNAL)


def _reply(
    status: int,
    message: str,
    type: str | None = None,
    param: str | None = None,
    code: int | str | None = None,
    headers: Mapping[str, str] | None = None,
) -> ErrorReply:
    fields = {
        "message": _clean(message),
        "type": type or _TYPES.get(status) or _phrase(status),
        "param": None if param is None else _clean(param),
        "code": status if code is None else code,
    }
    return ErrorReply(status, {"error": fields}, dict(headers or {}))


def _phrase(status: int) -> str:
    # The standard library's name of 413 differs between versions of Python.
    return _TYPES[413] if status == 413 else responses.get(status, "Error")


def _clean(text: str) -> str:
    """Text that can be sent, and tells nothing of this process."""
    if len(text) > _MAX_MESSAGE:
        text = text[: _MAX_MESSAGE - 3] + "..."
    return _ADDRESS.sub("0x...", text).encode("utf-8", "backslashreplace").decode()
