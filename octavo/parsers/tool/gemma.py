"""Gemma: FunctionGemma's and Gemma 4's calls, which have a spelling of their own, and Gemma 3's, which are Python.

<start_function_call>call:get_weather{city:<escape>Rome<escape>,days:3}<end_function_call>
<|tool_call>call:get_weather{city:<|"|>Rome<|"|>,days:3}<tool_call|>
```tool_code
get_weather(city="Rome", days=3)
```
"""

from __future__ import annotations

import re

from octavo.parsers.base import ToolParser
from octavo.parsers.literal import GEMMA, literal
from octavo.parsers.python_calls import python_call
from octavo.parsers.source import SPACE, Steps, Tags, nowhere

_CODE = "```tool_code"
_OPENING = ("<start_function_call>", "<|tool_call>")
_TAGS = Tags(*_OPENING, "<end_function_call>", "<tool_call|>", _CODE)
_CALL_END = Tags("<end_function_call>", "<tool_call|>")
_CALL = Tags("call:")
_NAME = re.compile(r"[\w.\-]*")
_FENCE = Tags("```")
_CODE_END = Tags("\n", "```")


class GemmaToolParser(ToolParser):
    needs_special_tokens = True

    def read(self) -> Steps[None]:
        while tag := (yield from self.source.until(_TAGS, self.content)):
            if tag in _OPENING:
                yield from self._call()
            elif tag == _CODE:
                yield from self._code()

    def _call(self) -> Steps[None]:
        source = self.source
        source.hold()
        yield from source.run(SPACE)
        is_call = yield from source.tag(_CALL)
        yield from source.run(SPACE)
        name: list[str] = []
        yield from source.run(_NAME, name.append)
        yield from source.run(SPACE)
        held = source.release()
        if not is_call or not name or (yield from source.peek()) != "{":
            self.content(held)
            return
        self.start_call("".join(name))
        complete = yield from literal(source, self.arguments, GEMMA)
        self.end_call(complete=complete)
        if not complete:
            yield from source.until(_CALL_END, nowhere)

    def _code(self) -> Steps[None]:
        """Calls, each on a line of its own."""
        source = self.source
        while True:
            yield from source.run(SPACE)
            if (yield from source.tag(_FENCE)) or not (yield from source.peek()):
                return
            source.hold()
            if not (yield from python_call(self)):
                self.content(source.release())
            tag = yield from source.until(_CODE_END, self.content)
            if tag != "\n":
                return
