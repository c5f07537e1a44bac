"""Fields of a request that nobody knows: never dropped in silence. A warning and a header, or an error if so set."""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import Request

from octavo.errors import InvalidRequestError, unknown_name
from octavo.log import get_logger
from octavo.server.protocol.base import RequestModel
from octavo.server.state import settings_of

logger = get_logger(__name__)

IGNORED_FIELDS_HEADER = "x-octavo-ignored-fields"
_MAX_NAMES = 20
_MAX_NAME = 64  # characters


def ignored_fields(request: Request, body: RequestModel) -> dict[str, str]:
    """The response headers that name the unknown fields of `body`; none when there are none.

    Raises:
        InvalidRequestError: there is one, and the server's fields are strict.
    """
    unknown = list(_unknown(body))
    if not unknown:
        return {}
    if settings_of(request).strict_fields:
        name, owner = unknown[0]
        prefix = name.rpartition(".")[0]
        known = [f"{prefix}.{field}" if prefix else field for field in owner.model_fields]
        raise InvalidRequestError(unknown_name("field", name[:_MAX_NAME], known), param=name[:_MAX_NAME])
    names = ", ".join(_printable(name) for name, _ in unknown[:_MAX_NAMES])
    if len(unknown) > _MAX_NAMES:
        names += ", ..."
    logger.warning("%s: unknown fields are ignored: %s", request.scope["route"].path, names)
    return {IGNORED_FIELDS_HEADER: names}


def _unknown(body: RequestModel, prefix: str = "") -> Iterator[tuple[str, type[RequestModel]]]:
    """The dotted names of unknown fields, each with the model that does not know it."""
    for name in body.model_extra or ():
        yield prefix + name, type(body)
    for name in body.model_fields_set:
        value = getattr(body, name)
        if isinstance(value, RequestModel):
            yield from _unknown(value, f"{prefix}{name}.")


def _printable(name: str) -> str:
    """A client's name as it may stand in a header and in a log line."""
    return "".join(c if " " <= c <= "~" and c != "," else "?" for c in name[:_MAX_NAME])
