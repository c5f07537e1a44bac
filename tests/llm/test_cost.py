"""What a loaded model says it costs, against the sizes of transformers' model; the floor of a real run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tiny_models
from all_kernels import needs_cpp_kernels

from octavo import LLM
from octavo.bench.floor import Floor
from octavo.bench.offline import bench_latency, bench_throughput
from octavo.bench.workload import Workload
from octavo.cost import MachineRates, ModelCost
from octavo.kernels import torch_ops
from octavo.platforms.cpu import CpuPlatform

HEAD = 2 * tiny_models.VOCAB * 64  # operations of a head over hidden states of 64


@pytest.fixture
def plain_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the C++ kernels were not built."""
    monkeypatch.setattr(CpuPlatform, "kernels", property(lambda _: torch_ops))


def cost_of(llm: LLM) -> ModelCost:
    (cost,) = llm.collective_rpc("cost")
    assert isinstance(cost, ModelCost)
    return cost


def sizes(name: str) -> tuple[int, int]:
    """Numbers in all parameters that are in layers, and in those that are matrices: all but embedding and head."""
    parameters = {
        path: parameter
        for path, parameter in tiny_models.build(name).named_parameters()
        if not path.endswith(("embed_tokens.weight", "embed_positions.weight", "lm_head.weight"))
    }
    matrices = (parameter.numel() for parameter in parameters.values() if parameter.ndim == 2)
    return sum(parameter.numel() for parameter in parameters.values()), sum(matrices)


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "opt", "gemma3"])
@pytest.mark.usefixtures("plain_torch")
def test_weights_and_operations(name: str, make_llm: Callable[..., LLM]) -> None:
    with make_llm(name) as llm:
        cost = cost_of(llm)
    numbers, in_matrices = sizes(name)
    assert cost.layer_bytes == 4 * numbers
    assert cost.layer_operations == {"float32": 2 * in_matrices}
    assert cost.head_bytes == 4 * tiny_models.VOCAB * 64  # tied or not
    assert cost.head_operations == {"float32": HEAD}
    assert cost.embedding_bytes == 4 * 64 * (2 if name == "opt" else 1)  # OPT looks positions up, too
    assert cost.attention_arithmetic == "float32"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_keys_and_values(dtype: str, make_llm: Callable[..., LLM]) -> None:
    size = {"float32": 4, "bfloat16": 2}[dtype]
    with make_llm("llama", dtype=dtype) as llm:
        (layers,) = cost_of(llm).attention
    # 3 layers with 2 KV heads and 4 query heads of 16
    assert (layers.sliding_window, layers.kv_bytes, layers.operations) == (None, 3 * 2 * 2 * 16 * size, 3 * 4 * 4 * 16)
    with make_llm("gemma3", dtype=dtype) as llm:
        by_window = {layers.sliding_window: layers for layers in cost_of(llm).attention}
    assert {window: layers.operations for window, layers in by_window.items()} == {24: 3 * 256, None: 256}
    assert {window: layers.kv_bytes for window, layers in by_window.items()} == {24: 3 * 64 * size, None: 64 * size}


@pytest.mark.parametrize(
    ("options", "arithmetic", "bytes_per_number"),
    [
        ({"dtype": "bfloat16"}, "bfloat16", 2),
        ({"dtype": "float32"}, "float32", 4),
        pytest.param({"dtype": "bfloat16", "quantization": "int8"}, "int8", 1, marks=needs_cpp_kernels),
        pytest.param({"dtype": "float32", "quantization": "int8"}, "int8", 1, marks=needs_cpp_kernels),
    ],
)
def test_what_quantization_makes_of_weights(
    options: dict[str, Any], arithmetic: str, bytes_per_number: int, make_llm: Callable[..., LLM]
) -> None:
    with make_llm("llama", **options) as llm:
        cost = cost_of(llm)
    _, in_matrices = sizes("llama")
    assert cost.layer_operations == {arithmetic: 2 * in_matrices}
    assert cost.head_operations == {arithmetic: HEAD}
    # Packed rows and columns are filled up, and these are small ones.
    assert in_matrices * bytes_per_number <= cost.layer_bytes < 2 * in_matrices * bytes_per_number


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_offline_benchmarks_tell_the_floor(dtype: str, make_llm: Callable[..., LLM]) -> None:
    workload = Workload(random_input_len=6, vocab_size=tiny_models.VOCAB)
    with make_llm("mistral", dtype=dtype, max_num_batched_tokens=10, max_num_seqs=2) as llm:
        for found, measured in (
            (bench_throughput(llm, workload, 3, 4, use_tqdm=False), "duration"),
            (bench_latency(llm, workload, 3, 4, 1), "median_latency_s"),
        ):
            floor = Floor(cost_of(llm), MachineRates(**found["probe"]))
            two, one = (
                floor.prefill(count, 6, 10) + sum(floor.decode_step(count, context) for context in (7, 8, 9))
                for count in (2, 1)
            )
            assert found["floor"] == pytest.approx(two + one)
            assert found["floor_reached_percent"] == pytest.approx(100 * found["floor"] / found[measured])


@pytest.mark.usefixtures("plain_torch")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_plain_torch_has_a_floor(dtype: str, make_llm: Callable[..., LLM]) -> None:
    with make_llm("llama", dtype=dtype) as llm:
        found = bench_throughput(llm, Workload(random_input_len=6, vocab_size=160), 2, 3, use_tqdm=False)
    assert found["floor"] > 0
    assert list(found["probe"]["operations"]) == [dtype]
    assert found["probe"]["barrier_seconds"] is None
