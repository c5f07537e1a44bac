"""Both torch backends against attention in float64 over keys and values that lie in one piece."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from octavo.attention.base import AttentionBackend, AttentionMetadata, AttentionSpec
from octavo.attention.cpu_attn import QUERIES_PER_PIECE, CPUAttentionBackend
from octavo.attention.torch_sdpa import TorchSDPABackend

BACKENDS: list[type[AttentionBackend]] = [CPUAttentionBackend, TorchSDPABackend]
BLOCK_SIZE, HEAD_DIM = 4, 8


@dataclass
class Layer:
    num_heads: int = 6
    num_kv_heads: int = 2
    head_dim: int = HEAD_DIM
    scale: float = 0.3
    sliding_window: int | None = None
    logits_soft_cap: float | None = None

    def spec(self, dtype: torch.dtype) -> AttentionSpec:
        return AttentionSpec(
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            dtype=dtype,
            sliding_window=self.sliding_window,
            logits_soft_cap=self.logits_soft_cap,
            block_size=BLOCK_SIZE,
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
    backend: type[AttentionBackend],
    layer: Layer,
    lengths: list[tuple[int, int]],
    *,
    dtype: torch.dtype = torch.float32,
    causal: bool = True,
) -> tuple[Tensor, Tensor]:
    """One step of requests with (tokens in the cache before, new tokens); what the backend and `naive` say."""
    torch.manual_seed(0)
    served = backend([layer.spec(dtype)])
    seq_lens = [before + new for before, new in lengths]
    max_blocks = -(-max(seq_lens) // BLOCK_SIZE)
    num_blocks = len(lengths) * max_blocks
    cache = torch.randn(backend.kv_cache_shape(num_blocks, BLOCK_SIZE, layer.num_kv_heads, layer.head_dim)).to(dtype)
    table = torch.randperm(num_blocks).int().view(len(lengths), max_blocks)
    steps: list[tuple[Tensor, Tensor, Tensor]] = []
    for row, (before, new) in enumerate(lengths):
        q = torch.randn(new, layer.num_heads, layer.head_dim).to(dtype)
        keys, values = torch.randn(2, before + new, layer.num_kv_heads, layer.head_dim).to(dtype)
        for position in range(before):
            block = table[row, position // BLOCK_SIZE]
            cache[0, block, :, position % BLOCK_SIZE] = keys[position]
            cache[1, block, :, position % BLOCK_SIZE] = values[position]
        steps.append((q, keys, values))
        left_behind = 0 if layer.sliding_window is None else max(0, before + 1 - layer.sliding_window) // BLOCK_SIZE
        table[row, :left_behind] = -1
        table[row, -(-(before + new) // BLOCK_SIZE) :] = -1
    slot_mapping = [
        int(table[row, position // BLOCK_SIZE]) * BLOCK_SIZE + position % BLOCK_SIZE
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
    return ours, torch.cat([naive(layer, *step, causal) for step in steps])


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
    "window-of-a-block": Layer(sliding_window=BLOCK_SIZE),
    "soft-cap": Layer(logits_soft_cap=0.7),
    "window-and-soft-cap": Layer(sliding_window=6, logits_soft_cap=0.7),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("lengths", STEPS.values(), ids=STEPS)
def test_against_float64(backend: type[AttentionBackend], layer: Layer, lengths: list[tuple[int, int]]) -> None:
    ours, expected = run(backend, layer, lengths)
    assert (ours - expected).abs().max() < 1e-5


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("lengths", [STEPS["mixed"], STEPS["decode"]])
def test_bfloat16(backend: type[AttentionBackend], lengths: list[tuple[int, int]]) -> None:
    """Three digits are all that bfloat16 holds."""
    ours, expected = run(backend, Layer(), lengths, dtype=torch.bfloat16)
    assert ours.dtype == torch.bfloat16
    assert (ours - expected).abs().max() < 0.03


@pytest.mark.parametrize("backend", BACKENDS)
def test_all_tokens_see_all_when_not_causal(backend: type[AttentionBackend]) -> None:
    ours, expected = run(backend, Layer(), STEPS["mixed"], causal=False)
    assert (ours - expected).abs().max() < 1e-5


@pytest.mark.parametrize("sliding_window", [None, 300])
def test_long_prompt_is_cut_into_pieces(sliding_window: int | None) -> None:
    layer = Layer(num_heads=2, num_kv_heads=1, sliding_window=sliding_window)
    ours, expected = run(CPUAttentionBackend, layer, [(3, QUERIES_PER_PIECE + 70)])
    assert (ours - expected).abs().max() < 1e-5
