"""Parser, and its two kinds: what a class has to bring to read a format of tool calls, or of reasoning.

A subclass writes `read`, a generator over `self.source` (see `source.py`), which calls `content`, `reasoning`,
`start_call`, `arguments` and `end_call` as it finds them. Text that it does not understand is content; it raises
nothing.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Mapping
from typing import Any, ClassVar

from octavo.parsers.pieces import (
    ArgumentsDelta,
    ContentDelta,
    Piece,
    ReasoningDelta,
    ToolCallEnd,
    ToolCallStart,
)
from octavo.parsers.source import Source, Steps

Schema = Mapping[str, Any]


class Parser:
    """One reply, read as its text comes.

    Attributes:
        needs_special_tokens: whether tags of the format are special tokens, so that the text must have these.
        spans: where in the text the reasoning was so far: beginning, end, beginning, ...; in characters, tags counted.
    """

    needs_special_tokens: ClassVar[bool] = False

    def __init__(self) -> None:
        self.source = Source()
        self.spans: list[int] = []
        self._pieces: list[Piece] = []
        self._kind: type[Piece] | None = None  # of the piece to which `_texts` belong
        self._texts: list[str] = []
        self._steps = self.read()

    def read(self) -> Steps[None]:
        """Read `self.source` to its end."""
        raise NotImplementedError

    def feed(self, text: str) -> list[Piece]:
        """What more text gives, maybe nothing yet."""
        self.source.add(text)
        return self._advance()

    def finish(self) -> list[Piece]:
        """What is left when the text has ended."""
        self.source.end()
        return self._advance()

    def content(self, text: str) -> None:
        self._add(ContentDelta, text)

    def reasoning(self, text: str) -> None:
        self._add(ReasoningDelta, text)

    def _add(self, kind: type[Piece], text: str) -> None:
        if text:
            if kind is not self._kind:
                self._close_piece()
                self._kind = kind
            self._texts.append(text)

    def _close_piece(self) -> None:
        """Make a piece of the texts that belong together."""
        if self._texts:
            self._pieces.append(self._piece("".join(self._texts)))
        self._kind, self._texts = None, []

    def _piece(self, text: str) -> Piece:
        return ContentDelta(text) if self._kind is ContentDelta else ReasoningDelta(text)

    def _advance(self) -> list[Piece]:
        next(self._steps, None)
        self._close_piece()
        pieces, self._pieces = self._pieces, []
        return pieces


class ToolParser(Parser):
    """Reads content and tool calls.

    White space around calls belongs to the format: content before calls and after them is parted by one newline.

    Args:
        tools: the functions that may be called, name -> JSON schema of the parameters.
    """

    # Besides the calls it reads the reasoning, which in its format can't be told apart beforehand.
    reads_reasoning: ClassVar[bool] = False

    def __init__(self, tools: Mapping[str, Schema]) -> None:
        super().__init__()
        self.tools = tools
        self._num_calls = 0
        self._open = False  # a call is
        self._space: list[str] = []  # held back: it may stand before a call
        self._after_call = False  # and no content has come since
        self._has_content = False
        self.is_broken = False  # the last call is

    @classmethod
    def around_arguments(cls, name: str) -> tuple[str, str, str] | None:
        """The text around the JSON of a call, where an engine can be made to write it: what begins every call, what
        comes before the arguments of function `name`, beginning included, and what comes behind them.

        None: in this format arguments are no JSON, or calls begin with nothing that other text has not.
        """
        return None

    @staticmethod
    def new_id() -> str:
        """The id of a call whose format has none."""
        return f"call_{os.urandom(12).hex()}"

    def finish(self) -> list[Piece]:
        self.source.end()
        next(self._steps, None)
        if self._open:
            self.end_call(complete=False)
        if not self._after_call:
            super().content("".join(self._space))
        self._space = []
        return self._advance()

    def content(self, text: str) -> None:
        if self._after_call:
            text = text.lstrip()
            if not text:
                return
            self._after_call = False
            if self._has_content:
                self._space = ["\n"]
        stripped = text.rstrip()
        if stripped:
            self._has_content = True
            super().content("".join(self._space) + stripped)
            self._space = [text[len(stripped) :]] if len(stripped) < len(text) else []
        elif text:
            self._space.append(text)

    def start_call(self, name: str, call_id: str | None = None) -> None:
        self._space = []
        self._after_call = True
        self._open = True
        self._close_piece()
        self._pieces.append(ToolCallStart(self._num_calls, call_id or self.new_id(), name))

    def arguments(self, text: str) -> None:
        """More of the JSON of the call that was started."""
        self._add(ArgumentsDelta, text)

    def end_call(self, *, complete: bool = True) -> None:
        self._open = False
        self.is_broken = not complete
        self._close_piece()
        self._pieces.append(ToolCallEnd(self._num_calls, complete))
        self._num_calls += 1

    def _piece(self, text: str) -> Piece:
        return ArgumentsDelta(self._num_calls, text) if self._kind is ArgumentsDelta else super()._piece(text)


class Opening(enum.Enum):
    """How the prompt leaves the reasoning."""

    INSIDE = "inside"  # it has opened it: the reply begins with reasoning
    CLOSED = "closed"  # it has closed it: the reply has none
    UNSAID = "unsaid"  # the model decides


class ReasoningParser(Parser):
    """Reads reasoning and content.

    Attributes:
        start_tag, end_tag: the text around the reasoning, as it becomes token ids for the engine.
        budget_end: what ends a reasoning that has become too long; ends with `end_tag`. None: that alone.
        begins_inside: the reasoning begins without its tag if the prompt says nothing about it.
    """

    start_tag: ClassVar[str]
    end_tag: ClassVar[str]
    budget_end: ClassVar[str | None] = None
    begins_inside: ClassVar[bool] = False

    def __init__(self, opening: Opening = Opening.UNSAID) -> None:
        super().__init__()
        self.inside = opening is Opening.INSIDE or (opening is Opening.UNSAID and self.begins_inside)
        self.closed = opening is Opening.CLOSED

    @classmethod
    def opening(cls, prompt: str) -> Opening:
        """How a prompt, of which the end is enough, leaves the reasoning."""
        end = prompt.rstrip()
        if end.endswith(cls.start_tag.strip()):
            return Opening.INSIDE
        return Opening.CLOSED if end.endswith(cls.end_tag.strip()) else Opening.UNSAID
