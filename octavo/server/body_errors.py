"""What is wrong with a request's body, as one sentence that names the field. It knows pydantic's error entries."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from octavo.errors import shown

_NAMES_SHOWN = 5  # other fields that are wrong, too
_LONGEST_NAME = 100
_ALLOWED = {
    "string_type": "a string",
    "int_type": "an integer",
    "int_parsing": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "string_unicode": "Unicode text without lone surrogates",
}


class BodyProblem(NamedTuple):
    message: str
    type: str
    param: str | None  # a dotted path such as messages.0.content


def parse_problem(cause: BaseException) -> str:
    """Why the bytes of a body are no JSON, where the parser failed with something else than a place."""
    if isinstance(cause, RecursionError):
        return "the body is nested too deep"
    if isinstance(cause, UnicodeError):
        return "the body is no valid UTF-8"
    if isinstance(cause, json.JSONDecodeError):
        return f"the body is no valid JSON: {cause.msg} at character {cause.pos}"
    if isinstance(cause, ValueError):
        return "the body holds an integer of too many digits"
    return "the body could not be read"


def body_problem(errors: Sequence[Any], body: Any) -> BodyProblem:
    """One sentence for pydantic's `errors` about `body`: the first field that is wrong, and the names of others."""
    if isinstance(body, bytes):
        return BodyProblem(
            "the body is not sent as JSON; send it with the header Content-Type: application/json", "Bad Request", None
        )
    if errors[0]["type"] == "json_invalid":
        where = errors[0]["loc"][-1]
        return BodyProblem(
            f"the body is no valid JSON: {errors[0]['ctx']['error']} at character {where}", "Bad Request", None
        )
    paths = [_path(error["loc"], body, error["type"] == "missing") for error in errors]
    field = paths[0][:1]
    # A field of several allowed types has an error for each; the one that went deepest into it says most.
    chosen = max((path for path in paths if path[:1] == field), key=len)
    found = [error for error, path in zip(errors, paths, strict=True) if path == chosen]
    name = ".".join(chosen)
    message = f"{name or 'the body'} {_complaint(found)}"
    others = list(dict.fromkeys(path[0] for path in paths if path and path[:1] != field))
    if others:
        more = ", ..." if len(others) > _NAMES_SHOWN else ""
        message += f" (wrong as well: {', '.join(others[:_NAMES_SHOWN])}{more})"
    return BodyProblem(message, "Bad Request", name or None)


def _path(loc: Sequence[int | str], body: Any, is_missing: bool) -> tuple[str, ...]:
    """The keys of `loc` that lead into the body; the others name alternatives of a type."""
    path: list[str] = []
    here = body
    for key in loc[1:]:
        if key in here if isinstance(here, dict) else isinstance(here, list) and isinstance(key, int):
            here = here[key]
            path.append(str(key)[:_LONGEST_NAME])
    if is_missing and len(loc) > 1:
        path.append(str(loc[-1]))
    return tuple(path)


def _complaint(errors: Sequence[Any]) -> str:
    """What is wrong with one field; each error is about one of its allowed types."""
    first = errors[0]
    if first["type"] == "missing":
        return "is missing; it is required"
    allowed = list(dict.fromkeys(_allowed(error) for error in errors))
    if first["type"] == "too_deep":
        return allowed[0]
    return f"must be {' or '.join(allowed)}, got {shown(first['input'])}"


def _allowed(error: Any) -> str:
    message: str = error["msg"]
    return _ALLOWED.get(error["type"]) or message.removeprefix("Input should be ").removeprefix("Value error, ")
