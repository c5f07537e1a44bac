"""Pieces: what the text of a reply consists of, in the order in which it becomes known.

    reply     := (ReasoningDelta | ContentDelta | call)*
    call      := ToolCallStart ArgumentsDelta* ToolCallEnd

Calls of a reply are numbered from 0 and never overlap. The arguments of a call, joined, are its JSON. `Reply` is the
whole of it, and is made of the same pieces.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ContentDelta:
    """More of what is said to the user."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """More of what the model thinks before it answers."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallStart:
    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ArgumentsDelta:
    """More of the JSON of a call's arguments."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class ToolCallEnd:
    """No more arguments come. `complete` is False where the text ended, or broke, before they did."""

    index: int
    complete: bool = True


Piece = ContentDelta | ReasoningDelta | ToolCallStart | ArgumentsDelta | ToolCallEnd


@dataclass(slots=True)
class ToolCall:
    id: str
    name: str
    arguments: str  # JSON, unless the call is not complete
    complete: bool = True


@dataclass(slots=True)
class Reply:
    """A reply as a whole. What did not occur is None or empty."""

    content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCall] = field(default_factory=list)

    @classmethod
    def of(cls, pieces: Iterable[Piece]) -> Reply:
        """The reply that the pieces make."""
        content: list[str] = []
        reasoning: list[str] = []
        arguments: list[str] = []
        reply = cls()
        for piece in pieces:
            match piece:
                case ContentDelta(text):
                    content.append(text)
                case ReasoningDelta(text):
                    reasoning.append(text)
                case ToolCallStart(_, call_id, name):
                    reply.tool_calls.append(ToolCall(call_id, name, "", complete=False))
                    arguments = []
                case ArgumentsDelta(_, text):
                    arguments.append(text)
                case ToolCallEnd(_, complete):
                    reply.tool_calls[-1].arguments = "".join(arguments)
                    reply.tool_calls[-1].complete = complete
        reply.content = "".join(content) if content else None
        reply.reasoning = "".join(reasoning) if reasoning else None
        return reply
