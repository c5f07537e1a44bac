"""The Triton kernels without a GPU: their tests in Triton's interpreter, and compilation ahead of time."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

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
