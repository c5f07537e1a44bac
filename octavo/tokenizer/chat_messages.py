"""Messages of a conversation: their check, and the form in which templates expect them.

It knows OpenAI's form of messages, as plain JSON data; it knows no templates.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from octavo.errors import InvalidRequestError, shown, unknown_name

_MAX_DEPTH = 64
_PART_TYPES = ("text",)


def _fail(where: str, what: str) -> InvalidRequestError:
    return InvalidRequestError(f"{where} {what}", param=where.split("[")[0].split(".")[0])


def plain_data(value: Any, where: str, depth: int = 0) -> Any:
    """A copy of `value` made of plain JSON types, so that a template meets no methods of other objects."""
    if depth > _MAX_DEPTH:
        raise _fail(where, f"is nested more than {_MAX_DEPTH} levels deep")
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)  # an enum, say
    if isinstance(value, Mapping):
        return {str(key): plain_data(item, where, depth + 1) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return [plain_data(item, where, depth + 1) for item in value]
    raise _fail(where, f"holds {shown(value)}, which is no JSON value; give strings, numbers, lists and dicts")


def check_tools(tools: Any) -> list[dict[str, Any]] | None:
    """The tools as a template gets them: a list of dicts, or None."""
    if tools is None:
        return None
    if not isinstance(tools, Sequence) or isinstance(tools, str):
        raise _fail("tools", f"must be a list of dicts, got {shown(tools)}")
    for index, tool in enumerate(tools):
        if not isinstance(tool, Mapping):
            raise _fail(f"tools[{index}]", f"must be a dict that describes a function, got {shown(tool)}")
    return [plain_data(tool, f"tools[{index}]") for index, tool in enumerate(tools)]


def check_messages(messages: Any, content_format: str) -> list[dict[str, Any]]:
    """The messages as a template gets them.

    Content becomes a string (text parts joined by newlines) if `content_format` is "string", and a list of parts if it
    is "openai". Fields that are None are left out. The arguments of tool calls become dicts.

    Raises:
        InvalidRequestError: naming the message that is none.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, (str, bytes)):
        raise _fail("messages", f"must be a list of {{'role': ..., 'content': ...}} dicts, got {shown(messages)}")
    if not messages:
        raise _fail("messages", "must not be empty; give at least one message")
    return [_message(message, f"messages[{index}]", content_format) for index, message in enumerate(messages)]


def _message(given: Any, where: str, content_format: str) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise _fail(where, f"must be a dict with a role and content, got {shown(given)}")
    message = {key: value for key, value in plain_data(given, where).items() if value is not None}
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise _fail(f"{where}.role", f"must be a string such as 'user', got {shown(given.get('role'))}")
    reasoning = message.get("reasoning") or message.get("reasoning_content")
    if role == "assistant" and reasoning:
        message["reasoning"] = message["reasoning_content"] = reasoning  # templates know it by either name
    if "tool_calls" in message:
        message["tool_calls"] = _tool_calls(message["tool_calls"], f"{where}.tool_calls")
    if "content" in message:
        message["content"] = _content(message["content"], f"{where}.content", content_format)
    elif not (role == "assistant" and message.get("tool_calls")):
        raise _fail(f"{where}.content", "is missing; only an assistant's message with tool_calls may have none")
    return message


def _content(content: Any, where: str, content_format: str) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content if content_format == "string" else [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise _fail(where, f"must be a string or a list of parts, got {shown(content)}")
    parts = [_part(part, f"{where}[{index}]") for index, part in enumerate(content)]
    return "\n".join(part["text"] for part in parts) if content_format == "string" else parts


def _part(part: Any, where: str) -> dict[str, Any]:
    if not isinstance(part, dict):
        raise _fail(where, f"must be a dict such as {{'type': 'text', 'text': ...}}, got {shown(part)}")
    kind = part.get("type")
    if kind not in _PART_TYPES:
        raise _fail(where, unknown_name("type of content", str(kind), _PART_TYPES))
    if not isinstance(part.get("text"), str):
        raise _fail(f"{where}.text", f"must be a string, got {shown(part.get('text'))}")
    return part


def _tool_calls(calls: Any, where: str) -> list[Any]:
    """OpenAI's clients send arguments as JSON text; templates want them as dicts."""
    if not isinstance(calls, list):
        raise _fail(where, f"must be a list, got {shown(calls)}")
    for index, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            raise _fail(f"{where}[{index}]", f"must be a dict with a function, got {shown(call)}")
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            try:
                function["arguments"] = json.loads(arguments or "{}")
            except (ValueError, RecursionError):
                raise _fail(f"{where}[{index}]", f"has arguments that are no JSON: {shown(arguments)}") from None
    return calls
