"""Paged attention on a GPU: bandwidth of decoding and rate of prompts, beside torch's own attention.

    python benchmarks/gpu_attention.py [--heads 32 --kv-heads 8 --head-dim 128 --block-size 16]
                                       [--decode | --prefill | --backends]

Calls are timed inside a CUDA graph, which goes through so many caches that none is found in the L2 cache; medians of
several replays. Torch's attention works on keys and values that lie in one piece, whole requests of equal length: the
rate that paging would have to reach. Bandwidth counts each key and value once.

--backends: every backend that serves this GPU and shape, on three steps. `plan` is what a step costs the host, once for
all layers.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from octavo.attention.base import AttentionBackend, AttentionMetadata, AttentionSpec
from octavo.attention.select import BACKENDS
from octavo.kernels.triton_attention import paged_attention, plan_attention
from octavo.kernels.triton_cache import cache_write, kv_cache_shape, rotary_and_cache_write

BATCHES = (1, 16, 64, 256, 1024)
CONTEXTS = (256, 800, 4096, 32768)
PROMPTS = (2048, 8192)
PROMPT_TOKENS = 16384
MAX_CACHE_BYTES = 24 << 30
ROTATED_BYTES = 200 << 20  # more than the L2 cache of any GPU
DTYPE = torch.bfloat16
STEPS = {  # lengths of requests after the step, and how many of their tokens are new
    "8 prompts of 2,048": ([2048] * 8, 2048),
    "256 requests of 100 to 1,500": ([100 + 1400 * i // 255 for i in range(256)], 1),
    "1 request of 4,096": ([4096], 1),
}
COMPARED = ("TRITON_ATTN", "FLASH_ATTN", "FLASHINFER", "TORCH_SDPA")


@dataclass(frozen=True)
class Shape:
    heads: int
    kv_heads: int
    head_dim: int
    block_size: int

    def bytes_per_token(self) -> int:
        return 2 * self.kv_heads * self.head_dim * DTYPE.itemsize


def microseconds(calls: list[Callable[[], object]], replays: int = 7) -> float:
    """Median time of one of `calls`, which are captured one after another."""
    calls[0]()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    graph.replay()
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(replays)]
    for begin, end in events:
        begin.record()
        graph.replay()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(begin.elapsed_time(end) for begin, end in events) * 1e3 / len(calls)


def block_table(num_reqs: int, per_request: int) -> Tensor:
    """Blocks in random order, as they are after an hour of serving."""
    order = torch.randperm(num_reqs * per_request, device="cuda").int()
    return order.view(num_reqs, per_request)


def paged_calls(shape: Shape, lengths: Tensor, new: int, max_seq_len: int) -> list[Callable[[], object]]:
    """Attention of `new` tokens for each of the requests, once for each of enough caches."""
    num_reqs = len(lengths)
    table = block_table(num_reqs, -(-int(lengths.max()) // shape.block_size))
    size = int(lengths.sum()) * shape.bytes_per_token()
    copies = max(2, min(64, -(-ROTATED_BYTES // size)))
    cache_shape = kv_cache_shape(table.numel(), shape.block_size, shape.kv_heads, shape.head_dim)
    caches = [torch.randn(cache_shape, device="cuda", dtype=DTYPE) for _ in range(copies)]
    q = torch.randn(num_reqs * new, shape.heads, shape.head_dim, device="cuda", dtype=DTYPE)
    starts = torch.arange(num_reqs + 1, device="cuda", dtype=torch.int32) * new
    plan = plan_attention(
        starts,
        num_reqs=num_reqs,
        num_tokens=num_reqs * new,
        max_query_len=new,
        max_seq_len=max_seq_len,
        num_heads=shape.heads,
        num_kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        dtype=DTYPE,
    )
    batch = {"query_start_loc": starts, "seq_lens": lengths.int(), "block_table": table}
    scale = shape.head_dim**-0.5
    return [partial(paged_attention, q, cache, plan, **batch, scale=scale) for cache in caches]


def dense(shape: Shape, num_reqs: int, queries: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v for torch's attention."""
    q = torch.randn(num_reqs, shape.heads, queries, shape.head_dim, device="cuda", dtype=DTYPE)
    k, v = torch.randn(2, num_reqs, shape.kv_heads, length, shape.head_dim, device="cuda", dtype=DTYPE)
    return q, k, v


def torch_microseconds(shape: Shape, num_reqs: int, queries: int, length: int) -> str:
    """Of the fastest of torch's backends that serve the shape."""
    size = num_reqs * length * shape.bytes_per_token()
    inputs = [dense(shape, num_reqs, queries, length) for _ in range(max(1, min(16, -(-ROTATED_BYTES // size))))]
    attend = partial(F.scaled_dot_product_attention, is_causal=queries > 1, enable_gqa=True)
    times = []
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):
        try:
            with sdpa_kernel(backend):
                times.append((microseconds([partial(attend, *x) for x in inputs], 3), backend.name.split("_")[0]))
        except RuntimeError:
            continue  # this backend does not serve the shape
    return "-" if not times else f"{min(times)[0]:.1f} ({min(times)[1].lower()})"


def decode(shape: Shape) -> None:
    print("\n| requests | context | us | GB/s | us, graph for 32k | torch, us |\n|---|---|---|---|---|---|")
    for num_reqs in BATCHES:
        for context in CONTEXTS:
            size = num_reqs * context * shape.bytes_per_token()
            if size * 2 > MAX_CACHE_BYTES:
                continue
            lengths = torch.full((num_reqs,), context, device="cuda")
            exact = microseconds(paged_calls(shape, lengths, 1, context))
            roomy = microseconds(paged_calls(shape, lengths, 1, 32768))
            other = torch_microseconds(shape, num_reqs, 1, context) if num_reqs in (1, 64) else ""
            print(
                f"| {num_reqs} | {context} | {exact:.1f} | {size / exact / 1e3:.0f} | {roomy:.1f} | {other} |",
                flush=True,
            )
    print("\nContexts spread evenly over 100 to 1,500:\n\n| requests | us | GB/s |\n|---|---|---|")
    for num_reqs in BATCHES[1:]:
        lengths = torch.linspace(100, 1500, num_reqs, device="cuda").long()[torch.randperm(num_reqs, device="cuda")]
        time = microseconds(paged_calls(shape, lengths, 1, 1500))
        rate = int(lengths.sum()) * shape.bytes_per_token() / time / 1e3
        print(f"| {num_reqs} | {time:.1f} | {rate:.0f} |", flush=True)


def prefill(shape: Shape) -> None:
    print("\n| prompts | us | TFLOP/s | torch, us |\n|---|---|---|---|")
    for length in PROMPTS:
        num_reqs = PROMPT_TOKENS // length
        time = microseconds(paged_calls(shape, torch.full((num_reqs,), length, device="cuda"), length, length))
        flops = 2.0 * num_reqs * shape.heads * shape.head_dim * length * length
        other = torch_microseconds(shape, num_reqs, length, length)
        print(f"| {num_reqs} x {length} | {time:.0f} | {flops / time / 1e6:.0f} | {other} |", flush=True)


@dataclass(frozen=True)
class Layer:
    """What a backend reads of a layer."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    sliding_window: int | None = None
    logits_soft_cap: float | None = None


def step_metadata(shape: Shape, lengths: list[int], new: int) -> AttentionMetadata:
    starts = torch.arange(len(lengths) + 1, dtype=torch.int32) * new
    lens = torch.tensor(lengths, dtype=torch.int32)
    return AttentionMetadata(
        query_start_loc=starts.cuda(),
        seq_lens=lens.cuda(),
        block_table=block_table(len(lengths), -(-max(lengths) // shape.block_size)),
        slot_mapping=torch.full((len(lengths) * new,), -1, device="cuda"),
        num_reqs=len(lengths),
        num_tokens=len(lengths) * new,
        max_query_len=new,
        max_seq_len=max(lengths),
        host_starts=starts,
        host_lens=lens,
    )


def host_microseconds(run: Callable[[], object], repeats: int = 20) -> float:
    """Median time that the host is busy with `run`."""
    times = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1e6


def backends(shape: Shape) -> None:
    layer = Layer(shape.heads, shape.kv_heads, shape.head_dim, shape.head_dim**-0.5)
    spec = AttentionSpec(
        num_heads=shape.heads,
        num_kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        dtype=DTYPE,
        kv_cache_dtype=DTYPE,
        sliding_window=None,
        logits_soft_cap=None,
        block_size=shape.block_size,
    )
    print("\n| step | backend | us | rate | plan, us |\n|---|---|---|---|---|")
    for name in COMPARED:
        reason = BACKENDS[name].declines(spec, torch.device("cuda"), None)
        if reason is not None:
            print(f"| all | {name} | declined: {reason} | | |", flush=True)
            continue
        backend = BACKENDS[name]([spec], None)
        for title, (lengths, new) in STEPS.items():
            try:
                print(f"| {title} | {name} | {backend_times(backend, layer, shape, lengths, new)} |", flush=True)
            except Exception as error:  # another package's: the others are measured all the same
                print(f"| {title} | {name} | failed: {str(error).strip()[-200:]} | | |", flush=True)


def backend_times(backend: AttentionBackend, layer: Layer, shape: Shape, lengths: list[int], new: int) -> str:
    metadata = step_metadata(shape, lengths, new)
    size = sum(lengths) * shape.bytes_per_token()
    cache_shape = backend.kv_cache_shape(
        metadata.block_table.numel(), shape.block_size, shape.kv_heads, shape.head_dim, DTYPE
    )
    caches = [
        torch.randn(cache_shape, device="cuda", dtype=DTYPE) for _ in range(max(2, min(64, ROTATED_BYTES // size)))
    ]
    q = torch.randn(metadata.num_tokens, shape.heads, shape.head_dim, device="cuda", dtype=DTYPE)
    k = torch.zeros(metadata.num_tokens, shape.kv_heads, shape.head_dim, device="cuda", dtype=DTYPE)
    if new == 1 and hasattr(backend, "attend"):  # the write of one token is left out
        plan = backend.build(metadata, None)
        calls = [partial(backend.attend, layer, q, cache, plan) for cache in caches]
    else:
        metadata.slot_mapping = torch.arange(metadata.num_tokens, device="cuda")
        plan = backend.build(metadata, None)
        calls = [partial(backend.forward, layer, q, k, k, cache, plan) for cache in caches]
    taken = microseconds(calls)
    flops = 2.0 * shape.heads * shape.head_dim * sum(new * (2 * length - new + 1) for length in lengths)
    rate = f"{flops / taken / 1e6:.0f} TFLOP/s" if new > 1 else f"{size / taken / 1e3:.0f} GB/s"
    return f"{taken:.1f} | {rate} | {host_microseconds(lambda: backend.build(metadata, None)):.0f}"


def writes(shape: Shape) -> None:
    print("\n| tokens | cache write, us | norm, rotation and cache write, us |\n|---|---|---|")
    for num_tokens in (1, 256, 8192):
        width = (shape.heads + 2 * shape.kv_heads) * shape.head_dim
        qkv = torch.randn(num_tokens, width, device="cuda", dtype=DTYPE)
        cache = torch.zeros(kv_cache_shape(1024, 16, shape.kv_heads, shape.head_dim), device="cuda", dtype=DTYPE)
        slots = torch.randperm(1024 * 16, device="cuda")[:num_tokens]
        parts = qkv.unflatten(1, (-1, shape.head_dim)).split([shape.heads, shape.kv_heads, shape.kv_heads], dim=1)
        angles = torch.randn(2, num_tokens, 1, shape.head_dim // 2, device="cuda", dtype=DTYPE)
        norm = torch.ones(shape.head_dim, device="cuda", dtype=DTYPE)
        options = {"num_heads": shape.heads, "q_norm": norm, "k_norm": norm, "eps": 1e-6}
        plain = [partial(cache_write, cache, parts[1], parts[2], slots)] * 20
        fused = [partial(rotary_and_cache_write, qkv, cache, *angles, slots, **options)] * 20
        print(f"| {num_tokens} | {microseconds(plain):.2f} | {microseconds(fused):.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--kv-heads", type=int, default=8)
    parser.add_argument("--head-dim", type=int, default=128)
    parser.add_argument("--block-size", type=int, default=16)
    parser.add_argument("--decode", action="store_true", help="decoding only")
    parser.add_argument("--prefill", action="store_true", help="prompts only")
    parser.add_argument("--backends", action="store_true", help="every backend, on a few steps")
    args = parser.parse_args()
    shape = Shape(args.heads, args.kv_heads, args.head_dim, args.block_size)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {DTYPE}, {shape}")
    if args.backends:
        backends(shape)
        return
    if not args.prefill:
        decode(shape)
        writes(shape)
    if not args.decode:
        prefill(shape)


if __name__ == "__main__":
    main()
