"""Calls as a list in Python, at the beginning of a line: Llama 4 and others.

    [get_weather(city="Rome", days=3), get_time()]

Llama 4 may put it between <|python_start|> and <|python_end|>. Only functions that there are can be called.
"""

from __future__ import annotations

from octavo.parsers.base import ToolParser
from octavo.parsers.python_calls import python_call
from octavo.parsers.source import SPACE, Steps, Tags

_LINE_OR_TAG = Tags("\n", "<|python_start|>", "<|python_end|>")


class PythonicToolParser(ToolParser):
    def read(self) -> Steps[None]:
        source = self.source
        while True:
            yield from source.run(SPACE, self.content)
            char = yield from source.peek()
            if char == "[":
                yield from self._calls()
            if not char:
                return
            if (yield from source.until(_LINE_OR_TAG, self.content)) == "\n":
                self.content("\n")

    def _calls(self) -> Steps[None]:
        """A list of calls, which begins here; what is none is content."""
        source = self.source
        source.hold()
        source.skip()
        while True:
            yield from source.run(SPACE)
            if not (yield from python_call(self)):
                self.content(source.release())
                return
            yield from source.run(SPACE)
            char = yield from source.peek()
            if char in ("]", ","):
                source.skip()
            if char != ",":
                return
            source.hold()
