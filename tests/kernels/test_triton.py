"""The Triton kernels without a GPU: their tests in Triton's interpreter, and compilation ahead of time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import tiny_models

TESTS = Path(__file__).parent.parent

pytestmark = [
    pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed"),
    pytest.mark.slow,
]


@pytest.mark.parametrize("name", ["layers", "linear", "sampling"])
def test_interpreted(name: str) -> None:
    """In a process of its own, as Triton decides when it is imported."""
    # An overflow is infinity on a GPU, and a warning of numpy's here.
    command = [sys.executable, "-m", "pytest", "-W", "ignore::RuntimeWarning", f"tests/gpu/test_triton_{name}.py"]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    result = subprocess.run(command, cwd=TESTS.parent, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-5000:]
    assert " passed" in result.stdout


@pytest.mark.parametrize("target", ["cuda 90", "cuda 80", "hip gfx942", "hip gfx90a"])
def test_compiled_ahead_of_time(target: str) -> None:
    command = [sys.executable, str(TESTS / "compile_triton.py"), *target.split()]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    result = subprocess.run(command, cwd=TESTS.parent, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-5000:]
    assert len(result.stdout.splitlines()) > 40


@pytest.mark.parametrize("name", ["qwen3", "gemma3"])
def test_a_models_kernels_are_compiled_ahead(name: str, tmp_path: Path) -> None:
    """All that its steps start, and each once: a second time finds them."""
    folder = tiny_models.save(name, tmp_path / name)
    command = [sys.executable, str(TESTS / "compile_model.py"), str(folder)]
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path / "cache")
    result = subprocess.run(command, cwd=TESTS.parent, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-5000:]
    first, second = map(json.loads, result.stdout.splitlines())
    attention = {"_decode_rotated_kernel", "_combine_kernel", "_prefill_kernel", "_tile_map_kernel"}
    others = {"embedding_kernel", "angles_kernel", "fma_kernel", "gated_kernel", "best_kernel"}
    assert attention | others <= first.keys()
    assert first["_tile_map_kernel"] == 2  # for prompts alone, and for prompts beside single tokens
    assert second == first
