"""The parser of server-sent events: every way to cut a stream gives the same events."""

from __future__ import annotations

import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from octavo.client.sse import EventParser

TEXTS = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=12)


def events_of(stream: bytes, cuts: list[int]) -> list[bytes]:
    parser = EventParser()
    places = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    return [event for a, b in pairwise(places) for event in parser.feed(stream[a:b])]


@given(st.lists(TEXTS, max_size=6), st.sampled_from(["\n", "\r\n", "\r"]), st.lists(st.integers(0, 10**6), max_size=20))
def test_events_cut_anywhere_come_out_whole(texts: list[str], end: str, cuts: list[int]) -> None:
    payloads = [json.dumps({"text": text}, ensure_ascii=False).encode() for text in texts]
    stream = b"".join(b"data: " + payload + (end * 2).encode() for payload in payloads)
    assert events_of(stream, cuts) == payloads


def test_one_byte_at_a_time() -> None:
    stream = 'data: {"é": "日本😀"}\r\n\r\ndata: [DONE]\n\n'.encode()
    assert events_of(stream, list(range(len(stream)))) == ['{"é": "日本😀"}'.encode(), b"[DONE]"]


def test_comments_other_fields_and_several_data_lines() -> None:
    stream = b": keep-alive\n\nevent: x\nid: 1\ndata:a\ndata:  b\n\ndata: not whole"
    assert events_of(stream, []) == [b"a\n b"]


def test_an_event_comes_out_with_its_last_byte() -> None:
    parser = EventParser()
    assert parser.feed(b"data: 1\r\n\r") == [b"1"]
    assert parser.feed(b"\ndata: 2\n") == []
    assert parser.feed(b"\n") == [b"2"]
