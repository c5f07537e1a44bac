"""Engine's loop with a fake executor: failures, shutdown, asynchronous against synchronous scheduling, priorities."""

from __future__ import annotations

from typing import NoReturn

import pytest
from fakes import FakeExecutor

from octavo.config import KVCacheLayout, KVGroupSpec, SchedulerConfig
from octavo.engine.engine import Engine
from octavo.errors import EngineDeadError, EngineError
from octavo.request import FinishReason, Request
from octavo.sampling_params import SamplingParams

LAYOUT = KVCacheLayout(num_blocks=32, block_size=4, groups=(KVGroupSpec(layer_ids=(0,)),))


def make_engine(
    executor: FakeExecutor, *, policy: str = "fcfs", async_scheduling: bool = False, seqs: int = 4
) -> Engine:
    config = SchedulerConfig(
        max_model_len=64,
        max_num_seqs=seqs,
        max_num_batched_tokens=16,
        enable_chunked_prefill=True,
        long_prefill_token_threshold=0,
        policy=policy,
        async_scheduling=async_scheduling,
    )
    return Engine(config, executor.layout, executor, enable_prefix_caching=True)


def request(request_id: str, prompt: list[int], max_tokens: int = 8, priority: int = 0) -> Request:
    return Request(
        request_id=request_id,
        prompt_token_ids=prompt,
        params=SamplingParams(max_tokens=max_tokens),
        max_tokens=max_tokens,
        priority=priority,
    )


def drain(engine: Engine) -> dict[str, list[int]]:
    tokens: dict[str, list[int]] = {}
    while engine.has_unfinished:
        for update in engine.step():
            tokens.setdefault(update.request_id, []).extend(update.new_token_ids)
    return tokens


@pytest.mark.parametrize("async_scheduling", [False, True])
def test_a_failed_step_ends_all_requests_and_the_engine_goes_on(async_scheduling: bool) -> None:
    executor = FakeExecutor(LAYOUT, fail_at_step=3)
    engine = make_engine(executor, async_scheduling=async_scheduling)
    engine.add_request(request("a", list(range(10))))
    engine.add_request(request("b", list(range(20, 30))))
    with pytest.raises(EngineError, match="the device is on fire"):
        drain(engine)
    assert not engine.has_unfinished
    assert engine.stats.kv_cache_usage == 0
    engine.add_request(request("c", list(range(10))))
    assert len(drain(engine)["c"]) == 8
    assert engine.stats.prefix_cache_hits == 0  # nothing of the failed run is trusted


def test_an_interrupt_in_a_step_leaves_the_engine_usable() -> None:
    executor = FakeExecutor(LAYOUT)
    engine = make_engine(executor)
    engine.add_request(request("a", list(range(10))))
    engine.step()
    execute, executor.execute = executor.execute, interrupt  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        engine.step()
    executor.execute = execute  # type: ignore[method-assign]
    assert not engine.has_unfinished
    assert not engine._scheduler._sampled
    engine.add_request(request("a", list(range(10))))
    assert len(drain(engine)["a"]) == 8


def interrupt(batch: object) -> NoReturn:
    raise KeyboardInterrupt


def test_asynchronous_scheduling_runs_one_step_ahead_and_gives_the_same_tokens() -> None:
    results = []
    for async_scheduling in (False, True):
        executor = FakeExecutor(LAYOUT)
        engine = make_engine(executor, async_scheduling=async_scheduling)
        for index in range(6):
            engine.add_request(request(str(index), [index] * (3 + 5 * index), max_tokens=1 + 2 * index))
        results.append(drain(engine))
    assert results[0] == results[1]


def test_asynchronous_scheduling_sends_a_step_before_the_last_ones_tokens_are_known() -> None:
    executor = FakeExecutor(LAYOUT)
    engine = make_engine(executor, async_scheduling=True)
    engine.add_request(request("a", [1, 2, 3], max_tokens=5))
    engine.step()
    assert len(executor.batches) == 2
    assert executor.batches[1].cached.num_computed_tokens == [3]


def test_a_request_with_priority_overtakes_those_that_wait() -> None:
    executor = FakeExecutor(LAYOUT)
    engine = make_engine(executor, policy="priority", seqs=1)
    for request_id, priority in (("low", 5), ("high", -1), ("middle", 2)):
        engine.add_request(request(request_id, [1, 2], max_tokens=2, priority=priority))
    drain(engine)
    assert [new.request_id for batch in executor.batches for new in batch.new_requests] == ["high", "middle", "low"]


def test_requests_that_share_a_prompt_compute_it_once() -> None:
    executor = FakeExecutor(LAYOUT)
    engine = make_engine(executor)
    prompt = list(range(13))
    engine.add_request(request("a", prompt))
    engine.add_request(request("b", prompt))
    drain(engine)
    assert engine.stats.prefix_cache_hits == 12
    assert engine.reset_prefix_cache()
    engine.add_request(request("c", prompt))
    drain(engine)
    assert engine.stats.prefix_cache_hits == 12


@pytest.mark.parametrize("field", ["cache_salt", "lora"])
def test_salts_and_adapters_keep_caches_apart(field: str) -> None:
    engine = make_engine(FakeExecutor(LAYOUT))
    for request_id, value in (("a", "x"), ("b", "y"), ("c", None)):
        one = request(request_id, list(range(13)))
        setattr(one, field, value)
        engine._scheduler.add_request(one)
        engine._executor.kv.clear()  # type: ignore[attr-defined]
        drain(engine)
    assert engine.stats.prefix_cache_hits == 0


def test_ten_thousand_requests_wait_and_are_aborted_quickly() -> None:
    engine = make_engine(FakeExecutor(LAYOUT))
    for index in range(10_000):
        engine.add_request(request(str(index), [1, 2, 3]))
    assert engine.stats.num_waiting == 10_000
    engine.finish_requests([str(index) for index in range(1, 10_000)], FinishReason.ABORT)
    assert engine.stats.num_waiting == 1
    assert list(drain(engine)) == ["0"]


def test_after_shutdown_nothing_is_accepted() -> None:
    engine = make_engine(FakeExecutor(LAYOUT))
    engine.add_request(request("a", [1]))
    engine.shutdown()
    engine.shutdown()
    assert not engine.has_unfinished
    with pytest.raises(EngineDeadError, match="build a new"):
        engine.add_request(request("b", [1]))
