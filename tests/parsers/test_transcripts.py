"""Every format on what models write: the meaning is right, and does not depend on how the text was cut."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable
from itertools import pairwise

import pytest
from fake_async_engine import random_spelling, tiny_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from transcripts import THINK_TRANSCRIPTS, TOOL_TRANSCRIPTS, TOOLS, Transcript

from octavo.parsers.base import Opening
from octavo.parsers.pieces import ArgumentsDelta, Piece, Reply, ToolCallStart
from octavo.parsers.registry import REASONING_PARSERS, TOOL_PARSERS
from octavo.parsers.reply import ReplyParser
from octavo.tokenizer.detokenizer import IncrementalDetokenizer

CASES = [(name, transcript) for name, group in TOOL_TRANSCRIPTS.items() for transcript in group]


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
    return [text[begin:end] for begin, end in pairwise(ends)]


@pytest.mark.parametrize(("name", "transcript"), CASES)
def test_the_meaning_and_the_cuts(name: str, transcript: Transcript) -> None:
    text, expected = transcript.text, transcript._replace(text="")
    assert meaning(parser_of(name).whole(text)) == expected
    assert meaning(Reply.of(in_pieces(parser_of(name), text))) == expected
    for cut in range(1, len(text)):
        assert meaning(Reply.of(in_pieces(parser_of(name), parts_of(text, [cut])))) == expected
    rng = random.Random(len(text))
    for _ in range(15):
        cuts = [rng.randint(0, len(text)) for _ in range(2)]
        assert meaning(Reply.of(in_pieces(parser_of(name), parts_of(text, cuts)))) == expected


@pytest.mark.parametrize(("name", "transcript"), CASES)
def test_arguments_of_complete_calls_are_json(name: str, transcript: Transcript) -> None:
    for call in parser_of(name).whole(transcript.text).tool_calls:
        if call.complete:
            assert isinstance(json.loads(call.arguments), dict)


@pytest.mark.parametrize("name", TOOL_TRANSCRIPTS)
def test_arguments_come_as_fragments(name: str) -> None:
    long = next(t for t in TOOL_TRANSCRIPTS[name] if any(len(arguments) > 30 for _, arguments in t.calls))
    pieces = in_pieces(parser_of(name), long.text)
    assert sum(isinstance(piece, ArgumentsDelta) for piece in pieces) > 3


@pytest.mark.parametrize("name", TOOL_TRANSCRIPTS)
def test_the_name_comes_before_the_arguments_are_complete(name: str) -> None:
    long = next(t for t in TOOL_TRANSCRIPTS[name] if any(len(arguments) > 30 for _, arguments in t.calls))
    parser = parser_of(name)
    seen = [(at, piece) for at, char in enumerate(long.text) for piece in parser.feed(char)]
    started = next(at for at, piece in seen if isinstance(piece, ToolCallStart))
    last = max(at for at, piece in seen if isinstance(piece, ArgumentsDelta))
    assert started < last - 20


@pytest.mark.parametrize("name", TOOL_TRANSCRIPTS)
def test_random_cuts_of_random_mixtures(name: str) -> None:
    """Transcripts one after the other, cut anywhere, also where a token could end within a tag."""

    @settings(max_examples=40, deadline=None, database=None)
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        chosen = data.draw(st.lists(st.sampled_from(TOOL_TRANSCRIPTS[name]), min_size=1, max_size=3))
        text = data.draw(st.sampled_from(["", "\n", " \ufffd\ufffd", "<", "{"])).join(t.text for t in chosen)
        whole = parser_of(name).whole(text)
        cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=12))
        assert meaning(Reply.of(in_pieces(parser_of(name), parts_of(text, cuts)))) == meaning(whole)

    check()


@pytest.mark.parametrize("name", TOOL_TRANSCRIPTS)
def test_token_borders(name: str) -> None:
    rng = random.Random(1)
    for transcript in TOOL_TRANSCRIPTS[name]:
        detokenizer = IncrementalDetokenizer(tiny_tokenizer(), [])
        parts = [detokenizer.push(token_id) for token_id in random_spelling(transcript.text, rng)]
        pieces = in_pieces(parser_of(name), [*parts, detokenizer.flush()])
        assert meaning(Reply.of(pieces)) == transcript._replace(text="")


@pytest.mark.parametrize("name", TOOL_TRANSCRIPTS)
def test_no_text_raises_and_no_tag_leaks(name: str) -> None:
    """Tags and JSON at random: any text has a meaning, the same for any cut."""
    parts = sorted(
        {part for t in TOOL_TRANSCRIPTS[name] for part in re.findall(r"<[^>\s]{1,30}>|\[[A-Z_]+\]|.", t.text)}
    )

    @settings(max_examples=60, deadline=None, database=None)
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        text = "".join(data.draw(st.lists(st.sampled_from(parts), max_size=40)))
        whole = parser_of(name).whole(text)
        cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=12))
        assert meaning(Reply.of(in_pieces(parser_of(name), parts_of(text, cuts)))) == meaning(whole)
        for tag in LEAKING.get(name, ()):
            assert tag not in (whole.content or "")

    check()


@pytest.mark.parametrize(
    ("name", "text", "content"),
    [
        ("mistral", "[TOOL_CALLS][TOOL_CALLS]", None),
        ("kimi_k2", "<|tool_call_begin|><|tool_call_begin|>", None),
        ("kimi_k2", "<|tool_call_begin|>a<|tool_calls_section_begin|>b", "ab"),
        ("deepseek_v3", "<｜tool▁call▁begin｜>a<｜tool▁calls▁begin｜>b", "ab"),
        ("deepseek_v3", "<｜tool▁call▁begin｜>function<｜tool▁sep｜>f<｜tool▁call▁begin｜>", "f"),
    ],
)
def test_a_call_that_begins_within_the_head_of_another(name: str, text: str, content: str | None) -> None:
    assert parser_of(name).whole(text).content == content


def test_a_call_after_one_that_was_begun() -> None:
    (transcript, *_) = (t for t in TOOL_TRANSCRIPTS["kimi_k2"] if len(t.calls) == 1)
    begun = "<|tool_call_begin|>functions" + transcript.text[transcript.text.index("<|tool_call_begin|>") :]
    assert [call.name for call in parser_of("kimi_k2").whole(begun).tool_calls] == [transcript.calls[0][0]]


# Tags that never are content, whatever else the text has; those of the others may be, within what is no call.
LEAKING = {
    "hermes": ("<tool_call>",),
    "granite": ("<|tool_call|>",),
    "qwen3_coder": ("<function=", "<tool_call>"),
    "kimi_k2": ("<|tool_calls_section_begin|>", "<|tool_call_begin|>"),
    "deepseek_v3": ("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>"),
    "mistral": ("[TOOL_CALLS]",),
    "gemma": ("<start_function_call>", "<|tool_call>"),
}


@pytest.mark.parametrize("name", ["think", "qwen3", "glm45", "mistral", "granite", "seed_oss", "gemma4"])
@pytest.mark.parametrize("transcript", THINK_TRANSCRIPTS)
def test_reasoning(name: str, transcript: Transcript) -> None:
    kind = REASONING_PARSERS.get(name)

    def spelled(text: str | None) -> str | None:
        if text is None or name == "gemma4":  # whose tag ends with a newline
            return text and text.replace("<think>\n", "<think>").replace("<think>", kind.start_tag).replace(
                "</think>", kind.end_tag
            )
        return text.replace("<think>", kind.start_tag).replace("</think>", kind.end_tag)

    expected = Transcript("", spelled(transcript.content), (), spelled(transcript.reasoning))
    text = spelled(transcript.text) or ""
    if name == "mistral" and "</thin k>" in text:
        return
    for cut in range(len(text) + 1):
        assert meaning(Reply.of(in_pieces(ReplyParser(kind()), parts_of(text, [cut])))) == expected
    assert meaning(Reply.of(in_pieces(ReplyParser(kind()), text))) == expected


@pytest.mark.parametrize("name", ["deepseek_r1", "think"])
def test_a_reply_that_begins_within_its_reasoning(name: str) -> None:
    kind = REASONING_PARSERS.get(name)
    opening = kind.opening("<｜Assistant｜><think>\n")
    assert opening is Opening.INSIDE
    assert ReplyParser(kind(opening)).whole("Hm.\n</think>\nYes") == Reply("Yes", "Hm.")
    assert ReplyParser(kind(opening)).whole("<think>Hm.</think>Yes") == Reply("Yes", "Hm.")
    assert ReplyParser(kind(opening)).whole("Hm.") == Reply(None, "Hm.")
    unsaid = ReplyParser(kind(kind.opening("<｜Assistant｜>"))).whole("Hm.</think>Yes")
    assert unsaid == (Reply("Yes", "Hm.") if name == "deepseek_r1" else Reply("Hm.Yes"))


def test_a_prompt_that_has_closed_the_reasoning() -> None:
    kind = REASONING_PARSERS.get("qwen3")
    opening = kind.opening("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert opening is Opening.CLOSED
    assert ReplyParser(kind(opening)).whole("Tags are </think>.") == Reply("Tags are </think>.")
    assert kind.opening("what is <think>?<|im_end|>\n<|im_start|>assistant\n") is Opening.UNSAID


@pytest.mark.parametrize("name", ["hermes", "qwen3_coder", "glm45", "deepseek_v3", "kimi_k2", "mistral"])
def test_reasoning_before_calls(name: str) -> None:
    """Calls that the reasoning plays with are reasoning."""
    kind = REASONING_PARSERS.get("think")
    for transcript in TOOL_TRANSCRIPTS[name]:
        text = f"<think>\nI could write {transcript.text}.\n</think>\n\n{transcript.text}"
        if "</think>" in transcript.text:
            continue
        expected = transcript._replace(text="", reasoning=f"I could write {transcript.text}.")
        for parts in (text, [text]):
            reply = Reply.of(in_pieces(ReplyParser(kind(), TOOL_PARSERS.get(name)(TOOLS)), parts))
            assert meaning(reply) == expected


@pytest.mark.parametrize("transcript", [t for t in TOOL_TRANSCRIPTS["openai"] if not t.calls])
def test_harmony_without_tools(transcript: Transcript) -> None:
    kind = REASONING_PARSERS.get("openai_gptoss")
    assert meaning(ReplyParser(kind()).whole(transcript.text)) == transcript._replace(text="")


def test_spans_of_reasoning() -> None:
    text = "<think>Hm</think>Yes"
    parser = ReplyParser(REASONING_PARSERS.get("think")())
    in_pieces(parser, text)
    assert parser.spans == [0, len("<think>Hm</think>")]
    text = "<|channel|>analysis<|message|>Hm<|end|><|channel|>final<|message|>Yes"
    parser = parser_of("openai")
    in_pieces(parser, text)
    assert parser.spans == [0, text.index("<|channel|>final")]


def test_only_the_first_call_where_they_may_not_be_parallel() -> None:
    text = TOOL_TRANSCRIPTS["hermes"][2].text + " so"
    parser = ReplyParser(None, TOOL_PARSERS.get("hermes")(TOOLS), parallel=False)
    reply = parser.whole(text)
    assert [call.name for call in reply.tool_calls] == ["get_weather"]
    assert (reply.content, parser.num_calls) == ("so", 1)


def test_ids_of_calls() -> None:
    assert parser_of("kimi_k2").whole(TOOL_TRANSCRIPTS["kimi_k2"][1].text).tool_calls[0].id == "functions.get_weather:0"
    assert re.fullmatch(r"[A-Za-z0-9]{9}", parser_of("mistral").whole("[TOOL_CALLS]get_time{}").tool_calls[0].id)
    reply = parser_of("mistral").whole("[TOOL_CALLS]get_time[CALL_ID]a1B2c3D4e[ARGS]{}")
    assert reply.tool_calls[0].id == "a1B2c3D4e"
    ids = [call.id for call in parser_of("hermes").whole(TOOL_TRANSCRIPTS["hermes"][2].text).tool_calls]
    assert len(set(ids)) == 2
    assert all(re.fullmatch("call_[0-9a-f]{24}", call_id) for call_id in ids)
