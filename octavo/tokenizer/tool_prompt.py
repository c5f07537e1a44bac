"""Tools for models whose chat template knows none: a system message that describes them, and calls and results as text.

The model is asked to write calls as many models do (the format "hermes" of `octavo.parsers`):

    <tool_call>
    {"name": "get_time", "arguments": {"city": "Rome"}}
    </tool_call>

and is shown results between <tool_response> tags, as the user's words: templates know no other side.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

Message = dict[str, Any]

_INTRODUCTION = """You can call these functions. Each is described by a line of JSON:
<tools>
{tools}
</tools>

To call a function, write its name and its arguments as JSON between tags:
<tool_call>
{{"name": "FUNCTION", "arguments": {{"ARGUMENT": "VALUE"}}}}
</tool_call>
Write one such block for each call, and nothing after them. The results then come between <tool_response> tags. When \
no function is needed, answer in plain text."""


def has_calls(messages: Any) -> bool:
    """Whether there are calls or results in what may be messages."""
    if not isinstance(messages, Sequence):
        return False
    return any(isinstance(m, Mapping) and (m.get("role") == "tool" or m.get("tool_calls")) for m in messages)


def with_plain_tools(messages: list[Message], tools: list[dict[str, Any]] | None) -> list[Message]:
    """The conversation with tools, calls and results as text.

    Args:
        messages: as `check_messages` gives them.
    """
    plain: list[Message] = []
    for message in messages:
        if message["role"] == "assistant" and message.get("tool_calls"):
            plain.append(_with_calls(message))
        elif message["role"] == "tool":
            response = f"<tool_response>\n{_text(message)}\n</tool_response>"
            if plain and plain[-1].get("is_result"):
                plain[-1] = _with_text(plain[-1], f"{_text(plain[-1])}\n{response}")
            else:
                plain.append(_with_text({"role": "user", "is_result": True, "content": message["content"]}, response))
        else:
            plain.append(message)
    plain = [{key: item for key, item in message.items() if key != "is_result"} for message in plain]
    return _described(plain, tools) if tools else plain


def _described(messages: list[Message], tools: list[dict[str, Any]]) -> list[Message]:
    lines = "\n".join(json.dumps(tool.get("function", tool), ensure_ascii=False) for tool in tools)
    text = _INTRODUCTION.format(tools=lines)
    if messages[0]["role"] in ("system", "developer"):
        return [_with_text(messages[0], f"{_text(messages[0])}\n\n{text}"), *messages[1:]]
    return [_with_text({"role": "system", "content": messages[0].get("content", "")}, text), *messages]


def _with_calls(message: Message) -> Message:
    calls = []
    for call in message["tool_calls"]:
        function = call["function"]
        body = {"name": function.get("name"), "arguments": function.get("arguments") or {}}
        calls.append(f"<tool_call>\n{json.dumps(body, ensure_ascii=False)}\n</tool_call>")
    said = _text(message)
    text = "\n".join([said, *calls] if said else calls)
    rest = {key: item for key, item in message.items() if key != "tool_calls"}
    return _with_text(rest, text)


def _text(message: Message) -> str:
    content = message.get("content") or ""
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content)


def _with_text(message: Message, text: str) -> Message:
    """The message with a content of another text, in the form that it had."""
    as_parts = isinstance(message.get("content"), list)
    return {**message, "content": [{"type": "text", "text": text}] if as_parts else text}
