"""The calls of gpt-oss, with its reasoning and its content; see `octavo.parsers.harmony`."""

from __future__ import annotations

from octavo.parsers.base import ToolParser
from octavo.parsers.harmony import read_messages
from octavo.parsers.source import Steps


class OpenAIToolParser(ToolParser):
    needs_special_tokens = True
    reads_reasoning = True

    def read(self) -> Steps[None]:
        yield from read_messages(self)
