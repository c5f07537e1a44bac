"""ReplyParser: the reasoning, the content and the tool calls of one reply, by the formats that the model writes.

How a surface uses it. For each choice of a request it makes one `ReplyParser`, hands it the text as it comes (or all at
once), and writes the pieces in its own shapes:

    parser = ReplyParser(reasoning, tools, parallel=True)
    pieces = parser.feed("<think>Hm</think>It is ")   # [ReasoningDelta("Hm"), ContentDelta("It is")]
    pieces += parser.feed("late") + parser.finish()
    Reply.of(pieces)                                  # Reply(content="It is late", reasoning="Hm", tool_calls=[])

The server makes them by `octavo.server.reply`, which knows the request and counts tokens. Offline, `reply_parser` makes
one from names and tools.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from octavo.parsers.base import ReasoningParser, ToolParser
from octavo.parsers.pieces import ContentDelta, Piece, Reply, ToolCallStart
from octavo.parsers.registry import REASONING_PARSERS, TOOL_PARSERS


class ReplyParser:
    """Text in, pieces out.

    Args:
        reasoning: None: the text has no reasoning that can be told from the answer.
        tools: None: all that is no reasoning is content.
        parallel: False: calls after the first one are left out.
    """

    def __init__(
        self, reasoning: ReasoningParser | None = None, tools: ToolParser | None = None, *, parallel: bool = True
    ) -> None:
        self._reasoning = reasoning
        self._tools = tools
        self._parallel = parallel
        self.num_calls = 0

    @property
    def spans(self) -> list[int]:
        """Where in the text the reasoning was so far; see `Parser`."""
        first = self._reasoning or self._tools
        return [] if first is None else first.spans

    def feed(self, text: str) -> list[Piece]:
        """What more text gives, maybe nothing yet."""
        if not text:
            return []
        if self._reasoning is None:
            return self._counted(self._second(text))
        return self._counted(self._through(self._reasoning.feed(text)))

    def finish(self) -> list[Piece]:
        """What is left when the text has ended."""
        pieces = [] if self._reasoning is None else self._through(self._reasoning.finish())
        if self._tools is not None:
            pieces += self._tools.finish()
        return self._counted(pieces)

    def whole(self, text: str) -> Reply:
        """The reply that a complete text is."""
        return Reply.of(self.feed(text) + self.finish())

    def _through(self, pieces: list[Piece]) -> list[Piece]:
        """The content of the first stage is the text of the second."""
        passed: list[Piece] = []
        for piece in pieces:
            if isinstance(piece, ContentDelta):
                passed += self._second(piece.text)
            else:
                passed.append(piece)
        return passed

    def _second(self, text: str) -> list[Piece]:
        return [ContentDelta(text)] if self._tools is None else self._tools.feed(text)

    def _counted(self, pieces: list[Piece]) -> list[Piece]:
        if not self._parallel:
            pieces = [piece for piece in pieces if getattr(piece, "index", 0) == 0]
        self.num_calls += sum(isinstance(piece, ToolCallStart) for piece in pieces)
        return pieces


def reply_parser(
    *,
    tool_call_parser: str | None = None,
    reasoning_parser: str | None = None,
    tools: Sequence[Mapping[str, Any]] = (),
    prompt: str = "",
) -> ReplyParser:
    """A parser for one completion of `LLM.chat`.

    Args:
        tool_call_parser, reasoning_parser: names, or import paths, of formats; None: there is no such thing.
        tools: those that the prompt told of, in OpenAI's form.
        prompt: the prompt, or its end, which may open the reasoning.

    Raises:
        ConfigError: there is no such format.
    """
    reasoning = None
    if reasoning_parser is not None:
        kind = REASONING_PARSERS.get(reasoning_parser)
        reasoning = kind(kind.opening(prompt))
    parser = None
    if tool_call_parser is not None:
        functions = [tool["function"] for tool in tools]
        parser = TOOL_PARSERS.get(tool_call_parser)(
            {function["name"]: function.get("parameters") or {} for function in functions}
        )
    return ReplyParser(None if parser is not None and parser.reads_reasoning else reasoning, parser)
