"""Mistral: a tag, then a list of calls as JSON (older models), or a name with its arguments (newer ones).

[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Rome"}}]
[TOOL_CALLS]get_weather{"city": "Rome"}[TOOL_CALLS]get_time{}
[TOOL_CALLS]get_weather[CALL_ID]a1B2c3D4e[ARGS]{"city": "Rome"}
"""

from __future__ import annotations

import re
import secrets
import string

from octavo.parsers.base import ToolParser
from octavo.parsers.json_text import calls, value
from octavo.parsers.source import SPACE, Steps, Tags

_TAG = Tags("[TOOL_CALLS]")
_PARTS = Tags("[CALL_ID]", "[ARGS]")
_NAME = re.compile(r"[\w.:/\-]*")
_ALPHABET = string.ascii_letters + string.digits
_ID_LENGTH = 9  # the templates of these models refuse ids of any other


class MistralToolParser(ToolParser):
    needs_special_tokens = True

    @staticmethod
    def new_id() -> str:
        return "".join(secrets.choice(_ALPHABET) for _ in range(_ID_LENGTH))

    def read(self) -> Steps[None]:
        source = self.source
        while (yield from source.until(_TAG, self.content)):
            yield from source.run(SPACE)
            while (yield from source.tag(_TAG)):  # looks like a list of calls otherwise
                yield from source.run(SPACE)
            if (yield from source.peek()) in ("[", "{"):
                yield from calls(self)
            else:
                yield from self._call()

    def _call(self) -> Steps[None]:
        source = self.source
        source.hold()
        name: list[str] = []
        call_id: list[str] = []
        yield from source.run(_NAME, name.append)
        yield from source.run(SPACE)
        while tag := (yield from source.tag(_PARTS)):
            if tag == "[CALL_ID]":
                yield from source.run(_NAME, call_id.append)
            yield from source.run(SPACE)
        held = source.release()
        if name and (yield from source.peek()) == "{":
            self.start_call("".join(name), "".join(call_id) or None)
            complete = yield from value(source, self.arguments)
            self.end_call(complete=complete)
        else:
            self.content(held)
