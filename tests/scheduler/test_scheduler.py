"""Scheduler: single steps whose outcome can be told in advance."""

from __future__ import annotations

import pytest

from octavo.batch import ScheduledBatch, StepOutput
from octavo.config import KVCacheLayout, KVGroupSpec, SchedulerConfig
from octavo.request import FinishReason, Request, TokenLogprobs
from octavo.sampling_params import SamplingParams
from octavo.scheduler.scheduler import Scheduler

BLOCK_SIZE = 4


def make_scheduler(num_blocks: int = 64, seqs: int = 8) -> Scheduler:
    config = SchedulerConfig(
        max_model_len=64,
        max_num_seqs=seqs,
        max_num_batched_tokens=64,
        enable_chunked_prefill=True,
        long_prefill_token_threshold=0,
        policy="fcfs",
        async_scheduling=True,
    )
    layout = KVCacheLayout(num_blocks=num_blocks, block_size=BLOCK_SIZE, groups=(KVGroupSpec(layer_ids=(0,)),))
    return Scheduler(config, layout, enable_prefix_caching=True)


def add(scheduler: Scheduler, request_id: str, length: int, **fields: object) -> Request:
    one = Request(
        request_id=request_id,
        prompt_token_ids=[ord(request_id)] * length,
        params=SamplingParams(),
        **({"max_tokens": 40, "eos_token_ids": (2,)} | fields),  # type: ignore[arg-type]
    )
    scheduler.add_request(one)
    return one


def scheduled(scheduler: Scheduler) -> ScheduledBatch:
    batch = scheduler.schedule()
    assert batch is not None
    return batch


def answer(batch: ScheduledBatch, *token_ids: int) -> StepOutput:
    """The same tokens for every row that samples."""
    ids = batch.sampled_request_ids
    return StepOutput(step_id=batch.step_id, request_ids=ids, token_ids=[list(token_ids) for _ in ids])


@pytest.mark.parametrize("length", [1, 3, 4, 5, 7, 8, 9])
def test_steps_ahead_take_a_block_at_each_boundary_and_nowhere_else(length: int) -> None:
    scheduler = make_scheduler()
    add(scheduler, "a", length)
    ahead = [scheduled(scheduler)]
    for computed in range(length, length + 12):
        batch = scheduled(scheduler)
        assert batch.cached.num_computed_tokens == [computed]
        ((new_ids,),) = batch.cached.new_block_ids
        assert len(new_ids) == (computed % BLOCK_SIZE == 0)
        assert batch.total_num_scheduled_tokens == 1
        ahead.append(batch)
        oldest = ahead.pop(0)
        (update,) = scheduler.update(oldest, answer(oldest, 9))
        assert update.new_token_ids == [9]


def test_the_longest_context_comes_first() -> None:
    """Rows and samples have one order, also beside a prompt of which only a part is computed; equals keep theirs."""
    scheduler = make_scheduler()
    for request_id, length in (("a", 5), ("b", 20), ("c", 9), ("d", 20)):
        add(scheduler, request_id, length)
    batch = scheduled(scheduler)
    assert list(batch.num_scheduled_tokens.items()) == [("b", 20), ("d", 20), ("c", 9), ("a", 5)]
    assert batch.sampled_request_ids == ["b", "d", "c", "a"]
    first = StepOutput(step_id=1, request_ids=["b", "d", "c", "a"], token_ids=[[11], [13], [12], [10]])
    updates = scheduler.update(batch, first)
    assert {update.request_id: update.new_token_ids for update in updates} == {
        "a": [10],
        "b": [11],
        "c": [12],
        "d": [13],
    }
    add(scheduler, "e", 63)
    batch = scheduled(scheduler)
    assert list(batch.num_scheduled_tokens.items()) == [("e", 60), ("b", 1), ("d", 1), ("c", 1), ("a", 1)]
    assert batch.sampled_request_ids == ["b", "d", "c", "a"]
    assert batch.cached.request_ids == ["a", "b", "c", "d"]


def test_whoever_finds_no_block_at_a_boundary_takes_the_place_of_the_last() -> None:
    scheduler = make_scheduler(num_blocks=4)
    add(scheduler, "a", 7)
    add(scheduler, "b", 7)
    batch = scheduled(scheduler)
    scheduler.update(batch, answer(batch, 9))
    batch = scheduled(scheduler)  # the eighth tokens still have a place
    assert batch.cached.request_ids == ["a", "b"]
    scheduler.update(batch, answer(batch, 9))
    batch = scheduled(scheduler)
    assert batch.cached.request_ids == ["a"]
    assert batch.released_request_ids == ["b"]
    victim = scheduler.requests["b"]
    assert (victim.num_computed_tokens, victim.num_settled_tokens, victim.block_ids) == (0, 0, ())
    scheduler.kv_cache.pool.check()


def test_a_preempted_request_comes_back_with_all_its_tokens() -> None:
    scheduler = make_scheduler(num_blocks=5)
    add(scheduler, "a", 7, max_tokens=3)
    add(scheduler, "b", 11, max_tokens=3)
    tokens: dict[str, list[int]] = {"a": [], "b": []}
    for step in range(20):
        batch = scheduler.schedule()
        if batch is None:
            break
        for update in scheduler.update(batch, answer(batch, 10 + step)):
            tokens[update.request_id] += update.new_token_ids
    assert scheduler.stats.num_preemptions == 1
    assert not scheduler.has_unfinished
    assert [len(ids) for ids in tokens.values()] == [3, 3]
    assert scheduler.kv_cache.pool.num_used == 0


def test_of_several_tokens_those_after_the_end_are_dropped_with_their_log_probabilities() -> None:
    scheduler = make_scheduler()
    one = add(scheduler, "a", 3)
    batch = scheduled(scheduler)
    output = answer(batch, 5, 2, 9)
    output.logprobs["a"] = [TokenLogprobs([token], [-1.0], 1) for token in (5, 2, 9)]
    (update,) = scheduler.update(batch, output)
    assert update.new_token_ids == one.output_token_ids == [5, 2]
    assert update.logprobs is not None
    assert [row.token_ids for row in update.logprobs] == [[5], [2]]
    assert (update.finish_reason, update.stop_reason) == (FinishReason.STOP, None)
    assert scheduler.stats.generation_tokens == 2


def test_the_request_that_ends_leaves_and_the_others_keep_their_order() -> None:
    scheduler = make_scheduler()
    for request_id in "abcdef":
        add(scheduler, request_id, 3, max_tokens=1 if request_id in "ad" else 9)
    batch = scheduled(scheduler)
    scheduler.update(batch, answer(batch, 9))
    scheduler.finish_requests(["c"], FinishReason.ABORT)
    assert [one.request_id for one in scheduler.running] == ["b", "e", "f"]
    assert scheduled(scheduler).released_request_ids == ["a", "d", "c"]
