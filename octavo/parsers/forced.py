"""Calls that a request demands, or whose arguments it does: the JSON that the engine is made to write, and its reading.

With "required" the output is a list, `[{"name": "f", "parameters": {...}}, ...]`; with a named function it is that
function's arguments alone. Both are the same for all models, and are enforced by grammar. Text that is neither, from an
engine that does not enforce it or was cut off, is read like any other format.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from octavo.parsers.base import Schema, ToolParser
from octavo.parsers.json_text import calls, value
from octavo.parsers.source import SPACE, Steps
from octavo.parsers.tools import Tool

_ANY_OBJECT: dict[str, Any] = {"type": "object"}


class RequiredCalls(ToolParser):
    """A list of calls, and nothing else."""

    def read(self) -> Steps[None]:
        yield from self.source.run(SPACE)
        yield from calls(self)
        yield from self.source.rest(self.content)


class NamedCall(ToolParser):
    """The arguments of the one function in `tools`."""

    def read(self) -> Steps[None]:
        source = self.source
        yield from source.run(SPACE)
        if (yield from source.peek()) == "{":
            self.start_call(next(iter(self.tools)))
            complete = yield from value(source, self.arguments)
            self.end_call(complete=complete)
        yield from source.rest(self.content)


def required_schema(tools: Mapping[str, Schema | None], *, parallel: bool) -> dict[str, Any]:
    """The JSON schema of a list of calls: at least one, and only one unless `parallel`."""
    shapes: dict[str, Any] = {}
    items: list[dict[str, Any]] = []
    for index, (name, parameters) in enumerate(tools.items()):
        place = f"tool_{index}"
        shapes[place] = _moved(_object(parameters), f"#/$defs/{place}")
        items.append(
            {
                "type": "object",
                "properties": {"name": {"const": name}, "parameters": {"$ref": f"#/$defs/{place}"}},
                "required": ["name", "parameters"],
                "additionalProperties": False,
            }
        )
    schema = {"type": "array", "minItems": 1, "items": items[0] if len(items) == 1 else {"anyOf": items}}
    if not parallel:
        schema["maxItems"] = 1
    return {**schema, "$defs": shapes}


def named_schema(parameters: Schema | None) -> dict[str, Any]:
    """The JSON schema of a function's arguments."""
    return _object(parameters)


def strict_tag(tools: Iterable[Tool], parser: type[ToolParser]) -> dict[str, Any] | None:
    """The structural tag under which calls of strict tools have arguments by their schemas, and others any.

    None: no tool is strict, or the format has no such text around its arguments.
    """
    tools = tuple(tools)
    if not any(tool.strict for tool in tools):
        return None
    structures, triggers = [], set()
    for tool in tools:
        around = parser.around_arguments(tool.name)
        if around is None:
            return None
        trigger, begin, end = around
        triggers.add(trigger)
        schema = _object(tool.parameters) if tool.strict else _ANY_OBJECT
        structures.append({"begin": begin, "schema": schema, "end": end})
    return {"type": "structural_tag", "structures": structures, "triggers": sorted(triggers)}


def _object(parameters: Schema | None) -> dict[str, Any]:
    """A schema of parameters, which are an object even where it does not say so."""
    if not parameters:
        return {**_ANY_OBJECT, "properties": {}, "additionalProperties": False}
    return {**_ANY_OBJECT, **parameters}


def _moved(schema: Any, place: str) -> Any:
    """A schema whose references into itself hold when it stands at `place` of another one."""
    if isinstance(schema, Mapping):
        moved = {}
        for key, item in schema.items():
            is_reference = key == "$ref" and isinstance(item, str) and (item == "#" or item.startswith("#/"))
            moved[key] = place + item[1:] if is_reference else _moved(item, place)
        return moved
    if isinstance(schema, Sequence) and not isinstance(schema, str):
        return [_moved(item, place) for item in schema]
    return schema
