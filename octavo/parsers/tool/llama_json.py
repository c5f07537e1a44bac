"""Llama 3: calls as JSON without tags around them, at the beginning of a line, parted by semicolons.

    {"name": "f", "parameters": {"a": 1}}; {"name": "g", "parameters": {}}

JSON is a call only if it names a function that there is. A <|python_tag|> may stand before it.
"""

from __future__ import annotations

import re

from octavo.parsers.base import ToolParser
from octavo.parsers.json_text import calls
from octavo.parsers.source import SPACE, Steps, Tags

_PARTED = re.compile(r"[; \t\r\n]*")
_LINE_OR_TAG = Tags("\n", "<|python_tag|>")


class LlamaJsonToolParser(ToolParser):
    def read(self) -> Steps[None]:
        source = self.source
        while True:
            yield from source.run(SPACE, self.content)
            char = yield from source.peek()
            if char in ("{", "[") and (yield from calls(self, known_only=True)):
                yield from source.run(_PARTED)
                continue
            if not char:
                return
            if (yield from source.until(_LINE_OR_TAG, self.content)) == "\n":
                self.content("\n")
