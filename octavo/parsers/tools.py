"""Tools and the choice among them, as a request gives them, whatever its API: `Tool`, `ToolChoice`, `ToolRequest`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from octavo.errors import InvalidRequestError, shown, unknown_name

MAX_TOOLS = 1024
_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,256}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function that the model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None  # a JSON schema of an object; None: it takes none
    strict: bool = False  # its arguments are to follow the schema

    def openai_form(self) -> dict[str, Any]:
        """The tool as chat templates expect it."""
        function: dict[str, Any] = {"name": self.name}
        if self.description is not None:
            function["description"] = self.description
        function["parameters"] = self.parameters or {"type": "object", "properties": {}}
        return {"type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class ToolChoice:
    kind: Literal["none", "auto", "required", "named"]
    name: str | None = None  # of the function, if named


NONE, AUTO, REQUIRED = ToolChoice("none"), ToolChoice("auto"), ToolChoice("required")


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolRequest:
    """The tools of one request."""

    tools: tuple[Tool, ...] = ()
    choice: ToolChoice = NONE
    parallel: bool = True  # more than one call may be made

    @property
    def by_name(self) -> dict[str, dict[str, Any]]:
        """The schemas of the parameters of what may be called."""
        chosen = (tool for tool in self.tools if self.choice.kind != "named" or tool.name == self.choice.name)
        return {} if self.choice.kind == "none" else {tool.name: tool.parameters or {} for tool in chosen}

    @property
    def is_forced(self) -> bool:
        return self.choice.kind in ("required", "named")


def tool_request(
    tools: Iterable[Tool], choice: ToolChoice | None, parallel: bool | None, *, choice_param: str = "tool_choice"
) -> ToolRequest:
    """The tools of a request, checked together.

    Args:
        choice: None: it is left to the model if there are tools.
        choice_param: the name that errors give to the field with the choice.

    Raises:
        InvalidRequestError: a bad or doubled name, a bad schema, or a choice that does not go with the tools.
    """
    tools = tuple(tools)
    if len(tools) > MAX_TOOLS:
        raise InvalidRequestError(f"tools has {len(tools)} entries, at most {MAX_TOOLS} are allowed", param="tools")
    seen: set[str] = set()
    for index, tool in enumerate(tools):
        where = f"tools[{index}]"
        if not _NAME.fullmatch(tool.name):
            raise InvalidRequestError(
                f"{where}: a function's name must be 1 to 256 letters, digits, _, -, ., : or /, got {shown(tool.name)}",
                param="tools",
            )
        if tool.name in seen:
            raise InvalidRequestError(f"{where}: there is a function {tool.name!r} already", param="tools")
        seen.add(tool.name)
        check_parameters(tool.parameters, f"{where} ({tool.name}): parameters")
    if choice is None:
        choice = AUTO if tools else NONE
    if choice.kind != "none" and not tools:
        raise InvalidRequestError(
            f"{choice_param} is {choice.name or choice.kind!r}, but there are no tools; give tools, or leave "
            f"{choice_param} out",
            param=choice_param,
        )
    if choice.kind == "named" and choice.name not in seen:
        raise InvalidRequestError(
            unknown_name("function in " + choice_param, str(choice.name), seen), param=choice_param
        )
    return ToolRequest(tools=tools, choice=choice, parallel=parallel is not False)


def check_parameters(schema: Any, where: str) -> None:
    """Refuse what can't be the schema of a function's parameters.

    Raises:
        InvalidRequestError: it is no schema of an object.
    """

    def fail(what: str) -> InvalidRequestError:
        return InvalidRequestError(f"{where} {what}", param="tools")

    if schema is None:
        return
    if not isinstance(schema, dict):
        raise fail(f"must be a JSON schema, got {shown(schema)}")
    if schema.get("type", "object") != "object":
        raise fail(f"must be of type 'object', got {shown(schema['type'])}")
    properties = schema.get("properties", {})
    if not isinstance(properties, dict):
        raise fail(f"has properties that are no object: {shown(properties)}")
    for name, property_schema in properties.items():
        if not isinstance(property_schema, dict | bool):
            raise fail(f"has a property {name!r} that is no JSON schema: {shown(property_schema)}")
    required = schema.get("required", [])
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        raise fail(f"has a required that is no list of names: {shown(required)}")
