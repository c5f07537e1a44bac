"""What each way to multiply costs in quality, on a few thousand tokens of prose: see benchmarks/perplexity.py."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from all_kernels import CPP_KERNELS

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CPP_KERNELS, reason="plain torch has no 8-bit products")]

NUM_TOKENS = 4_000


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "perplexity.py"
    spec = importlib.util.spec_from_file_location("perplexity", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def exact(benchmark: ModuleType) -> float:
    return float(benchmark.perplexity(NUM_TOKENS, dtype="float32"))


@pytest.mark.parametrize(("quantization", "bound"), [("none", 0.002), ("gguf", 0.01), ("int8", 0.01)])
def test_within_the_bound(benchmark: ModuleType, exact: float, quantization: str, bound: float) -> None:
    assert abs(benchmark.perplexity(NUM_TOKENS, quantization=quantization) / exact - 1) < bound


def test_fp8_by_its_twin(benchmark: ModuleType, exact: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """4 significant bits of weights and activations, in the smallest model there is: larger ones lose less."""
    monkeypatch.setattr("octavo.kernels.cpu.CPUKernels.pack_fp8", None)  # taken back afterwards
    benchmark.multiply_by_twin()
    assert abs(benchmark.perplexity(NUM_TOKENS, quantization="fp8", enforce_eager=True) / exact - 1) < 0.04


def test_a_kv_cache_of_fp8(benchmark: ModuleType, exact: float) -> None:
    assert abs(benchmark.perplexity(NUM_TOKENS, quantization="none", kv_cache_dtype="fp8") / exact - 1) < 0.02
