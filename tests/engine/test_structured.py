"""Structured requests in the engine's loop, with a fake executor that samples by bitmask and checks every KV entry."""

from __future__ import annotations

import re
import threading
from typing import Any

import pytest
from fakes import FakeExecutor

from octavo.config import KVCacheLayout, KVGroupSpec, SchedulerConfig
from octavo.engine.engine import Engine
from octavo.engine.structuring import Structuring
from octavo.errors import EngineError
from octavo.request import FinishReason, Request
from octavo.sampling_params import ReasoningMarkers, SamplingParams, StructuredOutputsParams
from octavo.structured.compiler import GrammarCompiler
from octavo.structured.vocabulary import Vocabulary, byte_vocabulary

LAYOUT = KVCacheLayout(num_blocks=32, block_size=4, groups=(KVGroupSpec(layer_ids=(0,)),))
COMPILER = GrammarCompiler(byte_vocabulary)
PATTERN = "([a-c]{2}[0-9]){3,4}!"


def make_engine(
    executor: FakeExecutor, *, async_scheduling: bool, compiler: GrammarCompiler = COMPILER, seqs: int = 8
) -> Engine:
    config = SchedulerConfig(
        max_model_len=64,
        max_num_seqs=seqs,
        max_num_batched_tokens=16,
        enable_chunked_prefill=True,
        long_prefill_token_threshold=0,
        policy="fcfs",
        async_scheduling=async_scheduling,
    )
    structuring = Structuring(compiler, vocab_size=257, eos_token_ids=(256,))
    return Engine(config, executor.layout, executor, enable_prefix_caching=True, structuring=structuring)


def executor(**options: Any) -> FakeExecutor:
    return FakeExecutor(options.pop("layout", LAYOUT), vocab_size=257, **options)


def request(request_id: str, prompt: list[int], max_tokens: int = 40, **fields: Any) -> Request:
    if isinstance(pattern := fields.pop("regex", None), str):
        fields["structured_outputs"] = StructuredOutputsParams(regex=pattern)
    return Request(
        request_id=request_id,
        prompt_token_ids=prompt,
        params=SamplingParams(max_tokens=max_tokens, **fields),
        max_tokens=max_tokens,
        eos_token_ids=(256,),
    )


def drain(engine: Engine) -> dict[str, tuple[bytes, FinishReason | None]]:
    tokens: dict[str, list[int]] = {}
    reasons: dict[str, FinishReason | None] = {}
    while engine.has_unfinished:
        for update in engine.step():
            tokens.setdefault(update.request_id, []).extend(update.new_token_ids)
            reasons[update.request_id] = update.finish_reason
    assert not engine._scheduler._states
    return {name: (bytes(i for i in ids if i < 256), reasons[name]) for name, ids in tokens.items()}


@pytest.mark.parametrize("async_scheduling", [False, True])
def test_mixed_batches(async_scheduling: bool) -> None:
    engine = make_engine(executor(), async_scheduling=async_scheduling)
    for index in range(12):
        structured = {"regex": PATTERN} if index % 3 else {}
        engine.add_request(request(str(index), [index] * (1 + index), **structured))
    found = drain(engine)
    assert len(found) == 12
    for index in range(12):
        text, reason = found[str(index)]
        if index % 3:
            assert re.fullmatch(PATTERN, text.decode()), text
            assert reason is FinishReason.STOP


def alone_and_together(num_blocks: int) -> tuple[list[Any], int]:
    layout = KVCacheLayout(num_blocks=num_blocks, block_size=4, groups=(KVGroupSpec(layer_ids=(0,)),))
    found, num_preemptions = [], 0
    for async_scheduling in (False, True):
        engine = make_engine(executor(layout=layout), async_scheduling=async_scheduling)
        for index in range(6):
            engine.add_request(request(str(index), [index] * 9, regex=PATTERN))
        found.append(drain(engine))
        num_preemptions = engine.stats.num_preemptions
    for index in range(6):
        engine = make_engine(executor(), async_scheduling=False)
        engine.add_request(request(str(index), [index] * 9, regex=PATTERN))
        found.append(drain(engine))
    return found, num_preemptions


def test_preempted_asynchronous_and_lonely_requests_give_the_same() -> None:
    (synchronous, asynchronous, *alone), num_preemptions = alone_and_together(num_blocks=14)
    assert num_preemptions > 0
    assert synchronous == asynchronous
    assert {name: end for each in alone for name, end in each.items()} == synchronous


def test_a_full_length_ends_with_length() -> None:
    engine = make_engine(executor(), async_scheduling=True)
    engine.add_request(request("a", [1, 2], max_tokens=5, regex=PATTERN))
    engine.add_request(request("b", [1, 2], max_tokens=3, regex="abc"))  # complete with the last token that it may have
    found = drain(engine)
    assert found["a"][1] is FinishReason.LENGTH
    assert found["b"] == (b"abc", FinishReason.STOP)


def test_reasoning_and_its_budget() -> None:
    markers = ReasoningMarkers(end_token_ids=[7, 8])
    engine = make_engine(executor(), async_scheduling=True)
    common = {"thinking_token_budget": 6, "reasoning_markers": markers}
    engine.add_request(request("structured", [1, 2], regex="ok", **common))
    engine.add_request(request("free", [1, 2], max_tokens=12, **common))
    found = drain(engine)
    assert re.fullmatch(rb"(?s).{0,6}\x07\x08ok", found["structured"][0])
    assert b"\x07\x08" in found["free"][0]


def test_others_go_on_while_a_grammar_is_compiled() -> None:
    read = threading.Event()

    def slow_vocabulary() -> Vocabulary:
        assert read.wait(30)
        return byte_vocabulary()

    engine = make_engine(executor(), async_scheduling=True, compiler=GrammarCompiler(slow_vocabulary))
    engine.add_request(request("slow", [1], regex="ab"))
    engine.add_request(request("gone", [1], regex="ab"))
    engine.add_request(request("free", [1, 2], max_tokens=4))
    assert engine.stats.num_waiting == 3
    free: list[int] = []
    while len(free) < 4:
        for update in engine.step():
            assert update.request_id == "free"
            free += update.new_token_ids
    assert engine.step() == []
    assert engine.has_unfinished
    engine.finish_requests(["gone"], FinishReason.ABORT)
    read.set()
    assert drain(engine) == {"slow": (b"ab", FinishReason.STOP)}


def test_a_grammar_that_fails_in_the_engine_ends_its_request_alone() -> None:
    engine = make_engine(executor(), async_scheduling=True)
    engine.add_request(request("bad", [1], regex="("))
    engine.add_request(request("good", [1], regex="ab"))
    found = drain(engine)
    assert found["bad"] == (b"", FinishReason.ERROR)
    assert found["good"] == (b"ab", FinishReason.STOP)


@pytest.mark.parametrize("async_scheduling", [False, True])
def test_an_abort_between_steps(async_scheduling: bool) -> None:
    engine = make_engine(executor(), async_scheduling=async_scheduling)
    engine.add_request(request("a", [1], regex=PATTERN))
    engine.add_request(request("b", [2], regex=PATTERN))
    while not engine.step():
        pass
    engine.finish_requests(["a"], FinishReason.ABORT)
    found = drain(engine)
    assert re.search("([a-c]{2}[0-9]){2}!$", found["b"][0].decode())  # its first token was told before
    assert found.keys() == {"b"}


@pytest.mark.parametrize("async_scheduling", [False, True])
def test_a_failed_step_leaves_nothing_behind(async_scheduling: bool) -> None:
    engine = make_engine(executor(fail_at_step=3), async_scheduling=async_scheduling)
    engine.add_request(request("a", list(range(10)), regex=PATTERN))
    with pytest.raises(EngineError, match="on fire"):
        drain(engine)
    assert not engine.has_unfinished
    engine.add_request(request("a", list(range(10)), regex=PATTERN))
    assert re.fullmatch(PATTERN, drain(engine)["a"][0].decode())
