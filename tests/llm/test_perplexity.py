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
