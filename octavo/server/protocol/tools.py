"""Tools, the choice among them and calls as chat completions write them, and how they become a ToolRequest."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from octavo.errors import InvalidRequestError, shown
from octavo.parsers.tools import AUTO, NONE, REQUIRED, Tool, ToolChoice, ToolRequest, tool_request
from octavo.server.protocol.base import RequestModel

_CHOICES = {"none": NONE, "auto": AUTO, "required": REQUIRED}


class FunctionDefinition(RequestModel):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None  # a JSON schema of an object
    strict: bool | None = None


class ToolDefinition(RequestModel):
    type: str = "function"
    function: FunctionDefinition


class FunctionCall(BaseModel):
    name: str
    arguments: str


class ToolCallObject(BaseModel):
    id: str
    type: str = "function"
    function: FunctionCall


def chat_tools(
    tools: list[ToolDefinition] | None, choice: str | dict[str, Any] | None, parallel: bool | None
) -> ToolRequest:
    """The tools of a chat request.

    Raises:
        InvalidRequestError: naming the field that is wrong.
    """
    if tools == []:
        raise InvalidRequestError("tools is empty; give at least one tool, or leave tools out", param="tools")
    for index, tool in enumerate(tools or ()):
        if tool.type != "function":
            raise InvalidRequestError(f"tools[{index}].type must be 'function', got {shown(tool.type)}", param="tools")
    return tool_request(
        [
            Tool(
                name=tool.function.name,
                description=tool.function.description,
                parameters=tool.function.parameters,
                strict=bool(tool.function.strict),
            )
            for tool in tools or ()
        ],
        _choice(choice),
        parallel,
    )


def _choice(given: str | dict[str, Any] | None) -> ToolChoice | None:
    if given is None:
        return None
    if isinstance(given, str):
        if given in _CHOICES:
            return _CHOICES[given]
    elif given.get("type") == "function":
        function = given.get("function")
        if isinstance(function, dict) and isinstance(function.get("name"), str) and function["name"]:
            return ToolChoice("named", function["name"])
    raise InvalidRequestError(
        "tool_choice must be 'none', 'auto', 'required' or {'type': 'function', 'function': {'name': NAME}}, "
        f"got {shown(given)}",
        param="tool_choice",
    )
