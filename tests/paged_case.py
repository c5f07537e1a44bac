"""Requests with a paged KV cache whose unused places hold not-a-number, and what attention over them must give."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from octavo.attention.base import AttentionBackend, AttentionMetadata, AttentionSpec


@dataclass(frozen=True)
class Heads:
    """An attention layer, and the numbers that it is computed with."""

    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 64
    block_size: int = 16
    dtype: torch.dtype = torch.float32
    sliding_window: int = 0
    soft_cap: float = 0.0
    causal: bool = True
    scale: float = 0.2
    kv_cache_dtype: torch.dtype | None = None  # None: `dtype`

    @property
    def cache_dtype(self) -> torch.dtype:
        return self.kv_cache_dtype or self.dtype

    @property
    def logits_soft_cap(self) -> float | None:
        return self.soft_cap or None

    def spec(self) -> AttentionSpec:
        return AttentionSpec(
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            dtype=self.dtype,
            kv_cache_dtype=self.cache_dtype,
            sliding_window=self.sliding_window or None,
            logits_soft_cap=self.logits_soft_cap,
            block_size=self.block_size,
        )


@dataclass
class PagedCase:
    """One step of requests with (tokens in the cache before, new tokens), written to the cache already.

    Block -1 exists and holds not-a-number: it stands for all blocks that may not be read.
    """

    heads: Heads
    lengths: list[tuple[int, int]]
    device: str = "cpu"
    padding: int = 0  # requests without tokens at the end, as in a CUDA graph
    q: Tensor = field(init=False)
    kv_cache: Tensor = field(init=False)
    batch: dict[str, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        heads, size = self.heads, self.heads.block_size
        generator = torch.Generator().manual_seed(sum(map(sum, self.lengths)))
        num_tokens = sum(new for _, new in self.lengths)
        width = heads.num_heads * heads.head_dim
        wide = torch.randn(num_tokens + self.padding, width + 32, generator=generator).to(heads.dtype)
        self.q = wide.to(self.device)[:, :width].unflatten(1, (heads.num_heads, heads.head_dim))
        needed = [-(-(before + new) // size) for before, new in self.lengths]
        order = (torch.randperm(sum(needed), generator=generator) + 1).int()
        blocks = torch.full((1 + sum(needed), 2, heads.num_kv_heads, size, heads.head_dim), float("nan"))
        table = torch.full((len(self.lengths) + self.padding, max(needed) + 1), -1, dtype=torch.int32)
        self.keys: list[Tensor] = []
        for row, (before, new) in enumerate(self.lengths):
            length = before + new
            keys = torch.randn(length, 2, heads.num_kv_heads, heads.head_dim, generator=generator)
            keys = keys.to(heads.cache_dtype).to(heads.dtype)
            mine = order[sum(needed[:row]) : sum(needed[: row + 1])]
            position = torch.arange(length)
            blocks[mine.long()[position // size], :, :, position % size] = keys.float()
            gone = max(0, before + 1 - heads.sliding_window) // size if heads.sliding_window else 0
            table[row, gone : len(mine)] = mine[gone:] - 1
            blocks[mine[:gone].long()] = float("nan")
            self.keys.append(keys)
        self.kv_cache = blocks.to(heads.cache_dtype).to(self.device)[1:]
        starts = [0]
        for new in [new for _, new in self.lengths] + [1] * self.padding:
            starts.append(starts[-1] + new)
        seq_lens = [before + new for before, new in self.lengths] + [0] * self.padding
        self.batch = {
            "query_start_loc": torch.tensor(starts, dtype=torch.int32, device=self.device),
            "seq_lens": torch.tensor(seq_lens, dtype=torch.int32, device=self.device),
            "block_table": table.to(self.device),
        }

    def plan_arguments(self) -> dict[str, Any]:
        """What `plan_attention` asks of the host."""
        heads = self.heads
        return {
            "num_reqs": len(self.lengths) + self.padding,
            "num_tokens": self.q.shape[0],
            "max_query_len": max(new for _, new in self.lengths),
            "max_seq_len": max(map(sum, self.lengths)),
            "num_heads": heads.num_heads,
            "num_kv_heads": heads.num_kv_heads,
            "head_dim": heads.head_dim,
            "dtype": heads.dtype,
            "cache_dtype": heads.cache_dtype,
            "soft_cap": heads.soft_cap,
            "sliding_window": heads.sliding_window,
        }

    def scoring(self) -> dict[str, Any]:
        """What `paged_attention` must know of the layer."""
        heads = self.heads
        return {
            "scale": heads.scale,
            "soft_cap": heads.soft_cap,
            "sliding_window": heads.sliding_window,
            "causal": heads.causal,
        }

    def expected(self) -> Tensor:
        """float32 [T, Hq, D], in plain torch over keys that lie in one piece; zeros for the padding."""
        heads = self.heads
        out = torch.zeros(self.q.shape, device=self.device)
        group = heads.num_heads // heads.num_kv_heads
        at = 0
        for keys, (before, new) in zip(self.keys, self.lengths, strict=True):
            k, v = (x.float().to(self.device).repeat_interleave(group, 1) for x in keys.unbind(1))
            scores = torch.einsum("qhd,khd->hqk", self.q[at : at + new].float(), k) * heads.scale
            if heads.soft_cap:
                scores = heads.soft_cap * torch.tanh(scores / heads.soft_cap)
            position = torch.arange(before, before + new, device=self.device)[:, None]
            distance = position - torch.arange(before + new, device=self.device)
            hidden = distance < 0 if heads.causal else torch.zeros_like(distance, dtype=torch.bool)
            if heads.sliding_window:
                hidden |= distance >= heads.sliding_window
            weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
            out[at : at + new] = torch.einsum("hqk,khd->qhd", weights, v)
            at += new
        return out


def through_backend(case: PagedCase, kind: type[AttentionBackend]) -> Tensor:
    """What a backend of `kind` gives for a case of whole prompts, whose keys it writes to a cache of its own."""
    heads, size = case.heads, case.heads.block_size
    assert all(before == 0 for before, _ in case.lengths)
    backend = kind([heads.spec()], None)
    shape = backend.kv_cache_shape(case.kv_cache.shape[0], size, heads.num_kv_heads, heads.head_dim, heads.cache_dtype)
    k, v = torch.cat(case.keys).to(case.device).unbind(1)
    table = case.batch["block_table"].tolist()
    slots = [
        table[row][at // size] * size + at % size for row, (_, new) in enumerate(case.lengths) for at in range(new)
    ]
    metadata = AttentionMetadata(
        **case.batch,
        slot_mapping=torch.tensor(slots, device=case.device),
        num_reqs=len(case.lengths),
        num_tokens=len(slots),
        max_query_len=max(new for _, new in case.lengths),
        max_seq_len=max(new for _, new in case.lengths),
    )
    metadata = backend.build(metadata, heads.sliding_window or None)
    cache = torch.zeros(shape, dtype=heads.cache_dtype, device=case.device)
    return backend.forward(heads, case.q, k, v, cache, metadata)


Rotated = tuple[Tensor, Tensor]  # results, and the cache as it was left


def rotated_both_ways(
    case: PagedCase, tiles: Any = None, *, normed: bool, alone: bool, rotated: float = 1.0
) -> tuple[Rotated, Rotated]:
    """Triton's attention with new tokens that it rotates itself, and with rotation and cache write in front of it.

    The new tokens' queries, keys and values are random, and replace those of the case. `rotated`: share of a head.
    `alone`: a step of one token for each request, that runs as one launch.
    """
    from octavo.kernels.triton_attention import paged_attention, plan_attention, rotated_attention
    from octavo.kernels.triton_cache import Rotation, rotary_and_cache_write

    heads, starts = case.heads, case.batch["query_start_loc"]
    num_tokens, dim = case.q.shape[0], heads.head_dim
    half = int(dim * rotated) // 2
    plan = plan_attention(starts, **case.plan_arguments(), tiles=tiles, isolated=alone)
    assert plan.alone == alone
    width = (heads.num_heads + 2 * heads.num_kv_heads) * dim
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(heads.dtype).to(case.device)

    qkv, angles, norms = random(num_tokens, width + 32)[:, :width], random(num_tokens, 1, half), random(2, dim)
    turn = angles.cos(), angles.sin()
    table, size = case.batch["block_table"].tolist(), heads.block_size
    places = [(row, at) for row, (before, new) in enumerate(case.lengths) for at in range(before, before + new)]
    slots = [table[row][at // size] * size + at % size for row, at in places] + [-1] * case.padding
    to = torch.tensor(slots, device=case.device)
    caches = [case.kv_cache.clone(), case.kv_cache.clone()]
    rotation = Rotation(*turn, (norms[0], norms[1]) if normed else None, 1e-3, 1.0)
    step = case.batch | case.scoring()
    ours = rotated_attention(qkv, caches[0], plan, rotation, to, num_heads=heads.num_heads, **step)
    single: dict[str, Any] = {"q_norm": norms[0], "k_norm": norms[1]} if normed else {}
    q = rotary_and_cache_write(
        qkv, caches[1], *turn, to, num_heads=heads.num_heads, eps=1e-3, norm_offset=1.0, **single
    )
    apart = paged_attention(q, caches[1], replace(plan, early=False), **step)
    return (ours, caches[0]), (apart, caches[1])
