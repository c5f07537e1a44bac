"""Properties of scheduler, block pool and engine loop over random arrivals, lengths, aborts and cache sizes."""

from __future__ import annotations

from dataclasses import dataclass

import hypothesis.strategies as st
from fakes import FakeExecutor, next_token
from hypothesis import given, settings

from octavo.config import KVCacheLayout, KVGroupSpec, SchedulerConfig
from octavo.engine.engine import Engine
from octavo.request import FinishReason, Request, RequestUpdate
from octavo.sampling_params import SamplingParams

VOCAB = 50
MAX_MODEL_LEN = 40


@dataclass
class Arrival:
    step: int
    prompt: list[int]
    max_tokens: int
    priority: int
    abort_after: int | None
    prompt_logprobs: bool


@dataclass
class World:
    arrivals: list[Arrival]
    config: SchedulerConfig
    layout: KVCacheLayout
    prefix_caching: bool


@st.composite
def worlds(draw: st.DrawFn) -> World:
    block_size = draw(st.sampled_from([1, 2, 4, 8]))
    windows = draw(st.sampled_from([[None], [3], [9], [None, 5], [7, None, 3]]))
    budget = draw(st.integers(4, 48))
    groups = tuple(KVGroupSpec(layer_ids=(i,), sliding_window=window) for i, window in enumerate(windows))
    least = sum(group.blocks_per_request(block_size, MAX_MODEL_LEN, budget) for group in groups)
    config = SchedulerConfig(
        max_model_len=MAX_MODEL_LEN,
        max_num_seqs=min(budget, draw(st.sampled_from([6, 4, 2, 1]))),
        max_num_batched_tokens=budget if (chunked := draw(st.booleans())) else max(budget, MAX_MODEL_LEN),
        enable_chunked_prefill=chunked,
        long_prefill_token_threshold=draw(st.sampled_from([0, 3])) if chunked else 0,
        policy=draw(st.sampled_from(["fcfs", "priority"])),
        async_scheduling=draw(st.booleans()),
    )
    least = sum(group.blocks_per_request(block_size, MAX_MODEL_LEN, config.max_num_batched_tokens) for group in groups)
    shared = draw(st.lists(st.integers(0, VOCAB - 1), min_size=6, max_size=16))
    arrivals = []
    for _ in range(draw(st.integers(2, 10))):
        tail = draw(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=14))
        prompt = shared[: draw(st.sampled_from([16, 7, 0]))] + tail
        arrivals.append(
            Arrival(
                step=draw(st.integers(0, 6)),
                prompt=prompt,
                max_tokens=MAX_MODEL_LEN - len(prompt) - draw(st.integers(0, 9)),
                priority=draw(st.integers(0, 2)) if config.policy == "priority" else 0,
                abort_after=draw(st.sampled_from([None, None, None, 0, 1, 3, 8])),
                prompt_logprobs=draw(st.integers(0, 4)) == 0,
            )
        )
    layout = KVCacheLayout(num_blocks=least + draw(st.integers(0, 6)), block_size=block_size, groups=groups)
    return World(arrivals, config, layout, draw(st.booleans()))


def expected_tokens(arrival: Arrival, eos: int) -> tuple[list[int], FinishReason]:
    token_ids = list(arrival.prompt)
    while True:
        token_ids.append(next_token(token_ids, VOCAB))
        if token_ids[-1] == eos:
            return token_ids[len(arrival.prompt) :], FinishReason.STOP
        if len(token_ids) - len(arrival.prompt) == arrival.max_tokens:
            return token_ids[len(arrival.prompt) :], FinishReason.LENGTH


def run(world: World) -> tuple[Engine, FakeExecutor, dict[str, list[RequestUpdate]], list[str]]:
    executor = FakeExecutor(world.layout, VOCAB)
    engine = Engine(world.config, world.layout, executor, enable_prefix_caching=world.prefix_caching)
    updates: dict[str, list[RequestUpdate]] = {}
    aborted: list[str] = []
    pending = sorted(enumerate(world.arrivals), key=lambda item: item[1].step)
    step = 0
    while pending or engine.has_unfinished:
        while pending and pending[0][1].step <= step:
            index, arrival = pending.pop(0)
            engine.add_request(
                Request(
                    request_id=str(index),
                    prompt_token_ids=arrival.prompt,
                    params=SamplingParams(
                        max_tokens=arrival.max_tokens, prompt_logprobs=0 if arrival.prompt_logprobs else None
                    ),
                    priority=arrival.priority,
                    eos_token_ids=(7,),
                    max_tokens=arrival.max_tokens,
                )
            )
        for index, arrival in enumerate(world.arrivals):
            due = arrival.abort_after is not None and step >= arrival.step + arrival.abort_after
            if due and str(index) in engine._scheduler.requests:
                engine.finish_requests([str(index)], FinishReason.ABORT)
                aborted.append(str(index))
        for update in engine.step():
            updates.setdefault(update.request_id, []).append(update)
        engine._scheduler.kv_cache.pool.check()
        step += 1
        assert step < 3000, "the engine makes no progress"
    return engine, executor, updates, aborted


@settings(max_examples=250, deadline=None)
@given(worlds())
def test_every_request_ends_with_its_own_tokens_and_nothing_is_left(world: World) -> None:
    engine, _, updates, aborted = run(world)
    for index, arrival in enumerate(world.arrivals):
        got = updates.get(str(index), [])
        tokens = [token for update in got for token in update.new_token_ids]
        wanted, reason = expected_tokens(arrival, eos=7)
        if str(index) in aborted:
            assert tokens == wanted[: len(tokens)]
            continue
        assert tokens == wanted
        assert [update.finish_reason for update in got] == [None] * (len(got) - 1) + [reason]
        if arrival.prompt_logprobs:
            rows = got[0].prompt_logprobs
            assert rows is not None
            assert [row and row.token_ids[0] for row in rows] == [None, *arrival.prompt[1:]]
            assert all(update.prompt_logprobs is None for update in got[1:])
    scheduler = engine._scheduler
    assert scheduler.kv_cache.pool.num_used == 0
    assert not scheduler.running
    assert len(scheduler.waiting) == 0
    assert not scheduler._sampled
    assert not scheduler._prompt_logprobs
    assert not scheduler.kv_cache._num_registered
    assert scheduler.waiting.peek() is None
    assert not scheduler.waiting._arrivals


@settings(max_examples=100, deadline=None)
@given(worlds())
def test_steps_keep_to_the_budget_and_the_rows(world: World) -> None:
    _, executor, _, _ = run(world)
    for batch in executor.batches:
        assert 0 < batch.total_num_scheduled_tokens <= world.config.max_num_batched_tokens
        assert batch.total_num_scheduled_tokens == sum(batch.num_scheduled_tokens.values())
        assert all(count > 0 for count in batch.num_scheduled_tokens.values())
        assert len(batch.num_scheduled_tokens) <= world.config.max_num_seqs
        assert set(batch.sampled_request_ids) <= set(batch.num_scheduled_tokens)


@settings(max_examples=100, deadline=None)
@given(worlds())
def test_requests_are_first_scheduled_in_the_order_of_their_arrival(world: World) -> None:
    if world.config.policy != "fcfs":
        return
    _, executor, _, _ = run(world)
    first: list[int] = []
    for batch in executor.batches:
        for new in batch.new_requests:
            if int(new.request_id) not in first:
                first.append(int(new.request_id))
    order = sorted(range(len(world.arrivals)), key=lambda i: world.arrivals[i].step)
    assert first == [index for index in order if index in first]
