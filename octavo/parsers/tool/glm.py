"""GLM 4.5 and later: keys and values between tags, values as bare text.

<tool_call>get_weather
<arg_key>city</arg_key>
<arg_value>Rome</arg_value>
</tool_call>
"""

from __future__ import annotations

from octavo.parsers.base import ToolParser
from octavo.parsers.source import SPACE, Steps, Tags, nowhere
from octavo.parsers.typed_arguments import TypedArguments

_OUTER = Tags("<tool_call>", "</tool_call>")
_NAME_END = Tags("\n", "<arg_key>", "</tool_call>")
_INNER = Tags("<arg_key>", "</tool_call>")
_KEY_END = Tags("</arg_key>")
_VALUE = Tags("<arg_value>", "</tool_call>")
_VALUE_END = Tags("</arg_value>")


class GlmToolParser(ToolParser):
    def read(self) -> Steps[None]:
        while tag := (yield from self.source.until(_OUTER, self.content)):
            if tag == "<tool_call>":
                yield from self._call()

    def _call(self) -> Steps[None]:
        source, texts = self.source, list[str]()
        yield from source.run(SPACE)
        tag = yield from source.until(_NAME_END, texts.append)
        name = "".join(texts).strip()
        if not tag or not name or " " in name:
            self.content(name + ("\n" if tag == "\n" else ""))
            return
        self.start_call(name)
        arguments = TypedArguments(self, name)
        if tag == "\n":
            tag = yield from source.until(_INNER, nowhere)
        while tag == "<arg_key>":
            key: list[str] = []
            yield from source.until(_KEY_END, key.append)
            if (yield from source.until(_VALUE, nowhere)) != "<arg_value>":
                break
            arguments.begin("".join(key).strip())
            if not (yield from source.until(_VALUE_END, arguments.write)):
                return
            arguments.end()
            tag = yield from source.until(_INNER, nowhere)
        if tag:
            arguments.close()
