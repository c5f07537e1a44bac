"""DeepSeek V3 and R1, and V3.1, whose calls have no fence around the JSON and no word before the name.

<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather
```json
{"city": "Rome"}
```<｜tool▁call▁end｜><｜tool▁calls▁end｜>

<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{"city": "Rome"}...
"""

from __future__ import annotations

from octavo.parsers.base import ToolParser
from octavo.parsers.json_arguments import call_with_json
from octavo.parsers.source import SPACE, Steps, Tags

_BEGIN = "<｜tool▁call▁begin｜>"
_END = "<｜tool▁call▁end｜>"
_SEPARATOR = "<｜tool▁sep｜>"
_ALL = ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", _BEGIN, _END, _SEPARATOR)
_TAGS = Tags(*_ALL)
_NAME_END = Tags("\n", *_ALL)
_FENCE = Tags("```json")
_CALL_END = Tags(_END)


class DeepSeekToolParser(ToolParser):
    needs_special_tokens = True

    def read(self) -> Steps[None]:
        while tag := (yield from self.source.until(_TAGS, self.content)):
            while tag == _BEGIN:
                tag = yield from self._call()

    def _call(self) -> Steps[str]:
        """Returns the tag that came instead of a call's arguments, "" where these came."""
        source, texts = self.source, list[str]()
        tag = yield from source.until(_TAGS, texts.append)
        name = "".join(texts).strip()
        if tag == _SEPARATOR and name == "function":
            yield from source.run(SPACE)
            if (yield from source.peek()) != "{":
                texts = []
                tag = yield from source.until(_NAME_END, texts.append)
                name = "".join(texts).strip()
                yield from source.run(SPACE)
                yield from source.tag(_FENCE)
        if tag in (_SEPARATOR, "\n") and name:
            yield from call_with_json(self, name, _CALL_END)
            return ""
        self.content(name)
        return tag
