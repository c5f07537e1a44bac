"""Errors as Anthropic's clients read them, on the routes that they call. Which error it is, is decided elsewhere."""

from __future__ import annotations

from typing import Any

from octavo.server.errors import ErrorReply

_ROUTES = "/v1/messages"
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def is_anthropic(path: str) -> bool:
    """Whether a path, below the root, is one of Anthropic's."""
    return path == _ROUTES or path.startswith(_ROUTES + "/")


def anthropic_body(reply: ErrorReply) -> dict[str, Any]:
    """The body of an error."""
    kind = _TYPES.get(reply.status) or ("api_error" if reply.status >= 500 else "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": reply.body["error"]["message"]}}
