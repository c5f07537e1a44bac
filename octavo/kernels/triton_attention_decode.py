"""Paged attention for requests with one new token, or a few: near the speed at which memory can be read.

A program serves one KV head of one request and reads its keys and values once for all query heads of the group. Few
requests are split over the length of the context (flash-decoding: Dao et al. 2023, "Flash-Decoding for long-context
inference"): each split leaves its normalized sum and the logarithm of its weight, and a second kernel merges them, in
order. A split that begins behind the end of its request ends at once, so the grid depends on the bucket of a CUDA graph
alone. Rows of the batch with more new tokens than QUERIES are left to the prefill kernel.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from octavo.kernels.triton_attention_tiles import DecodeTile
from octavo.kernels.triton_launch import launch
from octavo.kernels.triton_softmax import (
    HIDDEN,
    PagedBatch,
    Scoring,
    add_tile,
    empty_sums,
    page_numbers,
    read_tile,
    visible_keys,
)

COMBINED_SPLITS = 32  # that the second kernel reads at a time


@triton.jit
def split_range(seq_len, num_queries, window, num_splits, TOKENS: tl.constexpr, WINDOW: tl.constexpr):
    """The first position that a request's queries see, where its splits begin, and the tokens of each split."""
    lo = seq_len * 0
    if WINDOW:
        lo = tl.maximum(seq_len - num_queries + 1 - window, 0)
    start = lo // TOKENS * TOKENS
    tiles = tl.cdiv(tl.cdiv(seq_len - start, num_splits), TOKENS)
    return lo, start, tl.maximum(tiles, 1) * TOKENS


@triton.jit
def write_sums(
    out_ptr, partial_ptr, weight_ptr, maximum, total, acc, place, is_row, is_real, d, D: tl.constexpr,
    SPLIT: tl.constexpr
):  # fmt: skip
    """The normalized sums of rows [ROWS] at their `place`; when SPLIT with the logarithms of their weights."""
    acc = acc / total[:, None]
    at = (place * D)[:, None] + d[None, :]
    if SPLIT:
        tl.store(partial_ptr + at, acc, mask=is_real)
        tl.store(weight_ptr + place, maximum + tl.log2(total), mask=is_row)
    else:
        tl.store(out_ptr + at, acc.to(out_ptr.dtype.element_ty), mask=is_real)


@triton.jit(do_not_specialize=["window", "table_stride"])
def _decode_kernel(
    out_ptr, partial_ptr, weight_ptr, q_ptr, kv_ptr, table_ptr, starts_ptr, lens_ptr, scale, soft_cap, window,
    table_stride, q_stride, HQ: tl.constexpr, HKV: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, PAGE: tl.constexpr,
    ROWS: tl.constexpr, QUERIES: tl.constexpr, TOKENS: tl.constexpr, STAGES: tl.constexpr, SPLIT: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SOFT_CAP: tl.constexpr, EARLY: tl.constexpr, PDL: tl.constexpr
):  # fmt: skip
    """Program (KV head, row of the batch, split). EARLY: a first tile of earlier steps is read before gdc_wait."""
    if PDL:
        gdc_launch_dependents()
        if not EARLY:
            gdc_wait()
    kv_head = tl.program_id(0)
    row = tl.program_id(1)
    split = tl.program_id(2)
    first_token = tl.load(starts_ptr + row)
    num_queries = tl.load(starts_ptr + row + 1) - first_token
    seq_len = tl.load(lens_ptr + row)
    lo, start, chunk = split_range(seq_len, num_queries, window, tl.num_programs(2), TOKENS, WINDOW)
    begin = start + split * chunk
    end = tl.minimum(begin + chunk, seq_len)
    table_ptr += row.to(tl.int64) * table_stride
    kv_ptr += kv_head * (PAGE * D)
    BLOCK: tl.constexpr = 2 * HKV * PAGE * D
    VALUES: tl.constexpr = HKV * PAGE * D
    if EARLY:
        written = seq_len - num_queries
        is_early = (begin < end) & (begin + TOKENS <= written)
        early = tl.where(is_early, begin, tl.maximum(written - 1, 0) // TOKENS * TOKENS)
        hi = tl.where(is_early, end, 0)
        pages = page_numbers(table_ptr, early, lo, hi, PAGE, TOKENS)
        k0, v0, tokens0, seen0 = read_tile(kv_ptr, pages, early, lo, hi, BLOCK, VALUES, D, DP, PAGE, TOKENS, True)
        first = tl.where(is_early, begin + TOKENS, begin)
        pages = page_numbers(table_ptr, first, lo, end, PAGE, TOKENS)
        if PDL:
            gdc_wait()
    else:
        first = begin
        pages = page_numbers(table_ptr, first, lo, end, PAGE, TOKENS)
    # Of a request without tokens (padding of a graph) split 0 writes zeros.
    if (num_queries <= 0) | (num_queries > QUERIES) | ((begin >= end) & (split > 0)):
        return
    GROUP: tl.constexpr = HQ // HKV
    rows = tl.arange(0, ROWS)
    d = tl.arange(0, DP)
    query = rows // GROUP
    head = kv_head * GROUP + rows % GROUP
    is_real = (query < num_queries)[:, None] & (d < D)[None, :]
    token = (first_token + query).to(tl.int64)
    q = tl.load(q_ptr + (token * q_stride + head * D)[:, None] + d[None, :], mask=is_real, other=0.0)
    position = seq_len - num_queries + query
    maximum, total, acc = empty_sums(ROWS, DP)
    if EARLY:
        visible0 = visible_keys(tokens0, seen0, position, window, False, WINDOW and QUERIES > 1)
        maximum, total, acc = add_tile(q, k0, v0, visible0, maximum, total, acc, scale, soft_cap, SOFT_CAP, True)
    for t in tl.range(first, end, TOKENS, num_stages=STAGES):
        k, v, tokens, seen = read_tile(kv_ptr, pages, t, lo, end, BLOCK, VALUES, D, DP, PAGE, TOKENS, True)
        pages = page_numbers(table_ptr, t + TOKENS, lo, end, PAGE, TOKENS)
        visible = visible_keys(tokens, seen, position, window, CAUSAL and QUERIES > 1, WINDOW and QUERIES > 1)
        maximum, total, acc = add_tile(q, k, v, visible, maximum, total, acc, scale, soft_cap, SOFT_CAP, True)
    total = tl.where(seq_len > 0, total, 1.0)
    place = token * HQ + head
    if SPLIT:
        place = ((row * QUERIES + query) * HQ + head) * tl.num_programs(2) + split
    write_sums(
        out_ptr, partial_ptr, weight_ptr, maximum, total, acc, place, query < num_queries, is_real, d, D, SPLIT
    )  # fmt: skip


@triton.jit(do_not_specialize=["window", "num_splits"])
def _combine_kernel(
    out_ptr, partial_ptr, weight_ptr, starts_ptr, lens_ptr, window, num_splits, HQ: tl.constexpr, D: tl.constexpr,
    DP: tl.constexpr, QUERIES: tl.constexpr, TOKENS: tl.constexpr, SPLITS: tl.constexpr, WINDOW: tl.constexpr,
    PDL: tl.constexpr
):  # fmt: skip
    """Program (query head, row of the batch times QUERIES): merges the splits that were not empty, SPLITS at a time."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    head = tl.program_id(0)
    row = tl.program_id(1) // QUERIES
    query = tl.program_id(1) % QUERIES
    first_token = tl.load(starts_ptr + row)
    num_queries = tl.load(starts_ptr + row + 1) - first_token
    seq_len = tl.load(lens_ptr + row)
    if (query >= num_queries) | (num_queries > QUERIES):
        return
    _, start, chunk = split_range(seq_len, num_queries, window, num_splits, TOKENS, WINDOW)
    num_used = tl.maximum(tl.cdiv(seq_len - start, chunk), 1)
    base = (tl.program_id(1) * HQ + head) * num_splits
    d = tl.arange(0, DP)
    maximum = tl.full([1], HIDDEN, tl.float32)
    total = tl.zeros([1], tl.float32)
    acc = tl.zeros([DP], tl.float32)
    for s in tl.range(0, num_used, SPLITS):
        splits = s + tl.arange(0, SPLITS)
        is_used = splits < num_used
        weights = tl.load(weight_ptr + base + splits, mask=is_used, other=-float("inf"))
        sums = tl.load(
            partial_ptr + (base + splits)[:, None] * D + d[None, :],
            mask=is_used[:, None] & (d < D)[None, :],
            other=0.0,
        )
        peak = tl.maximum(maximum, tl.max(weights, 0))
        weights = tl.exp2(weights - peak)
        fade = tl.exp2(maximum - peak)
        total = total * fade + tl.sum(weights, 0)
        acc = acc * fade + tl.sum(sums * weights[:, None], 0)
        maximum = peak
    out = acc / total
    at = ((first_token + query).to(tl.int64) * HQ + head) * D
    tl.store(out_ptr + at + d, out.to(out_ptr.dtype.element_ty), mask=d < D)


def new_partials(q: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Room for `count` sums of splits [count, D] and their weights [count]."""
    return q.new_empty(count, q.shape[-1], dtype=torch.float32), q.new_empty(count, dtype=torch.float32)


def combine_splits(
    out: Tensor,
    partials: Tensor,
    weights: Tensor,
    batch: PagedBatch,
    scoring: Scoring,
    *,
    num_queries: int,
    num_splits: int,
    tokens: int,
    dependent: bool,
) -> None:
    """Merges what the splits of a decode kernel, which read `tokens` keys at a time, left; into `out` [T, Hq, D]."""
    num_heads, head_dim = out.shape[1:]
    padded = triton.next_power_of_2(head_dim)
    launch(
        _combine_kernel,
        (num_heads, batch.seq_lens.shape[0] * num_queries),
        *(out, partials, weights, batch.query_start_loc, batch.seq_lens, scoring.sliding_window, num_splits),
        HQ=num_heads,
        D=head_dim,
        DP=padded,
        QUERIES=num_queries,
        TOKENS=tokens,
        SPLITS=min(num_splits, COMBINED_SPLITS),
        WINDOW=scoring.sliding_window > 0,
        PDL=dependent,
        num_warps=2 if padded <= 128 else 4,
    )


def decode_attention(
    out: Tensor,
    q: Tensor,
    kv_cache: Tensor,
    batch: PagedBatch,
    scoring: Scoring,
    tile: DecodeTile,
    *,
    num_queries: int,
    num_splits: int,
    early: bool,
    dependent: bool,
) -> None:
    """Fills the rows of `out` [T, Hq, D] that belong to requests with at most `num_queries` new tokens.

    `early`: keys of tokens before a request's new ones, and the tensors of `batch`, are not written by a kernel that
    may still run when this one starts.
    """
    num_heads, head_dim = q.shape[1:]
    num_kv_heads, page = kv_cache.shape[2:4]
    num_reqs = batch.seq_lens.shape[0]
    partials = weights = out
    if num_splits > 1:
        partials, weights = new_partials(q, num_reqs * num_queries * num_heads * num_splits)
    rows = triton.next_power_of_2(num_queries * (num_heads // num_kv_heads))
    launch(
        _decode_kernel,
        (num_kv_heads, num_reqs, num_splits),
        *(out, partials, weights, q, kv_cache, *batch.arguments()),
        *(*scoring.arguments(), batch.block_table.stride(0), q.stride(0)),
        **scoring.constants(),
        HQ=num_heads,
        HKV=num_kv_heads,
        D=head_dim,
        DP=triton.next_power_of_2(head_dim),
        PAGE=page,
        ROWS=max(rows, tile.min_rows),
        QUERIES=num_queries,
        TOKENS=tile.tokens,
        STAGES=tile.stages,
        SPLIT=num_splits > 1,
        EARLY=early,
        PDL=dependent,
        num_warps=tile.num_warps,
    )
    if num_splits > 1:
        combine_splits(
            *(out, partials, weights, batch, scoring),
            num_queries=num_queries,
            num_splits=num_splits,
            tokens=tile.tokens,
            dependent=dependent,
        )
