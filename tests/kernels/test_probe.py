"""The probe of the machine, against the same measured with torch, and its twin in plain torch."""

from __future__ import annotations

import math
import time

import pytest
import torch
from all_kernels import CPP_KERNELS, needs_cpp_kernels

from octavo.kernels import torch_probe
from octavo.kernels.cpu import CPUKernels

CPU = torch.device("cpu")


def alone(kernels: CPUKernels) -> CPUKernels:
    return CPUKernels(kernels.extension, 1, kernels.team.isa)


def product_rate() -> float:
    """Operations per second of torch's product in one thread; so small that it ends between two interruptions."""
    a = torch.ones(384, 384)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    best = math.inf
    for _ in range(200):
        started = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - started)
    torch.set_num_threads(threads)
    return 2 * 384**3 / best


@needs_cpp_kernels
def test_the_rate_of_float32_is_a_little_above_that_of_a_product() -> None:
    kernels = alone(next(iter(CPP_KERNELS.values())))
    ratios: list[float] = []
    while not any(0.9 < ratio < 2.5 for ratio in ratios):  # another process may slow down either side
        assert len(ratios) < 10, ratios
        ratios.append(kernels.probe().float32 / product_rate())


@pytest.mark.parametrize("name", CPP_KERNELS)
def test_every_instruction_set_has_a_probe(name: str) -> None:
    found = alone(CPP_KERNELS[name]).probe()
    assert found.barrier_seconds > 0
    assert found.read_bytes > 0
    assert found.float32 > 0
    assert (found.bfloat16 > 0) == (found.int8 > 0) == (name == "avx512")


@needs_cpp_kernels
def test_a_probe_leaves_a_recording_alone() -> None:
    kernels = alone(next(iter(CPP_KERNELS.values())))
    x = torch.randn(4, 64)

    def forward() -> torch.Tensor:
        kernels.probe()
        return kernels.relu(x)

    recording = kernels.record(forward, 4)
    assert recording.num_calls == 1
    recording.replay(4, 1)
    assert torch.equal(recording.result, x.relu())


def test_plain_torch_measures_too() -> None:
    assert torch_probe.read_rate(CPU) > 0
    assert torch_probe.multiply_rate(torch.bfloat16, CPU) > 0
