"""The backends against attention in float64 over keys and values that lie in one piece."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from all_kernels import CPP_KERNELS
from torch import Tensor

from octavo.attention.base import AttentionBackend, AttentionMetadata, AttentionSpec
from octavo.attention.cpu_attn import CPUAttentionBackend
from octavo.attention.torch_attn import QUERIES_PER_PIECE, TorchAttentionBackend
from octavo.attention.torch_sdpa import TorchSDPABackend
from octavo.kernels import torch_ops
from octavo.kernels.cpu import CPUKernels, PagedCache, page_shape

BACKENDS = [
    *((backend, torch_ops, 4, 8) for backend in (TorchAttentionBackend, TorchSDPABackend)),
    *((CPUAttentionBackend, kernels, 16, head_dim) for kernels in CPP_KERNELS.values() for head_dim in (16, 80)),
]
Served = tuple[type[AttentionBackend], Any, int, int]  # with these kernels, for blocks and heads of this size


@dataclass
class Layer:
    num_heads: int = 6
    num_kv_heads: int = 2
    head_dim: int = 8
    scale: float = 0.3
    sliding_window: int | None = None
    logits_soft_cap: float | None = None

    def spec(self, dtype: torch.dtype, kv_cache_dtype: torch.dtype, block_size: int) -> AttentionSpec:
        return AttentionSpec(
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            dtype=dtype,
            kv_cache_dtype=kv_cache_dtype,
            sliding_window=self.sliding_window,
            logits_soft_cap=self.logits_soft_cap,
            block_size=block_size,
        )


def naive(layer: Layer, q: Tensor, keys: Tensor, values: Tensor, causal: bool) -> Tensor:
    """The last len(q) tokens of a request attend; keys and values [S, Hkv, D]; one query and head at a time."""
    out = torch.empty(q.shape, dtype=torch.float64)
    first = len(keys) - len(q)
    for i in range(len(q)):
        end = first + i + 1 if causal else len(keys)
        start = 0 if layer.sliding_window is None else max(0, first + i + 1 - layer.sliding_window)
        for head in range(layer.num_heads):
            kv_head = head // (layer.num_heads // layer.num_kv_heads)
            scores = keys[start:end, kv_head].double() @ q[i, head].double() * layer.scale
            if layer.logits_soft_cap is not None:
                scores = layer.logits_soft_cap * torch.tanh(scores / layer.logits_soft_cap)
            out[i, head] = torch.softmax(scores, 0) @ values[start:end, kv_head].double()
    return out


def run(
    backend: Served,
    layer: Layer,
    lengths: list[tuple[int, int]],
    *,
    dtype: torch.dtype = torch.float32,
    kv_cache_dtype: torch.dtype | None = None,
    causal: bool = True,
) -> tuple[Tensor, Tensor]:
    """One step of requests with (tokens in the cache before, new tokens); what the backend and `naive` say."""
    torch.manual_seed(0)
    kind, kernels, block_size, layer.head_dim = backend
    cache_dtype = kv_cache_dtype or dtype
    served = kind([layer.spec(dtype, cache_dtype, block_size)], kernels)
    seq_lens = [before + new for before, new in lengths]
    max_blocks = -(-max(seq_lens) // block_size)
    num_blocks = len(lengths) * max_blocks
    shape = kind.kv_cache_shape(num_blocks, block_size, layer.num_kv_heads, layer.head_dim, cache_dtype)
    cache = torch.zeros(shape, dtype=cache_dtype) if cache_dtype is torch.int8 else torch.randn(shape).to(cache_dtype)
    table = torch.randperm(num_blocks).int().view(len(lengths), max_blocks)
    steps: list[tuple[Tensor, Tensor, Tensor]] = []
    for row, (before, new) in enumerate(lengths):
        q = torch.randn(new, layer.num_heads, layer.head_dim).to(dtype)
        keys, values = torch.randn(2, before + new, layer.num_kv_heads, layer.head_dim).to(dtype)
        if before:
            past = torch.arange(before)
            slots = table[row, past // block_size].long() * block_size + past % block_size
            write(served, layer, cache, keys[:before], values[:before], slots)
        steps.append((q, keys, values))
        left_behind = 0 if layer.sliding_window is None else max(0, before + 1 - layer.sliding_window) // block_size
        table[row, :left_behind] = -1
        table[row, -(-(before + new) // block_size) :] = -1
    slot_mapping = [
        int(table[row, position // block_size]) * block_size + position % block_size
        for row, (before, new) in enumerate(lengths)
        for position in range(before, before + new)
    ]
    counts = torch.tensor([0] + [new for _, new in lengths])
    metadata = AttentionMetadata(
        query_start_loc=counts.cumsum(0).int(),
        seq_lens=torch.tensor(seq_lens, dtype=torch.int32),
        block_table=table,
        slot_mapping=torch.tensor(slot_mapping),
        num_reqs=len(lengths),
        num_tokens=len(slot_mapping),
        max_query_len=int(counts.max()),
        max_seq_len=max(seq_lens),
        causal=causal,
    )
    metadata = served.build(metadata, layer.sliding_window)
    # Columns of one wider tensor, as the model's q, k and v are.
    q = torch.cat([q for q, _, _ in steps])
    k = torch.cat([keys[before:] for (_, keys, _), (before, _) in zip(steps, lengths, strict=True)])
    v = torch.cat([values[before:] for (_, _, values), (before, _) in zip(steps, lengths, strict=True)])
    sizes = [x.shape[1] for x in (q, k, v)]
    q, k, v = torch.cat([q, k, v], dim=1).split(sizes, dim=1)
    ours = served.forward(layer, q, k, v, cache, metadata)
    held = [(q, as_held(keys, cache_dtype), as_held(values, cache_dtype)) for q, keys, values in steps]
    return ours, torch.cat([naive(layer, *step, causal) for step in held])


def as_held(x: Tensor, dtype: torch.dtype) -> Tensor:
    """What a cache of `dtype` makes of keys or values: int8 with a scale for each token and head."""
    if dtype is not torch.int8:
        return x.to(dtype)
    scale = x.double().abs().amax(-1, keepdim=True) / 127
    return (x.double() / scale).round() * scale


def write(served: AttentionBackend, layer: Layer, cache: Tensor, keys: Tensor, values: Tensor, slots: Tensor) -> None:
    """Tokens of earlier steps, by the backend's own way of writing them."""
    num_tokens = len(slots)
    metadata = AttentionMetadata(
        query_start_loc=torch.tensor([0, num_tokens], dtype=torch.int32),
        seq_lens=torch.tensor([num_tokens], dtype=torch.int32),
        block_table=(slots[:: served.block_size] // served.block_size).int()[None],
        slot_mapping=slots,
        num_reqs=1,
        num_tokens=num_tokens,
        max_query_len=num_tokens,
        max_seq_len=num_tokens,
    )
    q = torch.zeros(num_tokens, layer.num_heads, layer.head_dim, dtype=keys.dtype)
    served.forward(layer, q, keys, values, cache, served.build(metadata, None))


STEPS = {
    "prompt": [(0, 11)],
    "prompt-of-one": [(0, 1)],
    "chunk": [(5, 6)],
    "chunk-at-border": [(8, 4)],
    "decode": [(9, 1), (3, 1), (4, 1), (7, 1)],
    "decode-lengths-far-apart": [(0, 1), (45, 1), (1, 1), (20, 1), (63, 1)],
    "mixed": [(6, 1), (0, 9), (12, 5), (15, 1), (4, 4), (40, 1)],
}
LAYERS = {
    "plain": Layer(),
    "one-kv-head": Layer(num_kv_heads=1),
    "no-sharing": Layer(num_kv_heads=6),
    "window": Layer(sliding_window=5),
    "window-of-one": Layer(sliding_window=1),
    "window-of-a-block": Layer(sliding_window=4),
    "soft-cap": Layer(logits_soft_cap=0.7),
    "window-and-soft-cap": Layer(sliding_window=6, logits_soft_cap=0.7),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("lengths", STEPS.values(), ids=STEPS)
def test_against_float64(backend: Served, layer: Layer, lengths: list[tuple[int, int]]) -> None:
    ours, expected = run(backend, replace(layer), lengths)
    assert (ours - expected).abs().max() < 1e-5


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("lengths", [STEPS["mixed"], STEPS["decode"]])
def test_bfloat16(backend: Served, lengths: list[tuple[int, int]]) -> None:
    """Three digits are all that bfloat16 holds."""
    ours, expected = run(backend, Layer(), lengths, dtype=torch.bfloat16)
    assert ours.dtype == torch.bfloat16
    assert (ours - expected).abs().max() < 0.03


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kv_cache_dtype", [torch.float32, torch.bfloat16, torch.int8])
def test_a_cache_of_another_dtype(backend: Served, dtype: torch.dtype, kv_cache_dtype: torch.dtype) -> None:
    """Keys and values are rounded to the cache's dtype, and are then worth what they are worth there."""
    if kv_cache_dtype is torch.int8 and backend[0] is not CPUAttentionBackend:
        pytest.skip("it declines")
    exact = dtype is kv_cache_dtype is torch.float32
    for layer in (Layer(), Layer(sliding_window=7, logits_soft_cap=0.7)):
        ours, expected = run(backend, layer, STEPS["mixed"], dtype=dtype, kv_cache_dtype=kv_cache_dtype)
        assert ours.dtype == dtype
        assert (ours - expected).abs().max() < (1e-5 if exact else 0.03)


@pytest.mark.parametrize("kernels", CPP_KERNELS.values(), ids=CPP_KERNELS)
@pytest.mark.parametrize("group", [1, 3, 4, 5, 8, 12, 16])
@pytest.mark.parametrize("head_dim", [16, 48, 64, 256])
def test_groups_and_sizes_of_heads(kernels: CPUKernels, group: int, head_dim: int) -> None:
    layer = Layer(num_heads=2 * group, scale=head_dim**-0.5)
    served = (CPUAttentionBackend, kernels, 32, head_dim)
    lengths = [(0, 37), (70, 1), (300, 2)]
    for dtype, bound in ((torch.float32, 1e-5), (torch.bfloat16, 0.03), (torch.int8, 0.03)):
        ours, expected = run(served, replace(layer), lengths, kv_cache_dtype=dtype)
        assert (ours - expected).abs().max() < bound


@pytest.mark.parametrize("backend", BACKENDS)
def test_all_tokens_see_all_when_not_causal(backend: Served) -> None:
    ours, expected = run(backend, Layer(), STEPS["mixed"], causal=False)
    assert (ours - expected).abs().max() < 1e-5


@pytest.mark.parametrize("sliding_window", [None, 300])
def test_long_prompt_is_cut_into_pieces(sliding_window: int | None) -> None:
    layer = Layer(num_heads=2, num_kv_heads=1, sliding_window=sliding_window)
    ours, expected = run(BACKENDS[0], layer, [(3, QUERIES_PER_PIECE + 70)])
    assert (ours - expected).abs().max() < 1e-5


@pytest.mark.parametrize("kernels", CPP_KERNELS.values(), ids=CPP_KERNELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kv_cache_dtype", [torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("sliding_window", [None, 700])
def test_a_query_does_not_depend_on_what_is_beside_it(
    kernels: CPUKernels, dtype: torch.dtype, kv_cache_dtype: torch.dtype, sliding_window: int | None
) -> None:
    """Bit for bit: as part of a prompt, of a chunk, alone, and with its segments on several threads or on one."""
    torch.manual_seed(1)
    num_heads, num_kv_heads, head_dim, block_size, length = 6, 2, 32, 32, 1300
    shape = page_shape(num_kv_heads, block_size, head_dim, kv_cache_dtype)
    cache = PagedCache(torch.zeros(64, *shape, dtype=kv_cache_dtype), num_kv_heads, head_dim, block_size)
    table = torch.randperm(64)[: -(-length // block_size)].int()[None]
    slots = table[0, torch.arange(length) // block_size].long() * block_size + torch.arange(length) % block_size
    k, v = torch.randn(2, length, num_kv_heads, head_dim).to(dtype)
    kernels.cache_write(cache, k, v, slots)
    q = torch.randn(length, num_heads, head_dim).to(dtype)

    def attend(first: int, last: int) -> Tensor:
        return kernels.paged_attention(
            cache,
            q[first:last],
            query_start_loc=torch.tensor([0, last - first], dtype=torch.int32),
            seq_lens=torch.tensor([last], dtype=torch.int32),
            block_table=table,
            scale=0.2,
            soft_cap=0.0,
            sliding_window=sliding_window or 0,
            causal=True,
        )

    whole = attend(0, length)
    for first, last in [(0, 7), (500, 530), (1100, 1300), (1299, 1300), (640, 641), (0, 1)]:
        assert torch.equal(attend(first, last), whole[first:last])
