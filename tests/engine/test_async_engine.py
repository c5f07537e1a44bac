"""AsyncEngine over the real loop and a fake executor: outputs, aborts, slow readers, the queue's limit, failures."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import Future
from typing import Any

import pytest
from fake_engine_process import LAYOUT, FakeEngineProcess, opened_model
from fakes import FakeExecutor, next_token

from octavo.batch import ScheduledBatch, StepOutput
from octavo.engine.async_engine import AsyncEngine
from octavo.errors import EngineDeadError, EngineError, InvalidRequestError, OverloadedError
from octavo.observability.prometheus import ServerMetrics
from octavo.outputs import RequestOutput
from octavo.sampling_params import RequestOutputKind, SamplingParams

Body = Callable[[AsyncEngine, FakeEngineProcess], Awaitable[None]]


def run(body: Body, *, executor: FakeExecutor | None = None, **options: Any) -> None:
    async def main() -> None:
        process = FakeEngineProcess(executor)
        engine = AsyncEngine(
            process,  # type: ignore[arg-type]
            opened_model(),
            None,
            metrics=ServerMetrics("fake"),
            **({"max_num_queued_reqs": None, "health_timeout": 60.0, "log_stats": True} | options),
        )
        try:
            await asyncio.wait_for(body(engine, process), 20)
        finally:
            await engine.close()

    asyncio.run(main())


def generate(
    engine: AsyncEngine, ids: list[int], max_tokens: int = 8, kind: int = RequestOutputKind.DELTA, **fields: Any
) -> AsyncGenerator[RequestOutput, None]:
    params = SamplingParams(max_tokens=max_tokens, output_kind=RequestOutputKind(kind), **fields)
    return engine.generate("r", engine.inputs.prompt(ids), params)


def expected(ids: list[int], count: int) -> list[int]:
    tokens = list(ids)
    for _ in range(count):
        tokens.append(next_token(tokens, 50))
    return tokens[len(ids) :]


def test_steps_are_recorded_while_nothing_is_to_do() -> None:
    """A message waits for one of them at most, and one that fails is the last."""
    executor = FakeExecutor(LAYOUT)
    executor.recordings = [True, True, RuntimeError("no memory"), True]

    async def body(engine: AsyncEngine, process: FakeEngineProcess) -> None:
        while len(executor.recordings) > 1:
            await asyncio.sleep(0.01)
        for ids in ([1, 2, 3], [4, 5]):
            assert await all_ids(generate(engine, ids)) == expected(ids, 8)
        assert executor.recordings == [True]

    run(body, executor=executor)


def test_a_request_comes_between_recordings() -> None:
    executor = FakeExecutor(LAYOUT)
    started, go_on = threading.Event(), threading.Event()

    def call(method: str) -> list[Any]:
        assert method == "record_ahead"
        started.set()
        assert go_on.wait(10)
        return [True]

    executor.call = call  # type: ignore[method-assign]

    async def body(engine: AsyncEngine, process: FakeEngineProcess) -> None:
        assert await asyncio.to_thread(started.wait, 10)
        answer = asyncio.ensure_future(all_ids(generate(engine, [1, 2, 3])))
        await asyncio.sleep(0.05)
        assert not executor.batches
        go_on.set()
        assert await answer == expected([1, 2, 3], 8)
        executor.call = lambda method: [False]  # type: ignore[method-assign]

    run(body, executor=executor)


async def all_ids(outputs: AsyncGenerator[RequestOutput, None], index: int = 0) -> list[int]:
    return [token_id async for output in outputs for token_id in output.outputs[index].token_ids]


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def blocks_are_free(engine: AsyncEngine) -> bool:
    return engine._stats.kv_cache_usage == 0 and engine._stats.num_running == 0 and engine.num_waiting == 0


def test_many_requests_get_their_own_tokens() -> None:
    async def body(engine: AsyncEngine, process: FakeEngineProcess) -> None:
        prompts = [[index, 3, index] for index in range(12)]
        answers = await asyncio.gather(*(all_ids(generate(engine, prompt, 10)) for prompt in prompts))
        assert answers == [expected(prompt, 10) for prompt in prompts]
        await until(lambda: blocks_are_free(engine))
        assert engine.num_unfinished == 0

    run(body)


@pytest.mark.parametrize("kind", list(RequestOutputKind))
def test_output_kinds(kind: RequestOutputKind) -> None:
    async def body(engine: AsyncEngine, process: FakeEngineProcess) -> None:
        outputs = [output async for output in generate(engine, [1, 2], 6, kind, n=2)]
        assert outputs[-1].finished
        assert all(output.request_id == "r" for output in outputs)
        for index in range(2):
            if kind is RequestOutputKind.DELTA:
                ids = [i for output in outputs for i in output.outputs[index].token_ids]
            else:
                ids = list(outputs[-1].outputs[index].token_ids)
            assert ids == expected([1, 2], 6)
        assert kind is not RequestOutputKind.FINAL_ONLY or len(outputs) == 1

    run(body)


def test_a_slow_reader_gets_all_in_one_output() -> None:
    async def body(engine: AsyncEngine, process: FakeEngineProcess) -> None:
        slow = generate(engine, [5, 6], 20, n=2)
        outputs = [await anext(slow)]
        quick = await all_ids(generate(engine, [7], 30))
        assert quick == expected([7], 30)
        outputs += [output async for output in slow]
        assert len(outputs) <= 2
        for index in range(2):
            assert [i for output in outputs for i in output.outputs[index].token_ids] == expected([5, 6], 20)
        assert outputs[-1].finished

    run(body)


def test_closing_frees_the_blocks_within_a_step() -> None:
    async def body(engine: AsyncEngine, process: FakeEngineProcess) -> None:
        outputs = generate(engine, [5, 6], 100, n=2)
        await anext(outputs)
        process.go.clear()
        await outputs.aclose()
        num_steps = len(process.executor.batches)
        process.go.set()
        await until(lambda: blocks_are_free(engine))
        assert len(process.executor.batches) <= num_steps + 1
        assert engine.num_unfinished == 0
        assert await all_ids(generate(engine, [5, 6], 5)) == expected([5, 6], 5)

    run(body)


def test_cancelling_the_reader_aborts() -> None:
    async def body(engine: AsyncEngine, process: FakeEngineProcess) -> None:
        process.go.clear()
        task = asyncio.create_task(all_ids(generate(engine, [5, 6], 120, RequestOutputKind.FINAL_ONLY)))
        await until(lambda: engine.num_unfinished == 1)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert engine.num_unfinished == 0
        process.go.set()
        await until(lambda: blocks_are_free(engine))
        assert len(process.executor.batches) <= 1

    run(body)


def test_the_queue_is_bounded() -> None:
    async def body(engine: AsyncEngine, process: FakeEngineProcess) -> None:
        process.go.clear()
        waiting = [asyncio.create_task(all_ids(generate(engine, [i], 4))) for i in range(3)]
        await until(lambda: engine.num_waiting == 3)
        with pytest.raises(OverloadedError, match="3 requests wait already, at most 3 may"):
            await anext(generate(engine, [9], 4))
        process.go.set()
        assert await asyncio.gather(*waiting) == [expected([i], 4) for i in range(3)]
        await until(lambda: engine.num_waiting == 0)
        assert await all_ids(generate(engine, [9], 4, n=4)) == expected([9], 4)  # more than the limit, but alone

    run(body, max_num_queued_reqs=3)


def test_a_failing_step_ends_its_requests_and_others_go_on() -> None:
    async def body(engine: AsyncEngine, process: FakeEngineProcess) -> None:
        with pytest.raises(EngineError, match="send it again"):
            await all_ids(generate(engine, [1, 2], 20))
        assert engine.health() is None
        assert await all_ids(generate(engine, [1, 2], 20)) == expected([1, 2], 20)

    run(body, executor=FakeExecutor(LAYOUT, fail_at_step=3))


def test_a_dead_engine_answers_everyone() -> None:
    async def body(engine: AsyncEngine, process: FakeEngineProcess) -> None:
        process.go.clear()
        waiting = [asyncio.create_task(all_ids(generate(engine, [i], 4))) for i in range(3)]
        await until(lambda: engine.num_unfinished == 3)
        process.cause_of_death = "it was killed"
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(result) for result in results] == [EngineDeadError] * 3
        assert await engine.wait_for_death() == "it was killed"
        assert "has stopped" in (engine.health() or "")
        assert not engine.is_ready()
        with pytest.raises(EngineDeadError):
            await anext(generate(engine, [1], 4))

    run(body)


def test_an_engine_that_stands_still_is_not_healthy() -> None:
    async def body(engine: AsyncEngine, process: FakeEngineProcess) -> None:
        await asyncio.sleep(0.15)
        assert engine.health() is None  # idle is not stuck
        process.go.clear()
        task = asyncio.create_task(all_ids(generate(engine, [1], 4)))
        await until(lambda: engine.num_unfinished == 1)
        assert engine.health() is None
        await until(lambda: engine.health() is not None)
        assert "no progress" in (engine.health() or "")
        process.go.set()
        await task
        assert engine.health() is None

    run(body, health_timeout=0.1)


def test_a_bad_request_does_not_start() -> None:
    async def body(engine: AsyncEngine, process: FakeEngineProcess) -> None:
        with pytest.raises(InvalidRequestError, match="outside the vocabulary"):
            await anext(generate(engine, [1], 4, stop_token_ids=[50]))
        assert engine.num_unfinished == 0
        engine.drain()
        assert not engine.is_ready()
        with pytest.raises(OverloadedError, match="about to stop"):
            await anext(generate(engine, [1], 4))

    run(body)


class UnhurriedExecutor(FakeExecutor):
    """Takes long enough for a step that an abort comes before the hundredth."""

    def execute(self, batch: ScheduledBatch) -> Future[StepOutput]:
        time.sleep(0.002)
        return super().execute(batch)


def test_metrics_count_what_happened() -> None:
    async def body(engine: AsyncEngine, process: FakeEngineProcess) -> None:
        await asyncio.gather(*(all_ids(generate(engine, [i, 1], 5)) for i in range(3)))
        aborted = generate(engine, [7], 100)
        await anext(aborted)
        await aborted.aclose()
        await until(lambda: blocks_are_free(engine))
        text = engine.metrics.render()[0].decode()
        values = {
            line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line[0] != "#"
        }
        label = 'engine="0",model_name="fake"'
        assert values['vllm:request_success_total{engine="0",finished_reason="length",model_name="fake"}'] == 3
        assert values['vllm:request_success_total{engine="0",finished_reason="abort",model_name="fake"}'] == 1
        assert values[f"vllm:prompt_tokens_total{{{label}}}"] == 7
        assert values[f"vllm:time_to_first_token_seconds_count{{{label}}}"] == 4
        assert values[f"vllm:e2e_request_latency_seconds_count{{{label}}}"] == 4
        assert values[f"vllm:inter_token_latency_seconds_count{{{label}}}"] >= 12
        assert values[f"vllm:num_requests_running{{{label}}}"] == 0

    run(body, executor=UnhurriedExecutor(LAYOUT))
