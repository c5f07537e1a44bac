"""Kimi K2: the id of a call tells its name, and is kept.

    <|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>{"city": "Rome"}\
<|tool_call_end|><|tool_calls_section_end|>
"""

from __future__ import annotations

from octavo.parsers.base import ToolParser
from octavo.parsers.json_arguments import call_with_json
from octavo.parsers.source import Steps, Tags

_BEGIN = "<|tool_call_begin|>"
_ARGUMENTS = "<|tool_call_argument_begin|>"
_END = "<|tool_call_end|>"
_TAGS = Tags("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", _BEGIN, _ARGUMENTS, _END)
_CALL_END = Tags(_END, "<|tool_calls_section_end|>")


class KimiToolParser(ToolParser):
    needs_special_tokens = True

    def read(self) -> Steps[None]:
        while tag := (yield from self.source.until(_TAGS, self.content)):
            while tag == _BEGIN:
                tag = yield from self._call()

    def _call(self) -> Steps[str]:
        """Returns the tag that came instead of a call's arguments, "" where these came."""
        texts: list[str] = []
        tag = yield from self.source.until(_TAGS, texts.append)
        call_id = "".join(texts).strip()
        name = call_id.removeprefix("functions.").rpartition(":")[0] or call_id
        if tag == _ARGUMENTS and name:
            yield from call_with_json(self, name, _CALL_END, call_id=call_id)
            return ""
        self.content(call_id)
        return tag
