"""Linear layers against cuBLAS: python benchmarks/gpu_linear.py [--tokens 1,2,4,8,16,64,8192] [--fp8].

The shapes are those of Qwen3-0.6B and Llama-3.1-8B in bfloat16, random weights. Each row is one layer with what a
step has around it: a norm before, a gate or a residual after. `cuBLAS` is the product alone, `apart` the
product and what stands around it as kernels of their own, `octavo` the layer as `linear` runs it. A figure is the
median over replays of a CUDA graph that goes through so many copies of the weight that none is left in the L2 cache.

With --fp8 the weights have 8 bits: then the product alone is rounding the tokens and `torch._scaled_mm`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from octavo.kernels import triton_fp8, triton_layers
from octavo.kernels.triton_launch import gpu_family
from octavo.kernels.triton_linear import Gate, Norm, linear
from octavo.kernels.triton_tiles import choose_fp8_tile, choose_gated_tile, choose_tile

# Name, outputs, inputs, what stands around it.
LAYERS = [
    ("Qwen3-0.6B qkv", 4096, 1024, "norm"),
    ("Qwen3-0.6B o", 1024, 2048, "residual"),
    ("Qwen3-0.6B gate/up", 3072, 1024, "gate"),
    ("Qwen3-0.6B down", 1024, 3072, "residual"),
    ("Qwen3-0.6B head", 151936, 1024, "head"),
    ("Llama-3.1-8B qkv", 6144, 4096, "norm"),
    ("Llama-3.1-8B o", 4096, 4096, "residual"),
    ("Llama-3.1-8B gate/up", 14336, 4096, "gate"),
    ("Llama-3.1-8B down", 4096, 14336, "residual"),
    ("Llama-3.1-8B head", 128256, 4096, "head"),
]
L2_BYTES = 50 * 2**20
EPS = 1e-6


def graph_us(run: Callable[[int], Tensor], copies: int, replays: int = 9) -> float:
    """Microseconds of one call of `run(i)`, i in range(copies)."""
    run(0)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(copies):
            run(i)
    graph.replay()
    times = []
    for _ in range(replays):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e3 / copies)
    return statistics.median(times)


def bench(name: str, size: int, k: int, around: str, tokens: int, weight: Tensor) -> None:
    """Prints the row of one layer; `weight` [copies, rows, k]."""
    device, copies = weight.device, weight.shape[0]
    x, residual = torch.randn(2, tokens, max(k, size), device=device, dtype=torch.bfloat16)
    x, residual = x[:, :k].contiguous(), residual[:, :size].contiguous()
    factors = torch.randn(k, device=device, dtype=torch.bfloat16)
    scale = torch.full((weight.shape[1],), 1e-3, device=device) if weight.dtype is torch.float8_e4m3fn else None
    normed, gated = around != "residual", around == "gate"
    norm, gate = Norm(factors, EPS) if normed else None, Gate("silu") if gated else None
    added = residual if around == "residual" else None
    out_dtype = torch.float32 if around == "head" else None

    def multiply(i: int, x: Tensor) -> Tensor:
        return F.linear(x, weight[i]) if scale is None else triton_fp8.scaled_linear(x, weight[i], scale, None)

    def apart(i: int) -> Tensor:
        y = multiply(i, triton_layers.rms_norm(x, factors, EPS) if normed else x)
        if gated:
            return triton_layers.silu_and_mul(y)
        return y.float() if around == "head" else y if added is None else added.add_(y)

    def fused(i: int) -> Tensor:
        return linear(x, weight[i], scale=scale, norm=norm, gate=gate, residual=added, out_dtype=out_dtype)

    library = graph_us(lambda i: multiply(i, x), copies)
    separate, ours = graph_us(apart, copies), graph_us(fused, copies)
    rate = weight[0].numel() * weight.element_size() / ours / 1e6
    choose = choose_tile if scale is None else choose_fp8_tile
    tile: object = choose(gpu_family(device), torch.bfloat16, tokens, size, k, gated=gated)
    if gated and scale is None and tile is None:
        processors = torch.cuda.get_device_properties(device).multi_processor_count
        tile = choose_gated_tile(gpu_family(device), processors, torch.bfloat16, tokens, size)
    row = f"{name:22s} {tokens:3d} {library:9.2f} {separate:9.2f} {ours:9.2f} {rate:6.2f}  {tile or 'library'}"
    print(row, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", default="1,2,4,8,16,64,8192")
    parser.add_argument("--fp8", action="store_true")
    args = parser.parse_args()
    tokens, dtype = (
        [int(number) for number in args.tokens.split(",")],
        torch.float8_e4m3fn if args.fp8 else torch.bfloat16,
    )
    device = torch.device("cuda", 0)
    start = time.perf_counter()
    print(torch.cuda.get_device_name(device), torch.__version__)
    print(f"{'layer':22s} {'M':>3s} {'library':>9s} {'apart':>9s} {'octavo':>9s} {'TB/s':>6s}  tile")
    for name, size, k, around in LAYERS:
        if around == "head" and args.fp8:
            continue  # keeps the dtype of the run
        rows = 2 * size if around == "gate" else size
        copies = max(1, min(32, -(-4 * L2_BYTES // (rows * k * dtype.itemsize))))
        weight = torch.empty(copies, rows, k, device=device, dtype=torch.bfloat16).normal_(0, k**-0.5)
        weight = weight.mul_(1e3).to(dtype) if args.fp8 else weight
        for number in tokens:
            bench(name, size, k, around, number, weight)
        del weight
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
