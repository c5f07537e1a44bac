"""What goes wrong between a command and a server, as octavo's errors with the server's own words."""

from __future__ import annotations

from typing import Any

import msgspec

from octavo.errors import (
    ConfigError,
    ContextLengthError,
    EngineError,
    InvalidRequestError,
    NotFoundError,
    OctavoError,
    OverloadedError,
    shown,
)


def unreachable(url: str, reason: object) -> EngineError:
    """No connection to the server, or none that lasts until the answer is there."""
    why = str(reason) or type(reason).__name__
    return EngineError(
        f"no server answers at {url} ({why}); start one with `octavo serve`, or give the address of a running one "
        "with --url"
    )


def broken_off(url: str) -> EngineError:
    return EngineError(f"the connection to {url} ended before the answer did; the server's log may say why")


def server_error(status: int, body: bytes) -> OctavoError:
    """The error of a response that is not 200, whatever its body holds."""
    try:
        content = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        content = body.decode(errors="replace")
    return error_in(content, status)


def error_in(content: Any, status: int = 500) -> OctavoError:
    """The error of decoded JSON `{"error": {...}}`; `status` counts where the object has no numeric code."""
    given = content.get("error", content) if isinstance(content, dict) else content
    fields = given if isinstance(given, dict) else {}
    code, param = fields.get("code"), fields.get("param")
    message = str(fields["message"]) if fields.get("message") else shown(given, 300)
    if isinstance(code, int) and 400 <= code < 600:
        status = code
    if status in (401, 403):
        return ConfigError(f"the server refuses the API key: {message}; give it with --api-key or in OCTAVO_API_KEY")
    if status == 404:
        return NotFoundError(message, param=param)
    if status in (429, 503):
        return OverloadedError(message)
    if 400 <= status < 500:
        is_length = code == "context_length_exceeded" or "context length" in message or "max_model_len" in message
        return (ContextLengthError if is_length else InvalidRequestError)(message, param=param)
    return EngineError(f"the server answers {status}: {message}")
