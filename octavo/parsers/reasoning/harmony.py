"""The reasoning of gpt-oss, where calls are not read; see `octavo.parsers.harmony`."""

from __future__ import annotations

from octavo.parsers.base import Opening, ReasoningParser
from octavo.parsers.harmony import read_messages
from octavo.parsers.source import Steps


class HarmonyReasoningParser(ReasoningParser):
    needs_special_tokens = True
    start_tag = "<|channel|>analysis<|message|>"
    end_tag = "<|channel|>final<|message|>"
    budget_end = "<|end|><|start|>assistant<|channel|>final<|message|>"
    begins_inside = True

    @classmethod
    def opening(cls, prompt: str) -> Opening:
        return Opening.UNSAID

    def read(self) -> Steps[None]:
        yield from read_messages(self)
