"""Every Triton kernel compiles for each family of GPU, on a machine without one, and fits into its shared memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from octavo.kernels.triton_launch import knows_gluon

SCRIPT = Path(__file__).parent.parent / "triton_compile.py"
KERNELS = {
    "_cache_write_kernel",
    "_rotary_cache_kernel",
    "_decode_kernel",
    "_decode_rotated_kernel",
    "_combine_kernel",
    "_tile_map_kernel",
    "_prefill_kernel",
}
SHARED_MEMORY = {"sm_90": 227, "sm_80": 99, "gfx942": 64, "gfx90a": 64}  # KB; sm_80's kernels run on sm_86 too


@pytest.mark.slow
@pytest.mark.skipif(find_spec("triton") is None, reason="needs the package triton")
@pytest.mark.parametrize("target", SHARED_MEMORY)
def test_every_kernel_compiles(target: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    result = subprocess.run(
        [sys.executable, str(SCRIPT), target], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    compiled = [json.loads(line) for line in result.stdout.splitlines()]
    own = {"_hopper_prefill_kernel"} if target == "sm_90" and knows_gluon() else set()
    assert {line["kernel"] for line in compiled} == KERNELS | own
    for line in compiled:
        assert ("hsaco" if target.startswith("gfx") else "cubin") in line["code"]
        assert line["shared"] <= SHARED_MEMORY[target] * 1024, line
    waiting = {line["kernel"] for line in compiled if line["waits"]}
    assert waiting == (KERNELS - {"_tile_map_kernel", "_prefill_kernel"} if target == "sm_90" else set())
    matrix = {line["kernel"] for line in compiled if line["tensor_cores"]}
    assert matrix == {"_decode_kernel", "_decode_rotated_kernel", "_prefill_kernel"} | own
