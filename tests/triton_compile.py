"""Compiles the Triton kernels for a GPU that is not there: python triton_compile.py TARGET; one line of JSON a kernel.

The functions that launch kernels are called with tensors without data; what they would launch is compiled instead.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from octavo.kernels import (
    triton_attention,
    triton_attention_decode,
    triton_attention_prefill,
    triton_attention_rotated,
    triton_cache,
)
from octavo.kernels.triton_launch import GpuTraits, knows_gluon

TARGETS = {
    "sm_90": (GPUTarget("cuda", 90, 32), GpuTraits("hopper", 132, True, knows_gluon())),
    "sm_80": (GPUTarget("cuda", 80, 32), GpuTraits("ampere", 108, False)),
    "gfx942": (GPUTarget("hip", "gfx942", 64), GpuTraits("amd", 304, False)),
    "gfx90a": (GPUTarget("hip", "gfx90a", 64), GpuTraits("amd", 104, False)),
}


class NoGpu:
    """Stands for Triton's driver."""

    def __init__(self, target: GPUTarget) -> None:
        self.target = target

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def compile_kernel(kernel: Any, grid: tuple[int, ...], *args: Any, num_warps: int, **constants: Any) -> None:
    """Takes the place of `launch`."""
    options = {"launch_pdl": True} if constants.get("PDL") else {}
    types = [arg.dtype if isinstance(arg, torch.Tensor) else arg for arg in args]
    compiled = kernel.warmup(*types, grid=grid, num_warps=num_warps, **constants, **options)
    line = {"kernel": kernel.fn.__name__, "shared": compiled.metadata.shared, "code": sorted(compiled.asm)}
    line["waits"] = "griddepcontrol.wait" in compiled.asm.get("ptx", "")
    line["tensor_cores"] = any(word in text for text in map(str, compiled.asm.values()) for word in MATRIX_PRODUCTS)
    print(json.dumps(line), flush=True)


MATRIX_PRODUCTS = ("wgmma.mma_async", "mma.sync", "v_mfma")


def compile_attention(
    head_dim: int,
    group: int,
    dtype: torch.dtype,
    lengths: list[int],
    sliding_window: int = 0,
    soft_cap: float = 0.0,
    cache_dtype: torch.dtype | None = None,
) -> None:
    """A step of requests with so many new tokens."""
    num_kv_heads, num_reqs, num_tokens = 4, len(lengths), sum(lengths)
    num_heads = group * num_kv_heads

    def empty(*shape: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    starts = empty(num_reqs + 1)
    plan = triton_attention.plan_attention(
        starts,
        num_reqs=num_reqs,
        num_tokens=num_tokens,
        max_query_len=max(lengths),
        max_seq_len=8192,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        dtype=dtype,
        cache_dtype=cache_dtype,
        soft_cap=soft_cap,
        sliding_window=sliding_window,
    )
    triton_attention.paged_attention(
        empty(num_tokens, num_heads, head_dim, dtype=dtype),
        empty(8, 2, num_kv_heads, 16, head_dim, dtype=cache_dtype or dtype),
        plan,
        query_start_loc=starts,
        seq_lens=empty(num_reqs),
        block_table=empty(num_reqs, 512),
        scale=0.1,
        soft_cap=soft_cap,
        sliding_window=sliding_window,
    )


def compile_cache_writes(head_dim: int, cache_dtype: torch.dtype = torch.bfloat16) -> None:
    row = torch.empty(3, 20 * head_dim, dtype=torch.bfloat16, device="meta")
    cache = torch.empty(8, 2, 4, 16, head_dim, dtype=cache_dtype, device="meta")
    slots = torch.empty(3, dtype=torch.int64, device="meta")
    k, v = row[:, : 8 * head_dim].unflatten(1, (8, head_dim)).split(4, dim=1)
    triton_cache.cache_write(cache, k, v, slots)
    angles, norm = row.new_empty(3, 1, head_dim // 2), row.new_empty(head_dim)
    triton_cache.rotary_and_cache_write(
        row, cache, angles, angles, slots, num_heads=12, q_norm=norm, k_norm=norm, eps=1e-6
    )


def compile_rotated(head_dim: int, lengths: list[int]) -> None:
    """A step whose attention rotates queries itself, and with one token for each request writes to the cache."""

    def empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    num_reqs, num_tokens = len(lengths), sum(lengths)
    starts = empty(num_reqs + 1, dtype=torch.int32)
    plan = triton_attention.plan_attention(
        starts,
        num_reqs=num_reqs,
        num_tokens=num_tokens,
        max_query_len=max(lengths),
        max_seq_len=8192,
        num_heads=16,
        num_kv_heads=4,
        head_dim=head_dim,
        dtype=torch.bfloat16,
        isolated=True,
    )
    angles = empty(num_tokens, 1, head_dim // 2), empty(num_tokens, 1, head_dim // 2)
    triton_attention.rotated_attention(
        empty(num_tokens, 24 * head_dim),
        empty(8, 2, 4, 16, head_dim),
        plan,
        triton_cache.Rotation(*angles, (empty(head_dim), empty(head_dim)), 1e-6),
        empty(num_tokens, dtype=torch.int64),
        num_heads=16,
        query_start_loc=starts,
        seq_lens=empty(num_reqs, dtype=torch.int32),
        block_table=empty(num_reqs, 512, dtype=torch.int32),
        scale=0.1,
    )


def main(name: str) -> None:
    target, traits = TARGETS[name]
    driver.set_active(NoGpu(target))
    for room in (triton_attention_decode, triton_attention_prefill, triton_attention_rotated, triton_cache):
        vars(room)["launch"] = compile_kernel
    for room in (triton_attention, triton_cache):
        vars(room)["gpu_traits"] = lambda device: traits
    if traits.specialized_warps:
        vars(import_module("octavo.kernels.gluon_attention_prefill")).update(
            launch=compile_kernel, gpu_traits=lambda device: traits
        )
    compile_cache_writes(80)
    compile_rotated(128, [1])
    compile_rotated(80, [1] * 200)
    compile_rotated(128, [300, 1])
    compile_attention(128, 4, torch.bfloat16, [1])
    compile_attention(64, 7, torch.float16, [300, 1] + [1] * 200)
    compile_attention(256, 2, torch.bfloat16, [3, 1], sliding_window=512, soft_cap=50.0)
    compile_attention(192, 1, torch.bfloat16, [256], sliding_window=512, soft_cap=50.0)
    compile_attention(128, 4, torch.float32, [1, 1])
    if name == "sm_90":
        compile_cache_writes(128, torch.float8_e4m3fn)
        compile_attention(128, 4, torch.bfloat16, [1], cache_dtype=torch.float8_e4m3fn)
        compile_attention(64, 4, torch.float16, [300, 1], cache_dtype=torch.float8_e4m3fn)
        compile_attention(128, 5, torch.float16, [3000, 1])
        compile_rotated(128, [3000])


if __name__ == "__main__":
    print(triton.__version__, file=sys.stderr)
    main(sys.argv[1])
