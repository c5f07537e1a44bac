"""Every format on what models write: the meaning is right, and does not depend on how the text was cut."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transcripts import TOOL_TRANSCRIPTS, TOOLS, Transcript

from octavo.parsers.pieces import Piece, Reply
from octavo.parsers.registry import REASONING_PARSERS, TOOL_PARSERS
from octavo.parsers.reply import ReplyParser

CASES = [(name, transcript) for name, group in TOOL_TRANSCRIPTS.items() for transcript in group]
Make = Callable[[], ReplyParser]


def parser_of(name: str) -> ReplyParser:
    return ReplyParser(None, TOOL_PARSERS.get(name)(TOOLS))


def in_pieces(parser: ReplyParser, parts: Iterable[str]) -> list[Piece]:
    pieces = [piece for part in parts for piece in parser.feed(part)]
    return pieces + parser.finish()


def meaning(reply: Reply) -> Transcript:
    calls = tuple((call.name, call.arguments) for call in reply.tool_calls)
    return Transcript("", reply.content, calls, reply.reasoning)


def parts_of(text: str, cuts: Iterable[int]) -> list[str]:
    ends = [0, *sorted(cuts), len(text)]
    return [text[begin:end] for begin, end in zip(ends, ends[1:], strict=False)]


@pytest.mark.parametrize(("name", "transcript"), CASES)
def test_the_meaning_and_the_cuts(name: str, transcript: Transcript) -> None:
    text, expected = transcript.text, transcript._replace(text="")
    assert meaning(parser_of(name).whole(text)) == expected
    assert meaning(Reply.of(in_pieces(parser_of(name), text))) == expected
    for cut in range(1, len(text)):
        assert meaning(Reply.of(in_pieces(parser_of(name), parts_of(text, [cut])))) == expected
    rng = random.Random(len(text))
    for _ in range(50):
        cuts = [rng.randint(0, len(text)) for _ in range(2)]
        assert meaning(Reply.of(in_pieces(parser_of(name), parts_of(text, cuts)))) == expected


@pytest.mark.parametrize(("name", "transcript"), CASES)
def test_arguments_of_complete_calls_are_json(name: str, transcript: Transcript) -> None:
    for call in parser_of(name).whole(transcript.text).tool_calls:
        if call.complete:
            assert isinstance(json.loads(call.arguments), dict)


@pytest.mark.parametrize("name", TOOL_TRANSCRIPTS)
def test_arguments_come_as_fragments(name: str) -> None:
    transcript = next(transcript for transcript in TOOL_TRANSCRIPTS[name] if any(len(c[1]) > 30 for c in transcript.calls))
    pieces = in_pieces(parser_of(name), transcript.text)
    assert sum(type(piece).__name__ == "ArgumentsDelta" for piece in pieces) > 3
