"""What the host does for a step and for a request: scheduler, engine loop, outputs and intake, without a device.

    python benchmarks/host_cost.py        needs no model and no tokenizer

The engine is the real one, with two steps under way; its executor answers at once with a token for every row that wants
one. Steps are timed while all requests decode and none ends. Random prompt lengths spread the block boundaries over the
steps; equal lengths bring them all to the same one of 16. Prints Markdown, in microseconds: medians, and in brackets
minima. Results worth keeping go to host.md.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from octavo.batch import ScheduledBatch, StepOutput
from octavo.config import Checkpoint, KVCacheLayout, KVGroupSpec, ModelConfig, SchedulerConfig
from octavo.engine.engine import Engine
from octavo.engine.generation_config import SamplingDefaults
from octavo.engine.inputs import InputProcessor
from octavo.engine.outputs import OutputProcessor
from octavo.executor.base import Executor
from octavo.request import FinishReason
from octavo.sampling_params import RequestOutputKind, SamplingParams

VOCAB_SIZE = 150_000
NUM_REQUESTS, NUM_STEPS, BLOCK_SIZE = 256, 200, 16
MAX_MODEL_LEN = 16_384


class InstantExecutor(Executor):
    """Every step is done at once; its tokens are arbitrary."""

    def __init__(self, layout: KVCacheLayout) -> None:
        self._layout = layout

    def start(self) -> None: ...

    def load(self) -> None: ...

    def kv_capacity(self) -> KVCacheLayout:
        return self._layout

    def call(self, method: str) -> list[Any]:
        return [None]

    def shutdown(self) -> None: ...

    def execute(self, batch: ScheduledBatch) -> Future[StepOutput]:
        token_ids = [[1000 + batch.step_id] for _ in batch.sampled_request_ids]
        future: Future[StepOutput] = Future()
        future.set_result(StepOutput(step_id=batch.step_id, request_ids=batch.sampled_request_ids, token_ids=token_ids))
        return future


class Stopwatch:
    """The times of the calls of functions, by name, in nanoseconds."""

    def __init__(self) -> None:
        self.times: dict[str, list[int]] = {}

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        times = self.times.setdefault(name, [])

        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter_ns()
            result = function(*args, **kwargs)
            times.append(time.perf_counter_ns() - started)
            return result

        return timed


def make_inputs() -> InputProcessor:
    model = ModelConfig(
        model="host",
        checkpoint=Checkpoint(path="", format="safetensors", hf_config={}, generation_config={}),
        architecture="none",
        dtype="bfloat16",
        quantization=None,
        max_model_len=MAX_MODEL_LEN,
        vocab_size=VOCAB_SIZE,
        seed=0,
        max_logprobs=20,
        eos_token_ids=(2, 7),
    )
    return InputProcessor(model, scheduler_config(async_scheduling=True), None, SamplingDefaults({}))


def scheduler_config(*, async_scheduling: bool) -> SchedulerConfig:
    return SchedulerConfig(
        max_model_len=MAX_MODEL_LEN,
        max_num_seqs=NUM_REQUESTS,
        max_num_batched_tokens=8192,
        enable_chunked_prefill=True,
        long_prefill_token_threshold=0,
        policy="fcfs",
        async_scheduling=async_scheduling,
    )


def decode(
    prompt_lengths: list[int], kind: RequestOutputKind, windows: tuple[int | None, ...] = (None,)
) -> dict[str, list[int]]:
    """The times of each part in the steps that only decode."""
    groups = tuple(KVGroupSpec(layer_ids=(i,), sliding_window=window) for i, window in enumerate(windows))
    blocks = sum(length + NUM_STEPS + 600 for length in prompt_lengths) // BLOCK_SIZE * len(groups)
    layout = KVCacheLayout(num_blocks=blocks, block_size=BLOCK_SIZE, groups=groups)
    config = scheduler_config(async_scheduling=True)
    engine = Engine(config, layout, InstantExecutor(layout), enable_prefix_caching=True)
    inputs, outputs = make_inputs(), OutputProcessor(None)
    params = SamplingParams(max_tokens=2000, detokenize=False, ignore_eos=True, output_kind=kind)
    rng = random.Random(0)
    for index, length in enumerate(prompt_lengths):
        prompt = inputs.prompt(rng.choices(range(VOCAB_SIZE), k=length))
        requests = inputs.requests(str(index), prompt, params)
        outputs.add(str(index), prompt, params, requests)
        engine.add_request(requests[0])
    while len(updates := engine.step()) < NUM_REQUESTS:  # until all decode
        outputs.process(updates)
    watch = Stopwatch()
    scheduler = engine._scheduler
    scheduler.schedule = watch.around("schedule", scheduler.schedule)  # type: ignore[method-assign]
    scheduler.update = watch.around("update", scheduler.update)  # type: ignore[method-assign]
    process = watch.around("outputs", outputs.process)
    for _ in range(NUM_STEPS):
        assert len(process(engine.step())[0]) in (0, NUM_REQUESTS)
    assert engine.stats.num_running == NUM_REQUESTS
    return watch.times


def intake(length: int) -> dict[str, list[int]]:
    """The times of each part for a request whose prompt has `length` ids, until it is part of a step."""
    groups = (KVGroupSpec(layer_ids=(0,)),)
    layout = KVCacheLayout(num_blocks=600 * length // BLOCK_SIZE, block_size=BLOCK_SIZE, groups=groups)
    config = scheduler_config(async_scheduling=False)
    engine = Engine(config, layout, InstantExecutor(layout), enable_prefix_caching=True)
    inputs, outputs = make_inputs(), OutputProcessor(None)
    params = SamplingParams(max_tokens=2, detokenize=False)
    rng = random.Random(0)
    watch = Stopwatch()
    prompt_of, requests_of = watch.around("prompt", inputs.prompt), watch.around("requests", inputs.requests)
    scheduler = engine._scheduler
    scheduler.schedule = watch.around("admission", scheduler.schedule)  # type: ignore[method-assign]
    for index in range(NUM_STEPS):
        prompt = prompt_of(rng.choices(range(VOCAB_SIZE), k=length))
        requests = requests_of(str(index), prompt, params)
        outputs.add(str(index), prompt, params, requests)
        engine.add_request(requests[0])
        outputs.process(engine.step())
        engine.finish_requests([str(index)], FinishReason.ABORT)
    return watch.times


def row(case: str, times: dict[str, list[int]]) -> str:
    """A line of Markdown: the parts in their order, and their sum."""
    medians = [statistics.median(values) / 1000 for values in times.values()]
    least = [min(values) / 1000 for values in times.values()]
    medians.append(sum(medians))
    least.append(sum(least))
    return f"| {case} | " + " | ".join(f"{m:.0f} ({n:.0f})" for m, n in zip(medians, least, strict=True)) + " |"


def main() -> None:
    rng = random.Random(1)
    spread = [rng.randint(100, 1000) for _ in range(NUM_REQUESTS)]
    final_only, delta = RequestOutputKind.FINAL_ONLY, RequestOutputKind.DELTA
    print(f"| {NUM_REQUESTS} requests decode | schedule | update | outputs | sum |\n|---|---|---|---|---|")
    print(row("offline, contexts of 100 to 1,200", decode(spread, final_only)))
    print(row("the same, boundaries on one step", decode([512] * NUM_REQUESTS, final_only)))
    print(row("the same, contexts of 800 to 8,200", decode([8 * length for length in spread], final_only)))
    print(row("the same, a second group with a window of 512", decode(spread, final_only, (None, 512))))
    print(row("streamed, contexts of 100 to 1,200", decode(spread, delta)))
    print("\n| a request comes | check ids | make request | admit | sum |\n|---|---|---|---|---|")
    print(row("1,000 ids", intake(1000)))
    print(row("8,000 ids", intake(8000)))


if __name__ == "__main__":
    main()
