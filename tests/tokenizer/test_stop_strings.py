"""Stop strings in a growing text against a search through the whole text."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.tokenizer.stop_strings import StopChecker


def in_pieces(stop: list[str], include: bool, pieces: list[str]) -> tuple[str, str | None]:
    checker = StopChecker(stop, include)
    text = ""
    for piece in pieces:
        emitted, matched = checker.push(piece)
        text += emitted
        if matched is not None:
            return text, matched
    return text + checker.flush(), None


def at_once(stop: list[str], include: bool, text: str) -> tuple[str, str | None]:
    found = [(text.index(string) + len(string), text.index(string), string) for string in stop if string in text]
    if not found:
        return text, None
    end, start, string = min(found)
    return text[: end if include else start], string


STRINGS = st.text("ab.é", min_size=1, max_size=5)


@settings(max_examples=500, deadline=None)
@given(st.lists(STRINGS, max_size=4), st.booleans(), st.lists(st.text("ab.é", max_size=4), max_size=20))
def test_as_a_search_through_the_whole_text(stop: list[str], include: bool, pieces: list[str]) -> None:
    assert in_pieces(stop, include, pieces) == at_once(stop, include, "".join(pieces))


@settings(max_examples=300, deadline=None)
@given(st.lists(STRINGS, min_size=1, max_size=4), st.lists(st.text("ab.é", max_size=4), max_size=20))
def test_only_what_may_begin_a_stop_string_is_held_back(stop: list[str], pieces: list[str]) -> None:
    checker = StopChecker(stop, False)
    text = emitted = ""
    for piece in pieces:
        text += piece
        new, matched = checker.push(piece)
        emitted += new
        if matched is not None:
            return
        prefixes = [string[:size] for string in stop for size in range(1, len(string))]
        assert len(text) - len(emitted) == max((len(p) for p in prefixes if text.endswith(p)), default=0)
    assert emitted + checker.flush() == text


@pytest.mark.parametrize(
    ("stop", "pieces", "text", "matched"),
    [
        (["\n\n"], ["a\n", "\nb"], "a", "\n\n"),
        (["abc", "b"], ["xab", "c"], "xa", "b"),  # complete first
        (["bc", "abc"], ["xabc"], "x", "abc"),  # complete at once: the longest
        (["aab"], ["aaab"], "a", "aab"),
        (["END"], ["E", "N", "E", "N", "D"], "EN", "END"),
        (["]"], ["[1]"], "[1", "]"),
        (["^-\\"], ["a^-\\b"], "a", "^-\\"),
    ],
)
def test_examples(stop: list[str], pieces: list[str], text: str, matched: str) -> None:
    assert in_pieces(stop, False, pieces) == (text, matched)


def test_nothing_is_held_back_if_the_stop_string_is_shown_anyway() -> None:
    checker = StopChecker(["END"], True)
    assert checker.push("xE") == ("xE", None)
    assert checker.push("NDy") == ("ND", "END")
    assert checker.flush() == ""


def test_without_stop_strings_all_passes() -> None:
    checker = StopChecker([], False)
    assert checker.push("anything") == ("anything", None)
    assert checker.flush() == ""


def test_the_cost_is_linear() -> None:
    """A text that is always about to meet a long stop string is the worst case of a search by comparing."""

    def seconds(length: int) -> float:
        checker = StopChecker(["a" * length + "b"], False)
        start = time.perf_counter()
        for _ in range(20000):
            checker.push("aa")
        return time.perf_counter() - start

    seconds(2000)  # the automaton is remembered
    assert seconds(2000) < 10 * seconds(20)
