"""OutputState: reasoning before a structure, its budget, and what a token does."""

from __future__ import annotations

import numpy as np
import pytest

from octavo.errors import InvalidRequestError
from octavo.structured.matcher import Matcher, TokenGrammars
from octavo.structured.output_state import OutputState, Verdict
from octavo.structured.vocabulary import byte_vocabulary
from octavo.structured_params import ReasoningMarkers

EOS = 256
GRAMMARS = TokenGrammars(byte_vocabulary())
THINK, END = list(b"<t>"), list(b"</t>")


def matcher(pattern: str = "[0-9]+!") -> Matcher:
    return GRAMMARS.regex(pattern).copy()


def state(structure: Matcher | None, **options: object) -> OutputState:
    return OutputState(structure, eos_token_ids=(EOS,), **options)  # type: ignore[arg-type]


def allowed(of: OutputState) -> set[int] | None:
    """The tokens that may come; None for all."""
    row = np.full(9, 0x5A5A, np.int32)
    if not of.fill(row):
        return None
    return {i for i in range(257) if row[i // 32] >> (i % 32) & 1}


def write(of: OutputState, text: bytes | list[int]) -> list[Verdict]:
    verdicts = []
    for token_id in text:
        may = allowed(of)
        assert may is None or token_id in may, token_id
        verdicts.append(of.advance(token_id))
    return verdicts


def test_a_structure_from_its_first_token_to_its_last() -> None:
    output = state(matcher())
    assert allowed(output) == set(b"0123456789")
    assert write(output, b"42!") == [Verdict.GOES_ON, Verdict.GOES_ON, Verdict.COMPLETE]


def test_a_token_that_is_not_allowed() -> None:
    output = state(matcher())
    assert output.advance(ord("x")) is Verdict.REFUSED


def test_the_end_is_allowed_where_the_structure_may_end() -> None:
    output = state(matcher("ab*"))
    assert allowed(output) == {ord("a")}
    write(output, b"a")
    assert allowed(output) == {ord("b"), EOS}
    assert state(matcher("ab*"), ignore_eos=True).advance(ord("a")) is Verdict.GOES_ON
    without = state(matcher("ab*"), ignore_eos=True)
    write(without, b"a")
    assert allowed(without) == {ord("b")}
    assert output.advance(EOS) is Verdict.COMPLETE


def test_reasoning_that_the_prompt_has_opened() -> None:
    output = state(matcher(), markers=ReasoningMarkers(end_token_ids=END))
    assert allowed(output) == set(range(256))  # anything but the end of the output
    write(output, b"hm < / t </t>")
    assert allowed(output) == set(b"0123456789")
    assert write(output, b"7!")[-1] is Verdict.COMPLETE


def test_an_end_that_begins_twice() -> None:
    output = state(matcher(), markers=ReasoningMarkers(end_token_ids=list(b"aab")))
    write(output, b"aaab")
    assert allowed(output) == set(b"0123456789")


@pytest.mark.parametrize("opens", [True, False])
def test_reasoning_that_the_output_may_open(opens: bool) -> None:
    output = state(matcher(), markers=ReasoningMarkers(start_token_ids=THINK, end_token_ids=END))
    assert allowed(output) == set(b"0123456789<")
    if opens:
        write(output, b"<")
        assert allowed(output) == {ord("t")}
        write(output, b"t>")
        assert allowed(output) == set(range(256))
        write(output, b"so</t>")
    assert write(output, b"1!")[-1] is Verdict.COMPLETE


@pytest.mark.parametrize("structured", [True, False])
@pytest.mark.parametrize("budget", [0, 1, 5])
def test_a_budget_ends_the_reasoning(budget: int, structured: bool) -> None:
    markers = ReasoningMarkers(start_token_ids=THINK, end_token_ids=END, budget_end_token_ids=list(b".</t>"))
    output = state(matcher() if structured else None, markers=markers, budget=budget)
    write(output, b"<t>" + b"x" * budget)
    for token_id in b".</t>":
        assert allowed(output) == {token_id}
        output.advance(token_id)
    assert allowed(output) == (set(b"0123456789") if structured else None)
    assert output.is_free is not structured


def test_reasoning_within_its_budget_is_left_alone() -> None:
    output = state(None, markers=ReasoningMarkers(end_token_ids=END), budget=20)
    assert allowed(output) is None
    write(output, b"short</t>")
    assert output.is_free


def test_an_output_without_reasoning_has_no_budget() -> None:
    output = state(None, markers=ReasoningMarkers(start_token_ids=THINK, end_token_ids=END), budget=3)
    assert allowed(output) is None
    write(output, b"a")
    assert output.is_free


def test_markers_are_checked() -> None:
    for given in ({"end_token_ids": []}, {"end_token_ids": [-1]}, {"end_token_ids": [1], "budget_end_token_ids": [2]}):
        with pytest.raises(InvalidRequestError, match="reasoning_markers"):
            ReasoningMarkers(**given)
