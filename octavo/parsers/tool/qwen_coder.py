"""Qwen3 Coder: calls as XML, their values as bare text.

    <tool_call>
    <function=get_weather>
    <parameter=city>
    Rome
    </parameter>
    </function>
    </tool_call>

The newline after the tag before a value and the one before the tag after it do not belong to the value. The outer tag,
and a parameter's closing one, may be missing.
"""

from __future__ import annotations

from octavo.parsers.base import ToolParser
from octavo.parsers.source import SPACE, Steps, Tags, nowhere
from octavo.parsers.typed_arguments import TypedArguments

_OUTER = Tags("<tool_call>", "</tool_call>", "<function=")
_INNER = Tags("<parameter=", "</function>", "</tool_call>")
_NAME_END = Tags(">")
_NEWLINE = Tags("\n")
_VALUE_END = Tags("\n</parameter>", "</parameter>", "\n<parameter=", "\n</function>")


class QwenCoderToolParser(ToolParser):
    def read(self) -> Steps[None]:
        while tag := (yield from self.source.until(_OUTER, self.content)):
            if tag == "<function=":
                yield from self._call()
            elif tag == "<tool_call>":
                yield from self.source.run(SPACE)

    def _call(self) -> Steps[None]:
        source, name = self.source, list[str]()
        if not (yield from source.until(_NAME_END, name.append)):
            self.content("".join(name))
            return
        self.start_call("".join(name).strip())
        arguments = TypedArguments(self, "".join(name).strip())
        tag = yield from source.until(_INNER, nowhere)
        while tag.strip() == "<parameter=":
            key: list[str] = []
            if not (yield from source.until(_NAME_END, key.append)):
                return
            yield from source.tag(_NEWLINE)
            arguments.begin("".join(key).strip())
            tag = yield from source.until(_VALUE_END, arguments.write)
            if not tag:
                return
            arguments.end()
            if tag.strip() == "</parameter>":
                tag = yield from source.until(_INNER, nowhere)
        if tag:
            arguments.close()
