"""Offline measurements with a fake LLM, and start-up with a process that can't start."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from octavo.bench.offline import bench_latency, bench_throughput
from octavo.bench.startup import bench_startup
from octavo.bench.workload import Workload
from octavo.cost import MachineRates, ModelCost
from octavo.errors import ConfigError, EngineError
from octavo.outputs import CompletionOutput, RequestOutput
from octavo.sampling_params import SamplingParams

COST = ModelCost(
    layer_bytes=1000,
    head_bytes=200,
    embedding_bytes=0,
    layer_operations={"float32": 1},
    head_operations={"float32": 1},
    attention=(),
    attention_arithmetic="float32",
)
RATES = MachineRates(read_bytes=1e6, operations={"float32": 1e12}, barrier_seconds=1e-7)


class FakeLLM:
    """Answers every prompt with as many tokens as it is asked for; runs two at once, of up to 30 tokens a step."""

    def __init__(self) -> None:
        self.batches: list[list[list[int]]] = []
        self.config = SimpleNamespace(scheduler=SimpleNamespace(max_num_seqs=2, max_num_batched_tokens=30))

    def collective_rpc(self, method: str) -> list[Any]:
        return [{"cost": COST, "probe": RATES}[method]]

    def generate(self, prompts: Any, params: SamplingParams, *, use_tqdm: bool) -> list[RequestOutput]:
        batch: Sequence[list[int]] = [prompts] if isinstance(prompts[0], int) else prompts
        assert params.ignore_eos
        assert params.max_tokens is not None
        self.batches.append([*batch])
        answer = CompletionOutput(index=0, text="", token_ids=[1] * params.max_tokens)
        return [RequestOutput(request_id="0", prompt=None, prompt_token_ids=ids, outputs=[answer]) for ids in batch]


def test_throughput_counts_tokens() -> None:
    fake: Any = FakeLLM()
    found = bench_throughput(fake, Workload(random_input_len=10), 6, 4, use_tqdm=False)
    assert [len(batch) for batch in fake.batches] == [1, 6]
    assert (found["num_requests"], found["total_input_tokens"], found["total_output_tokens"]) == (6, 60, 24)
    assert found["prompt_throughput"] == pytest.approx(60 / found["duration"])
    assert found["output_throughput"] == pytest.approx(24 / found["duration"])
    assert found["request_throughput"] == pytest.approx(6 / found["duration"])
    # Three times two requests, each time four steps that read 1200 bytes
    assert found["floor"] == pytest.approx(3 * 4 * 1200 / 1e6)
    assert found["floor_output_throughput"] == pytest.approx(24 / found["floor"])
    assert found["floor_reached_percent"] == pytest.approx(100 * found["floor"] / found["duration"])
    assert found["probe"] == {"read_bytes": 1e6, "operations": {"float32": 1e12}, "barrier_seconds": 1e-7}


def test_latency_has_new_prompts_in_each_batch() -> None:
    fake: Any = FakeLLM()
    found = bench_latency(fake, Workload(random_input_len=10), 3, 4, 5)
    assert [len(batch) for batch in fake.batches] == [3] * 6
    assert len({tuple(prompt) for batch in fake.batches for prompt in batch}) == 18
    assert len(found["latencies"]) == 5
    assert found["mean_latency_s"] == pytest.approx(float(np.mean(found["latencies"])))
    assert found["floor"] == pytest.approx(2 * 4 * 1200 / 1e6)  # two requests, then the third
    assert found["floor_reached_percent"] == pytest.approx(100 * found["floor"] / float(np.median(found["latencies"])))
    assert found["p99_latency_s"] == pytest.approx(float(np.percentile(found["latencies"], 99)))


def test_numbers_that_are_none() -> None:
    fake: Any = FakeLLM()
    with pytest.raises(ConfigError, match="num_prompts must be 1 or more"):
        bench_throughput(fake, Workload(), 0, 4, use_tqdm=False)
    with pytest.raises(ConfigError, match="batch_size must be 1 or more"):
        bench_latency(fake, Workload(), 0, 4, 1)
    with pytest.raises(ConfigError, match="num_iters must be 1 or more"):
        bench_startup({}, 0)


@pytest.mark.slow
def test_a_process_that_fails_says_why() -> None:
    with pytest.raises(EngineError, match=r"ended with code 1: .*no-such-folder"):
        bench_startup({"model": "./no-such-folder"}, 1)


@pytest.mark.slow
def test_a_start_without_a_tokenizer(default_gguf: Path) -> None:
    found = bench_startup({"model": str(default_gguf), "skip_tokenizer_init": True, "max_model_len": 256}, 1)
    assert found["mean_first_token_s"] > 0
