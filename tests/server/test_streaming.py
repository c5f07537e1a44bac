"""Streams: the same text as without, usage, failures on the way, and clients that go away."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from asgi_client import app_of, events_of, post, post_and_leave
from fake_async_engine import FakeAsyncEngine

from octavo.errors import EngineError

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
BODIES: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {"messages": [{"role": "user", "content": "hi"}]}),
    (COMPLETIONS, {"prompt": "hi", "max_tokens": 200}),
    (COMPLETIONS, {"prompt": ["hi", "fox"], "max_tokens": 200}),
]
TEXT = "naïve café 日本語の 🙂👩‍👩‍👧 the END fox jumps, and ENDS"


def text_of(events: list[Any], index: int = 0) -> str:
    """The concatenated deltas of one choice."""
    choices = [choice for event in events for choice in event["choices"] if choice["index"] == index]
    return "".join(choice["text"] if "text" in choice else choice["delta"].get("content", "") for choice in choices)


@pytest.mark.parametrize("stop", [None, ["END fox"], ["語", "ENDS"], ["👩‍👧"]])
def test_any_split_into_tokens_gives_the_same_text(stop: list[str] | None) -> None:
    ends = [TEXT.find(s) for s in stop or []]
    expected = TEXT[: min(ends)] if ends else TEXT
    for seed in range(50):
        path, body = BODIES[seed % 2]
        body = {**body, "stop": stop}
        whole = post(FakeAsyncEngine([TEXT], seed=seed), path, body).json()
        events = events_of(post(FakeAsyncEngine([TEXT], seed=seed), path, {**body, "stream": True}))
        choice = whole["choices"][0]
        assert (choice["message"]["content"] if path == CHAT else choice["text"]) == expected
        assert text_of(events) == expected
        last = events[-1]["choices"][0]
        assert last["finish_reason"] == choice["finish_reason"] == "stop"
        assert last["stop_reason"] == choice["stop_reason"]


@pytest.mark.parametrize(("path", "body"), BODIES[:2])
def test_ids_and_logprobs_of_a_stream_join_to_those_of_the_whole(path: str, body: dict[str, Any]) -> None:
    extra = {"logprobs": 2} if path == COMPLETIONS else {"logprobs": True, "top_logprobs": 2}
    body = {**body, **extra, "return_token_ids": True, "echo": True}
    for seed in range(5):
        whole = post(FakeAsyncEngine([TEXT], seed=seed), path, body).json()
        events = events_of(post(FakeAsyncEngine([TEXT], seed=seed), path, {**body, "stream": True}))
        choice = whole["choices"][0]
        choices = [event["choices"][0] for event in events]
        assert [i for c in choices for i in c.get("token_ids", [])] == choice["token_ids"]
        joined: dict[str, list[Any]] = {name: [] for name in choice["logprobs"]}
        for logprobs in filter(None, (c["logprobs"] for c in choices)):
            for name, values in logprobs.items():
                joined[name] += values
        assert joined == choice["logprobs"]
        first = events[0] if path == CHAT else choices[0]
        assert first["prompt_token_ids"] == (whole if path == CHAT else choice)["prompt_token_ids"]


@pytest.mark.parametrize(("path", "body"), BODIES[:2])
def test_three_choices_each_end_once(path: str, body: dict[str, Any]) -> None:
    texts = ["one", "two and more", "the third, which is the longest of all"]
    events = events_of(post(FakeAsyncEngine(texts, seed=7), path, {**body, "n": 3, "stream": True}))
    assert [text_of(events, index) for index in range(3)] == texts
    for index in range(3):
        reasons = [c["finish_reason"] for e in events for c in e["choices"] if c["index"] == index]
        assert reasons == [None] * (len(reasons) - 1) + ["stop"]
        deltas = [c.get("delta", {}) for e in events for c in e["choices"] if c["index"] == index]
        roles = [delta.get("role") for delta in deltas]
        assert roles == ["assistant" if path == CHAT else None] + [None] * (len(roles) - 1)


@pytest.mark.parametrize(("path", "body"), BODIES)
def test_usage_comes_when_asked_for(path: str, body: dict[str, Any]) -> None:
    body = {**body, "stream": True}
    whole = post(FakeAsyncEngine([TEXT], seed=1), path, {**body, "stream": False}).json()["usage"]
    for options in (None, {}, {"include_usage": False}, {"continuous_usage_stats": True}):
        events = events_of(post(FakeAsyncEngine([TEXT]), path, {**body, "stream_options": options}))
        assert all("usage" not in event and event["choices"] for event in events)
    at_end = {"stream_options": {"include_usage": True}}
    *events, last = events_of(post(FakeAsyncEngine([TEXT], seed=1), path, {**body, **at_end}))
    assert (last["choices"], last["usage"]) == ([], whole)
    assert all("usage" not in event for event in events)
    last = events_of(post(FakeAsyncEngine([TEXT], seed=1), path, body, enable_force_include_usage=True))[-1]
    assert (last["choices"], last["usage"]) == ([], whole)
    everywhere = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
    *events, last = events_of(post(FakeAsyncEngine([TEXT], seed=1), path, {**body, **everywhere}))
    counts = [event["usage"]["completion_tokens"] for event in events]
    assert counts == sorted(counts)
    assert counts[-1] == whole["completion_tokens"] == last["usage"]["completion_tokens"]
    assert {event["usage"]["prompt_tokens"] for event in events} == {whole["prompt_tokens"]}


@pytest.mark.parametrize(("path", "body"), BODIES)
@pytest.mark.parametrize("error", [None, EngineError("/secret/path failed"), ZeroDivisionError("secret")])
def test_a_failure_in_mid_stream_is_an_event(path: str, body: dict[str, Any], error: Exception | None) -> None:
    engine = FakeAsyncEngine([TEXT], seed=0)
    engine.fail_after = 3
    engine.error = error or engine.error
    events = events_of(post(engine, path, {**body, "stream": True}))
    assert len(events) >= 2
    assert all("choices" in event for event in events[:-1])
    assert set(events[-1]) == {"error"}
    assert set(events[-1]["error"]) == {"message", "type", "param", "code"}
    assert "secret" not in events[-1]["error"]["message"]
    assert engine.num_unfinished == 0


@pytest.mark.parametrize(("path", "body"), BODIES)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("pause_after", [0, 3])
def test_a_client_that_goes_away_ends_its_request(
    path: str, body: dict[str, Any], stream: bool, pause_after: int
) -> None:
    async def run() -> list[bytes]:
        engine = FakeAsyncEngine([TEXT], seed=0)
        engine.pause_after = pause_after
        after_bytes = 300 if stream and pause_after else None
        read = await post_and_leave(app_of(engine), path, {**body, "stream": stream}, after_bytes=after_bytes)
        # Here and not later: the end of the loop would close what was left open.
        assert engine.num_unfinished == 0
        assert engine.finished == []
        assert sorted(engine.aborted) == sorted(call.request_id for call in engine.calls)
        assert engine.aborted
        return read

    read = asyncio.run(run())
    assert any(b"data:" in part for part in read) == (stream and pause_after > 0)


@pytest.mark.parametrize("stalls", [False, True])
def test_a_client_that_goes_away_while_the_engine_runs_on(stalls: bool) -> None:
    async def run() -> None:
        engine = FakeAsyncEngine(["z" * 400])
        body = {"prompt": "hi", "max_tokens": 400, "stream": True}
        await post_and_leave(app_of(engine), COMPLETIONS, body, after_bytes=1000, stalls=stalls)
        assert (len(engine.aborted), engine.finished, engine.num_unfinished) == (1, [], 0)

    asyncio.run(run())


def test_text_is_sent_as_soon_as_it_is_there() -> None:
    async def run() -> str:
        engine = FakeAsyncEngine(["fox dog"])
        engine.pause_after = 1
        body = {"prompt": "hi", "stream": True}
        read = await post_and_leave(app_of(engine), COMPLETIONS, body, after_bytes=1)
        return b"".join(read).decode()

    event = json.loads(asyncio.run(run()).removeprefix("data: "))
    assert "fox".startswith(event["choices"][0]["text"])
    assert event["choices"][0]["text"]
