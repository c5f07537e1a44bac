"""Calls as JSON between tags: hermes (Qwen 2.5 and 3, and octavo's own format) and granite.

    <tool_call>
    {"name": "f", "arguments": {"a": 1}}
    </tool_call>

Granite writes a list of calls behind one tag. A closing tag may be missing.
"""

from __future__ import annotations

import json

from octavo.parsers.base import ToolParser
from octavo.parsers.json_text import calls
from octavo.parsers.source import SPACE, Steps, Tags, nowhere


class _TaggedJson(ToolParser):
    opening: tuple[str, ...]
    closing: tuple[str, ...]

    def read(self) -> Steps[None]:
        source, tags = self.source, Tags(*self.opening, *self.closing)
        tag = yield from source.until(tags, self.content)
        while tag:
            is_broken = False
            if tag in self.opening:
                yield from source.run(SPACE)
                is_broken = (yield from calls(self)) and self.is_broken
            tag = yield from source.until(tags, nowhere if is_broken else self.content)


class HermesToolParser(_TaggedJson):
    opening = ("<tool_call>",)
    closing = ("</tool_call>",)

    @classmethod
    def around_arguments(cls, name: str) -> tuple[str, str, str] | None:
        return "<tool_call>", f'<tool_call>\n{{"name": {json.dumps(name)}, "arguments": ', "}\n</tool_call>"


class GraniteToolParser(_TaggedJson):
    needs_special_tokens = True
    opening = ("<|tool_call|>", "<tool_call>")
    closing = ("</tool_call>", "<|end_of_text|>")
