"""Strict functions that the model may call or not: text is free, calls are held to the schemas, and are read again."""

from __future__ import annotations

from typing import Any

import pytest

from octavo.parsers.forced import strict_tag
from octavo.parsers.reply import ReplyParser
from octavo.parsers.tool.mistral import MistralToolParser
from octavo.parsers.tool.tagged_json import HermesToolParser
from octavo.parsers.tools import Tool

CITY = {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"]}
STRICT = Tool(name="weather", parameters={**CITY, "additionalProperties": False}, strict=True)
FREE = Tool(name="note", parameters=CITY)


def call(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("No call at all.", True),
        ("I look. " + call("weather", '{"city": "Oslo"}'), True),
        (call("weather", '{"city": "Oslo"}') + "\n" + call("note", '{"anything": [1]}'), True),
        (call("weather", '{"city": "Paris"}'), False),
        (call("weather", "{}"), False),
        (call("other", "{}"), False),
        ('<tool_call>\n{"name": "weather", "arguments": {"city": "Os', False),
    ],
)
def test_what_is_allowed(text: str, allowed: bool, accepts: Any) -> None:
    tag = strict_tag([STRICT, FREE], HermesToolParser)
    assert accepts(text, structural_tag=tag, whitespace_pattern=" ?") is allowed
    if allowed:
        tools = HermesToolParser({tool.name: tool.parameters or {} for tool in (STRICT, FREE)})
        assert len(ReplyParser(None, tools).whole(text).tool_calls) == text.count("<tool_call>")


def test_nothing_is_held_where_nobody_asks_or_the_format_can_not() -> None:
    assert strict_tag([FREE], HermesToolParser) is None
    assert strict_tag([STRICT], MistralToolParser) is None
