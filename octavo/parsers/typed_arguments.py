"""Arguments that a format writes as bare text, one by one, as the JSON that the function's schema says they are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from octavo.parsers.base import Schema, ToolParser
from octavo.parsers.json_text import json_string, parsed
from octavo.parsers.literal import as_json

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_MAX_DEPTH = 8
_TYPE_OF = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}


class TypedArguments:
    """The arguments of one call, which has been started. For each: `begin`, `write` its text, `end`. Then `close`."""

    def __init__(self, parser: ToolParser, name: str) -> None:
        self._parser = parser
        self._schema = parser.tools.get(name, {})
        self._properties = self._schema.get("properties")
        self._before = "{"
        self._types: set[str] | None = None
        self._texts: list[str] | None = None  # of a value that is written when it is there; None: it goes through

    def begin(self, key: str) -> None:
        known = self._properties.get(key) if isinstance(self._properties, Mapping) else None
        self._types = types_of(known, self._schema)
        self._before += f'"{json_string(key)}": '
        self._texts = None if self._types == {"string"} else []
        if self._texts is None:
            self._parser.arguments(f'{self._before}"')

    def write(self, text: str) -> None:
        if self._texts is None:
            self._parser.arguments(json_string(text))
        else:
            self._texts.append(text)

    def end(self) -> None:
        value = '"' if self._texts is None else self._before + converted("".join(self._texts), self._types)
        self._parser.arguments(value)
        self._before = ", "

    def close(self) -> None:
        """There are no more."""
        self._parser.arguments("{}" if self._before == "{" else "}")
        self._parser.end_call()


def types_of(schema: Any, root: Schema, depth: int = 0) -> set[str] | None:
    """The JSON types that a schema allows; None: it does not say."""
    if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
        return None
    kind = schema.get("type")
    if isinstance(kind, str):
        return {kind}
    if isinstance(kind, list):
        return {item for item in kind if isinstance(item, str)}
    for key in ("enum", "const"):
        if key in schema:
            values = schema[key] if key == "enum" and isinstance(schema[key], list) else [schema[key]]
            return {_TYPE_OF.get(type(item), "null") for item in values}
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/"):
        found: Any = root
        for step in reference[2:].split("/"):
            found = found.get(step) if isinstance(found, Mapping) else None
        return types_of(found, root, depth + 1)
    for key in ("anyOf", "oneOf"):
        options = schema.get(key)
        if isinstance(options, list):
            types = [types_of(option, root, depth + 1) for option in options]
            return None if None in types else {name for some in types for name in some or ()}
    return None


def converted(text: str, types: set[str] | None) -> str:
    """A value as JSON of one of `types`; a string where it is none of them."""
    bare = text.strip()
    if types is None:
        return bare if _is_json(bare) else f'"{json_string(text)}"'
    if "null" in types and bare.lower() in ("null", "none"):
        return "null"
    if types & {"integer", "number"} and _NUMBER.fullmatch(bare):
        return bare
    if "boolean" in types and bare.lower() in ("true", "false"):
        return bare.lower()
    if types & {"object", "array"} and bare[:1] in ("{", "["):
        as_it_is = bare if _is_json(bare) else as_json(bare)
        if as_it_is is not None:
            return as_it_is
    return bare if "string" not in types and _is_json(bare) else f'"{json_string(text)}"'


def _is_json(text: str) -> bool:
    try:
        parsed(text)
    except ValueError:
        return False
    return True
