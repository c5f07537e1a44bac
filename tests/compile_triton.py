"""Compiles the Triton kernels ahead of time: python compile_triton.py cuda 90 | hip gfx942. Needs no GPU.

The kernels' own functions are called with tensors without memory, and every launch becomes a compilation. Prints a line
for each kernel: its name, registers a thread and bytes spilled where ptxas tells them, shared memory.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget

from octavo.kernels import (
    triton_bitmask,
    triton_fp8,
    triton_gated,
    triton_launch,
    triton_layers,
    triton_logprobs,
    triton_penalties,
    triton_sampling,
)
from octavo.kernels.triton_gated import gated_linear
from octavo.kernels.triton_launch import GpuTraits
from octavo.kernels.triton_linear import Gate, Norm, linear
from octavo.kernels.triton_tiles import MmaTile, WideTile, choose_fp8_tile, choose_gated_tile, choose_tile


class NoGPU:
    """Stands in for Triton's driver: says which GPU to compile for."""

    def __init__(self, target: GPUTarget) -> None:
        self.target = target

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("meta")


def registers(ptx: str, arch: int) -> str:
    """What ptxas says of a kernel."""
    tool = triton.knobs.nvidia.ptxas.path
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        name = f"sm_{arch}a" if arch >= 90 else f"sm_{arch}"
        command = [tool, "-v", f"--gpu-name={name}", file.name, "-o", "/dev/null"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    used, spilled = re.search(r"Used (\d+) registers", said), re.search(r"(\d+) bytes spill stores", said)
    assert used is not None
    assert spilled is not None
    return f"registers {used[1]}, spilled {spilled[1]}"


class Compiler:
    """Takes the place of `launch`."""

    def __init__(self, target: GPUTarget, *, detail: bool) -> None:
        self.dependent = target.backend == "cuda" and int(target.arch) >= 90
        self._target, self._detail = target, detail
        self._seen: set[Any] = set()

    def __call__(self, kernel: Any, grid: tuple[int, ...], *args: Any, **constants: Any) -> None:
        what = [a.dtype if isinstance(a, Tensor) else a for a in args]
        key = (kernel.fn.__name__, str(what), str(constants))
        if key in self._seen:
            return
        self._seen.add(key)
        early = {"launch_pdl": True} if self.dependent else {}
        compiled = kernel.warmup(*what, grid=grid, **constants, **early)
        facts = f"shared {compiled.metadata.shared}"
        if self._detail and self._target.backend == "cuda":
            facts = f"{registers(compiled.asm['ptx'], int(self._target.arch))}, {facts}"
        print(kernel.fn.__name__, facts, {k: v for k, v in constants.items() if k.isupper()}, flush=True)


def empty(*size: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(size, dtype=dtype, device="meta")


def layers() -> None:
    x, weight = empty(4, 1024), empty(1024)
    for norm in (triton_layers.rms_norm, triton_layers.gemma_rms_norm):
        norm(x, weight, 1e-6)
        norm(empty(4, 16, 128), empty(128), 1e-6)
    triton_layers.layer_norm(x, weight, weight, 1e-5)
    angles = triton_layers.rotary_angles(empty(4, dtype=torch.int64), empty(64, dtype=torch.float32), 1.0, x.dtype)
    triton_layers.rotary_embedding(empty(4, 24, 128), *angles)
    triton_layers.rotary_embedding(empty(4, 24, 160), *angles)
    for name in ("silu_and_mul", "gelu_and_mul", "gelu_tanh_and_mul", "relu", "gelu"):
        getattr(triton_layers, name)(x)
    triton_layers.add(x, x)
    triton_layers.scale(x, 0.5)
    triton_layers.embedding(empty(4, dtype=torch.int64), empty(100, 1024))


def linears(family: str) -> None:
    factors = {k: Norm(empty(k), 1e-6) for k in (896, 1024, 4096)}
    silu = Gate("silu")
    shapes: list[tuple[int, int, dict[str, Any]]] = [
        (4096, 1024, {"norm": factors[1024]}),
        (1024, 2048, {}),
        (3072, 1024, {"norm": factors[1024], "gate": silu}),
        (1024, 3072, {}),
        (151936, 1024, {"norm": factors[1024], "out_dtype": torch.float32}),
        (6144, 4096, {"norm": factors[4096], "bias": empty(6144)}),
        (4096, 4096, {}),
        (14336, 4096, {"norm": factors[4096], "gate": Gate("gelu_tanh", interleaved=True)}),
        (4096, 14336, {}),
        (128256, 4096, {"norm": factors[4096], "out_dtype": torch.float32}),
        (4864, 896, {"norm": Norm(empty(896), 1e-6, gemma=True), "gate": Gate("gelu")}),
    ]
    for tokens in (1, 2, 4, 16, 64):
        for size, k, fused in shapes:
            rows = 2 * size if "gate" in fused else size
            residual = None if "norm" in fused else empty(tokens, size)
            gated = "gate" in fused
            if (tile := choose_tile(family, torch.bfloat16, tokens, size, k, gated=gated)) is not None:
                linear(empty(tokens, k), empty(rows, k), residual=residual, tile=tile, **fused)
    for size, k, act in ((3072, 1024, "SILU"), (14336, 4096, "SILU"), (6144, 1152, "GELU_TANH")):
        if (many := choose_gated_tile(family, 132, torch.bfloat16, 8192, size)) is not None:
            gated_linear(empty(8192, k), empty(2 * size, k), getattr(triton_layers, act), many)
    for tile in (MmaTile(16, 64, 2, 2, 4), WideTile(64, 64, 2, 4)):
        linear(empty(16, 1024), empty(6144, 1024), gate=silu, tile=tile)


def fp8(family: str) -> None:
    """Of NVIDIA's GPUs that have products of 8 bits."""
    for channels in (1024, 4096, 14336):
        triton_fp8.round_rows(empty(4, channels))
        triton_fp8.round_rows(empty(4, channels), (empty(channels), 1e-6))
    shapes = [(6144, 4096, False), (4096, 4096, False), (14336, 4096, True), (4096, 14336, False), (3072, 1024, True)]
    shapes += [(4096, 1024, False), (1024, 2048, False), (1024, 3072, False), (4864, 896, True)]
    for tokens in (1, 2, 3, 16):
        for size, k, gated in shapes:
            tile = choose_fp8_tile(family, torch.bfloat16, tokens, size, k, gated=gated)
            if tile is not None:
                rows = 2 * size if gated else size
                weight, scale = empty(rows, k, dtype=torch.float8_e4m3fn), empty(rows, dtype=torch.float32)
                linear(empty(tokens, k), weight, scale=scale, gate=Gate("silu") if gated else None, tile=tile)


def sampling() -> None:
    rows, vocab_size = 4, 151936
    logits = empty(rows, vocab_size, dtype=torch.float32)
    ids, floats = empty(rows, dtype=torch.int64), empty(rows, dtype=torch.float32)
    triton_sampling.argmax(empty(rows, vocab_size))
    params = {"temperature": floats, "min_p": floats, "top_k": ids, "top_p": floats.double()}
    triton_sampling.sample(logits, **params, uniforms=floats.double())
    history, counts = empty(8, 4096, dtype=torch.int32), empty(rows, vocab_size, dtype=torch.int32)
    penalties = {"repetition": floats, "frequency": floats, "presence": floats}
    triton_penalties.apply_penalties_(logits, history, ids, ids, ids, **penalties, counts=counts)
    triton_bitmask.apply_bitmask_(logits, ids, empty(rows, vocab_size // 32, dtype=torch.int32))
    for num_top in (0, 5, 20):
        triton_logprobs.gather_logprobs(logits, ids, num_top)


def main(backend: str, arch: str) -> None:
    target = GPUTarget(backend, int(arch) if backend == "cuda" else arch, 32 if backend == "cuda" else 64)
    triton.runtime.driver.set_active(NoGPU(target))
    compiler = Compiler(target, detail="--detail" in sys.argv)
    traits = GpuTraits("hopper" if compiler.dependent else "ampere", 132, compiler.dependent)
    vars(triton_launch)["launch"] = compiler
    for room in (triton_launch, triton_gated, triton_sampling):
        vars(room)["gpu_traits"] = lambda device: traits
    family = f"sm_{arch}" if backend == "cuda" else arch
    steps: list[Callable[[], None]] = [layers, lambda: linears(family), sampling]
    if backend == "cuda" and int(arch) >= 89:
        steps.append(lambda: fp8(family))
    for step in steps:
        step()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
