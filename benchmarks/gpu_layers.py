"""The kernels of a layer beside products and attention: python benchmarks/gpu_layers.py [--tokens 256,8192].

Bytes that each has to read and write, over its time: the share of the memory's speed that it reaches. Shapes of
Qwen3-0.6B and Llama-3.1-8B in bfloat16. Times are medians over replays of a CUDA graph that goes through copies of the
operands, so that none is found in the L2 cache; within a model some are, and their kernels are faster there.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import torch
from gpu_attention import ROTATED_BYTES, microseconds
from torch import Tensor

from octavo.kernels import triton_layers
from octavo.kernels.triton_cache import Rotation, kv_cache_shape, rotary_and_cache_write, rotated_keys_to_cache
from octavo.kernels.triton_linear import linear

DTYPE = torch.bfloat16
HEAD_DIM = 128
EPS = 1e-6


@dataclass(frozen=True)
class Shape:
    name: str
    hidden: int
    heads: int
    kv_heads: int
    intermediate: int
    head_norm: bool


SHAPES = (
    Shape("Qwen3-0.6B", 1024, 16, 8, 3072, head_norm=True),
    Shape("Llama-3.1-8B", 4096, 32, 8, 14336, head_norm=False),
)


def rand(*shape: int) -> Tensor:
    return torch.randn(shape, device="cuda", dtype=DTYPE)


def report(what: str, make: Callable[[], Callable[[], object]], size: int) -> None:
    """`make` gives a call with operands of its own, that has `size` bytes to move."""
    copies = max(2, min(32, -(-ROTATED_BYTES // size)))
    time = microseconds([make() for _ in range(copies)])
    print(f"| {what} | {time:.2f} | {size / 1e6:.1f} | {size / time / 1e3:.0f} |", flush=True)


def norm(shape: Shape, tokens: int) -> tuple[Callable[[], Callable[[], object]], int]:
    weight = rand(shape.hidden)

    def make() -> Callable[[], object]:
        x = rand(tokens, shape.hidden)
        return lambda: triton_layers.rms_norm(x, weight, EPS)

    return make, 2 * tokens * shape.hidden * DTYPE.itemsize


def gate(shape: Shape, tokens: int) -> tuple[Callable[[], Callable[[], object]], int]:
    def make() -> Callable[[], object]:
        x = rand(tokens, 2 * shape.intermediate)
        return lambda: triton_layers.silu_and_mul(x)

    return make, 3 * tokens * shape.intermediate * DTYPE.itemsize


def rotation(shape: Shape, tokens: int, *, queries: bool) -> tuple[Callable[[], Callable[[], object]], int]:
    """Of keys, and of queries where attention does not do it itself."""
    width = (shape.heads + 2 * shape.kv_heads) * HEAD_DIM
    slots = torch.arange(-(-tokens // 16) * 16, device="cuda")[:tokens]
    cos, sin = torch.randn(2, tokens, 1, HEAD_DIM // 2, device="cuda", dtype=DTYPE)
    weight = rand(HEAD_DIM) if shape.head_norm else None
    turn = Rotation(cos, sin, None if weight is None else (weight, weight), EPS)

    def make() -> Callable[[], object]:
        qkv = rand(tokens, width)
        cache = torch.zeros(kv_cache_shape(-(-tokens // 16), 16, shape.kv_heads, HEAD_DIM), device="cuda", dtype=DTYPE)
        if queries:
            options = {"num_heads": shape.heads, "q_norm": weight, "k_norm": weight, "eps": EPS}
            return lambda: rotary_and_cache_write(qkv, cache, cos, sin, slots, **options)
        return lambda: rotated_keys_to_cache(qkv, cache, turn, slots, num_heads=shape.heads)

    heads = (shape.heads if queries else 0) + 2 * shape.kv_heads
    return make, 2 * tokens * heads * HEAD_DIM * DTYPE.itemsize


def projection(shape: Shape, tokens: int, *, residual: bool) -> tuple[Callable[[], Callable[[], object]], int]:
    """The output product of attention, alone or added to the residual: what the sum costs."""
    weight = rand(shape.hidden, shape.heads * HEAD_DIM)

    def make() -> Callable[[], object]:
        x = rand(tokens, shape.heads * HEAD_DIM)
        y = rand(tokens, shape.hidden) if residual else None
        return lambda: linear(x, weight, residual=y)

    return make, tokens * (shape.heads * HEAD_DIM + (2 if residual else 1) * shape.hidden) * DTYPE.itemsize


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", default="256,8192")
    args = parser.parse_args()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {DTYPE}")
    for shape in SHAPES:
        for tokens in map(int, args.tokens.split(",")):
            print(f"\n{shape.name}, {tokens} tokens\n\n| kernel | us | MB | GB/s |\n|---|---|---|---|")
            report("norm", *norm(shape, tokens))
            report("rotation and cache write, queries too", *rotation(shape, tokens, queries=True))
            report("rotation and cache write, keys alone", *rotation(shape, tokens, queries=False))
            report("gate", *gate(shape, tokens))
            report("output product", *projection(shape, tokens, residual=False))
            report("output product and residual", *projection(shape, tokens, residual=True))


if __name__ == "__main__":
    main()
