"""Paged attention on a GPU, for any mix of prompts, chunks of prompts and single tokens: tensors in, tensors out.

This room decides which kernel serves which requests, from numbers that the host knows without asking the device:
requests with one new token go to the decode kernel, others to a prefill kernel, and each finds its own in the batch.
A step in which all have few new tokens (one, or some that were guessed) is the decode kernel's alone.
The cache's layout is described in `triton_cache`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import import_module

import torch
from torch import Tensor

from octavo.kernels.triton_attention_decode import decode_attention
from octavo.kernels.triton_attention_prefill import can_rotate, make_tile_map, prefill_attention, tile_queries
from octavo.kernels.triton_attention_rotated import decode_attention_rotated
from octavo.kernels.triton_attention_tiles import (
    AttentionTiles,
    DecodeTile,
    choose_num_splits,
    choose_prefill,
    choose_tiles,
)
from octavo.kernels.triton_cache import Rotation, rotary_and_cache_write, rotated_keys_to_cache
from octavo.kernels.triton_launch import gpu_traits
from octavo.kernels.triton_softmax import PagedBatch, Scoring

MAX_DECODE_QUERIES = 8
MAX_DECODE_ROWS = 64  # query heads of all queries of a request that share a KV head


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """How one step's attention is done, for all layers with the same heads and window."""

    tiles: AttentionTiles
    decode_queries: int  # the most new tokens of a request that the decode kernel serves; 0: it is not needed
    num_splits: int
    early: bool  # the decode kernel reads its first keys before the kernel in front of it is done
    alone: bool  # one new token for each request, and none sees a token that another one writes in this step
    tile_map: Tensor | None  # of the prefill kernel, as `make_tile_map` describes it; None: it is not needed

    @property
    def decode_tile(self) -> DecodeTile:
        return self.tiles.split if self.num_splits > 1 else self.tiles.whole


def plan_attention(
    query_start_loc: Tensor,
    *,
    num_reqs: int,
    num_tokens: int,
    max_query_len: int,
    max_seq_len: int,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    dtype: torch.dtype,
    cache_dtype: torch.dtype | None = None,
    soft_cap: float = 0.0,
    sliding_window: int = 0,
    isolated: bool = False,
    tiles: AttentionTiles | None = None,
) -> AttentionPlan:
    """The plan for `num_reqs` requests with `num_tokens` new tokens, at most `max_query_len` each.

    `cache_dtype`: None is `dtype`. `soft_cap`: 0 where no layer has one. `isolated`: no request sees a token that
    another one writes in this step.

    For a CUDA graph `max_seq_len` is the longest context that it will ever see. query_start_loc, int32 [num_reqs + 1],
    is read by a kernel when there is a prompt, and never by the host. `tiles` other than the table's are for tuning.
    """
    traits = gpu_traits(query_start_loc.device)
    if tiles is None:
        tiles = choose_tiles(traits, head_dim, dtype)
        if cache_dtype in (None, dtype) and not soft_cap and not sliding_window:
            prefill = choose_prefill(traits, tiles, head_dim, dtype, num_tokens * num_heads)
            tiles = replace(tiles, prefill=prefill)
    few = max_query_len <= MAX_DECODE_QUERIES and max_query_len * (num_heads // num_kv_heads) <= MAX_DECODE_ROWS
    all_alike = num_tokens == num_reqs * max_query_len
    decode_queries = max_query_len if few else 0 if all_alike else 1
    tile_map = None
    if not few:
        num_queries = tile_queries(tiles.prefill, num_heads, num_kv_heads)
        tile_map = make_tile_map(query_start_loc, num_reqs, num_tokens, num_queries, decode_queries)
    visible = min(max_seq_len, sliding_window + max_query_len) if sliding_window else max_seq_len
    num_splits = choose_num_splits(tiles, num_reqs * num_kv_heads, visible)
    # Of several requests one may see tokens that another writes in this step: blocks of a prefix that they share.
    alone = num_tokens == num_reqs and (num_reqs == 1 or isolated)
    early = traits.dependent_launch and (num_reqs == 1 or isolated)
    return AttentionPlan(tiles, decode_queries, num_splits, early, alone, tile_map)


def paged_attention(
    q: Tensor,
    kv_cache: Tensor,
    plan: AttentionPlan,
    *,
    query_start_loc: Tensor,
    seq_lens: Tensor,
    block_table: Tensor,
    scale: float,
    soft_cap: float = 0.0,
    sliding_window: int = 0,
    causal: bool = True,
) -> Tensor:
    """Attention of the new tokens of R requests over their cached tokens, the new ones included.

    q [T, Hq, D], float32, float16 or bfloat16, the heads of a token next to each other; query_start_loc int32 [R + 1];
    seq_lens int32 [R]; block_table int32 [R, W], whose entries are read only where a query sees a token of that block.
    soft_cap: scores become soft_cap * tanh(scores / soft_cap); 0: they stay. sliding_window: tokens that a query sees,
    itself included; 0: all. Sums are float32, and taken in the same order each time.

    A request of seq_len 0 has zeros as its result, one without new tokens has none; that is how a CUDA graph is padded.
    With `plan.early` seq_lens, block_table and query_start_loc are read before the kernels in front of this one are
    done: what writes them in the same step must not itself let dependent launches start.

    Returns [T, Hq, D], contiguous.
    """
    assert q.stride()[1:] == (q.shape[2], 1)
    assert kv_cache.is_contiguous()
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    batch = PagedBatch(query_start_loc, seq_lens, block_table)
    _attend(out, q, kv_cache, plan, batch, Scoring(scale, soft_cap, sliding_window, causal))
    return out


def _attend_prompts(
    out: Tensor,
    q: Tensor,
    kv_cache: Tensor,
    plan: AttentionPlan,
    batch: PagedBatch,
    scoring: Scoring,
    rotation: Rotation | None = None,
) -> None:
    """By the kernel for which the plan's map was made."""
    assert plan.tile_map is not None
    attend = prefill_attention
    if plan.tiles.prefill.specialized:  # imported only where it is known that Triton can
        attend = import_module("octavo.kernels.gluon_attention_prefill").prefill_attention
    attend(out, q, kv_cache, batch, scoring, plan.tiles.prefill, plan.tile_map, rotation)


def _attend(out: Tensor, q: Tensor, kv_cache: Tensor, plan: AttentionPlan, batch: PagedBatch, scoring: Scoring) -> None:
    """Each kernel of the plan fills its rows of `out`."""
    if plan.tile_map is not None:
        _attend_prompts(out, q, kv_cache, plan, batch, scoring)
    if plan.decode_queries:
        decode_attention(
            *(out, q, kv_cache, batch, scoring, plan.decode_tile),
            num_queries=plan.decode_queries,
            num_splits=plan.num_splits,
            early=plan.early,
            dependent=gpu_traits(q.device).dependent_launch,
        )


def rotated_attention(
    qkv: Tensor,
    kv_cache: Tensor,
    plan: AttentionPlan,
    rotation: Rotation,
    slot_mapping: Tensor,
    *,
    num_heads: int,
    query_start_loc: Tensor,
    seq_lens: Tensor,
    block_table: Tensor,
    scale: float,
    soft_cap: float = 0.0,
    sliding_window: int = 0,
    causal: bool = True,
) -> Tensor:
    """Norm, rotation and write to the cache of new tokens, and their attention.

    qkv [T, (Hq + 2 Hkv) * D], of the dtype of the cache; `rotary_and_cache_write` and `paged_attention` describe the
    other arguments. Where the attention kernels can turn queries themselves, these are not written in between; where
    the plan is that of a step `alone`, keys and values are written by the kernel that attends, and there is one launch.

    Returns [T, Hq, D], contiguous.
    """
    assert kv_cache.dtype is qkv.dtype
    batch = PagedBatch(query_start_loc, seq_lens, block_table)
    scoring = Scoring(scale, soft_cap, sliding_window, causal)
    head_dim, dependent = kv_cache.shape[-1], gpu_traits(qkv.device).dependent_launch
    out = torch.empty(qkv.shape[0], num_heads, head_dim, dtype=qkv.dtype, device=qkv.device)
    if plan.decode_queries > 1 or not (plan.tile_map is None or can_rotate(rotation, head_dim)):
        q_norm, k_norm = rotation.norms or (None, None)
        q = rotary_and_cache_write(
            *(qkv, kv_cache, rotation.cos, rotation.sin, slot_mapping),
            num_heads=num_heads,
            q_norm=q_norm,
            k_norm=k_norm,
            eps=rotation.eps,
            norm_offset=rotation.norm_offset,
        )
        _attend(out, q, kv_cache, plan, batch, scoring)
        return out
    if not plan.alone:
        rotated_keys_to_cache(qkv, kv_cache, rotation, slot_mapping, num_heads=num_heads)
    if plan.tile_map is not None:
        q = qkv[:, : num_heads * head_dim].unflatten(1, (num_heads, head_dim))
        _attend_prompts(out, q, kv_cache, plan, batch, scoring, rotation)
    if plan.decode_queries:
        decode_attention_rotated(
            *(out, qkv, kv_cache, batch, scoring, plan.decode_tile),
            rotation=rotation,
            slot_mapping=slot_mapping,
            num_splits=plan.num_splits,
            write=plan.alone,
            early=plan.early,
            dependent=dependent,
        )
    return out
