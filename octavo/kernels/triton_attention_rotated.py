"""Decode attention that takes queries, keys and values as the product leaves them: one launch instead of two.

For requests with one new token; others are left out. A program norms and rotates the query heads that it serves; the
one whose split has the new token does so with the new key as well, and starts its sums from it. With WRITE it puts key
and value in the cache beside that: nothing in the launch waits for the cache, and its first tile can be read while the
product in front still runs. But then no request may see a token that another writes in the same step: nobody would
wait for it. Splits and their sums are those of `triton_attention_decode`.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from octavo.kernels.triton_attention_decode import combine_splits, new_partials, split_range, write_sums
from octavo.kernels.triton_attention_tiles import DecodeTile
from octavo.kernels.triton_cache import Rotation
from octavo.kernels.triton_launch import launch
from octavo.kernels.triton_softmax import PagedBatch, Scoring, add_tile, empty_sums, page_numbers, read_tile


@triton.jit
def _rotated(
    row_ptr, norm_ptr, eps, norm_offset, cos_ptr, sin_ptr, token, heads, is_real, d, D: tl.constexpr,
    HALF: tl.constexpr, NORM: tl.constexpr
):  # fmt: skip
    """Heads [H] of a row of qkv, normed and rotated, in its dtype [H, DP]."""
    is_turned = d < 2 * HALF
    partner = tl.where(d < HALF, d + HALF, tl.where(is_turned, d - HALF, d))
    cos = tl.load(cos_ptr + token * HALF + d % HALF, mask=is_turned, other=1.0).to(tl.float32)
    sin = tl.load(sin_ptr + token * HALF + d % HALF, mask=is_turned, other=0.0).to(tl.float32)
    at = row_ptr + (heads * D)[:, None]
    x = tl.load(at + d[None, :], mask=is_real, other=0.0).to(tl.float32)
    y = tl.load(at + partner[None, :], mask=is_real & is_turned[None, :], other=0.0).to(tl.float32)
    if NORM:
        inverse = tl.rsqrt(tl.sum(x * x, 1) / D + eps)[:, None]
        x *= inverse * (tl.load(norm_ptr + d, mask=d < D, other=0.0).to(tl.float32) + norm_offset)[None, :]
        y *= inverse * (tl.load(norm_ptr + partner, mask=is_turned, other=0.0).to(tl.float32) + norm_offset)[None, :]
    return (x * cos[None, :] + y * tl.where(d < HALF, -sin, sin)[None, :]).to(row_ptr.dtype.element_ty)


@triton.jit
def _write_token(
    at, k, v, slot, mask, D: tl.constexpr, PAGE: tl.constexpr, BLOCK: tl.constexpr, VALUES: tl.constexpr
):  # fmt: skip
    """Key and value of one token to its slot of a KV head's cache; nowhere, if that is below 0."""
    at += (slot // PAGE) * BLOCK + (slot % PAGE) * D
    tl.store(at, k, mask=mask & (slot >= 0))
    tl.store(at + VALUES, v, mask=mask & (slot >= 0))


@triton.jit
def _scores(q, k, scale, soft_cap, SOFT_CAP: tl.constexpr):
    """Of queries [ROWS, DP] with one key [1, DP], as `add_tile` makes them."""
    scores = tl.sum(q.to(tl.float32) * k.to(tl.float32), 1) * scale
    if SOFT_CAP:
        scores = soft_cap - 2.0 * soft_cap / (tl.exp2(scores) + 1.0)
    return scores


@triton.jit(do_not_specialize=["window", "table_stride"])
def _decode_rotated_kernel(
    out_ptr, partial_ptr, weight_ptr, qkv_ptr, kv_ptr, table_ptr, starts_ptr, lens_ptr, slots_ptr, cos_ptr, sin_ptr,
    q_norm_ptr, k_norm_ptr, eps, norm_offset, scale, soft_cap, window, table_stride, qkv_stride, HQ: tl.constexpr,
    HKV: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, HALF: tl.constexpr, PAGE: tl.constexpr, ROWS: tl.constexpr,
    TOKENS: tl.constexpr, STAGES: tl.constexpr, SPLIT: tl.constexpr, NORM: tl.constexpr, WRITE: tl.constexpr,
    WINDOW: tl.constexpr, SOFT_CAP: tl.constexpr, EARLY: tl.constexpr, PDL: tl.constexpr
):  # fmt: skip
    """Program (KV head, request, split). EARLY: a first tile of earlier steps is read before gdc_wait."""
    if PDL:
        gdc_launch_dependents()
        if not EARLY:
            gdc_wait()
    kv_head = tl.program_id(0)
    row = tl.program_id(1)
    split = tl.program_id(2)
    token = tl.load(starts_ptr + row)
    num_queries = tl.load(starts_ptr + row + 1) - token
    seq_len = tl.load(lens_ptr + row)
    lo, start, chunk = split_range(seq_len, 1, window, tl.num_programs(2), TOKENS, WINDOW)
    begin = start + split * chunk
    end = tl.minimum(begin + chunk, seq_len)
    cached = tl.minimum(end, seq_len - 1)  # the new token comes from qkv
    table_ptr += row.to(tl.int64) * table_stride
    kv_ptr += kv_head * (PAGE * D)
    BLOCK: tl.constexpr = 2 * HKV * PAGE * D
    VALUES: tl.constexpr = HKV * PAGE * D
    if EARLY:
        early = tl.minimum(begin, tl.maximum(seq_len - 2, 0) // TOKENS * TOKENS)
        hi = tl.where(begin < cached, cached, 0)
        pages = page_numbers(table_ptr, early, lo, hi, PAGE, TOKENS)
        k0, v0, _, seen0 = read_tile(kv_ptr, pages, early, lo, hi, BLOCK, VALUES, D, DP, PAGE, TOKENS, True)
    first = begin + TOKENS if EARLY else begin
    if not SPLIT:
        pages = page_numbers(table_ptr, first, lo, cached, PAGE, TOKENS)
    if EARLY and PDL:
        gdc_wait()
    # Of a request without tokens (padding of a graph) split 0 writes zeros.
    if (num_queries != 1) | ((begin >= end) & (split > 0)):
        return
    GROUP: tl.constexpr = HQ // HKV
    rows = tl.arange(0, ROWS)
    d = tl.arange(0, DP)
    token = token.to(tl.int64)
    qkv_ptr += token * qkv_stride
    head = kv_head * GROUP + rows
    is_real = (rows < GROUP)[:, None] & (d < D)[None, :]
    q = _rotated(qkv_ptr, q_norm_ptr, eps, norm_offset, cos_ptr, sin_ptr, token, head, is_real, d, D, HALF, NORM)
    maximum, total, acc = empty_sums(ROWS, DP)
    if (begin < end) & (end == seq_len):
        new = (d < D)[None, :]
        heads = HQ + kv_head + tl.arange(0, 1)
        k = _rotated(qkv_ptr, k_norm_ptr, eps, norm_offset, cos_ptr, sin_ptr, token, heads, new, d, D, HALF, NORM)
        v = tl.load(qkv_ptr + (HQ + HKV + kv_head) * D + d[None, :], mask=new, other=0.0)
        if WRITE:
            _write_token(kv_ptr + d[None, :], k, v, tl.load(slots_ptr + token), new, D, PAGE, BLOCK, VALUES)
        maximum = _scores(q, k, scale, soft_cap, SOFT_CAP)
        total += 1.0
        acc += v.to(tl.float32)
    if EARLY:
        maximum, total, acc = add_tile(q, k0, v0, seen0[None, :], maximum, total, acc, scale, soft_cap, SOFT_CAP, True)
    if first < cached:  # not so for most splits of a short context, which are spared a pipeline's beginning and end
        if SPLIT:
            pages = page_numbers(table_ptr, first, lo, cached, PAGE, TOKENS)
        for t in tl.range(first, cached, TOKENS, num_stages=STAGES):
            k, v, _, seen = read_tile(kv_ptr, pages, t, lo, cached, BLOCK, VALUES, D, DP, PAGE, TOKENS, True)
            pages = page_numbers(table_ptr, t + TOKENS, lo, cached, PAGE, TOKENS)
            maximum, total, acc = add_tile(q, k, v, seen[None, :], maximum, total, acc, scale, soft_cap, SOFT_CAP, True)
    total = tl.where(seq_len > 0, total, 1.0)
    place = (row * HQ + head) * tl.num_programs(2) + split if SPLIT else token * HQ + head
    write_sums(out_ptr, partial_ptr, weight_ptr, maximum, total, acc, place, rows < GROUP, is_real, d, D, SPLIT)


def decode_attention_rotated(
    out: Tensor,
    qkv: Tensor,
    kv_cache: Tensor,
    batch: PagedBatch,
    scoring: Scoring,
    tile: DecodeTile,
    *,
    rotation: Rotation,
    slot_mapping: Tensor,
    num_splits: int,
    write: bool,
    early: bool,
    dependent: bool,
) -> None:
    """Fills the rows of `out` [T, Hq, D] that belong to requests with one new token; qkv [T, (Hq + 2 Hkv) * D].

    `write`: keys and values of the new tokens are not in the cache yet.
    `early`: keys of earlier steps, and the tensors of `batch`, are not written by a kernel that may still run when this
    one starts.
    """
    num_heads, head_dim = out.shape[1:]
    num_reqs = batch.seq_lens.shape[0]
    num_kv_heads, page = kv_cache.shape[2:4]
    partials = weights = out
    if num_splits > 1:
        partials, weights = new_partials(out, num_reqs * num_heads * num_splits)
    launch(
        _decode_rotated_kernel,
        (num_kv_heads, num_reqs, num_splits),
        *(out, partials, weights, qkv, kv_cache, *batch.arguments(), slot_mapping, rotation.cos, rotation.sin),
        *(rotation.norms or (qkv, qkv)),
        *(rotation.eps, rotation.norm_offset, *scoring.arguments(), batch.block_table.stride(0), qkv.stride(0)),
        HQ=num_heads,
        HKV=num_kv_heads,
        D=head_dim,
        DP=triton.next_power_of_2(head_dim),
        HALF=rotation.half,
        PAGE=page,
        ROWS=max(triton.next_power_of_2(num_heads // num_kv_heads), tile.min_rows),
        TOKENS=tile.tokens,
        STAGES=tile.stages,
        SPLIT=num_splits > 1,
        NORM=rotation.norms is not None,
        WRITE=write,
        WINDOW=scoring.sliding_window > 0,
        SOFT_CAP=scoring.soft_cap > 0,
        EARLY=early,
        PDL=dependent,
        num_warps=tile.num_warps,
    )
    if num_splits > 1:
        combine_splits(
            *(out, partials, weights, batch, scoring),
            num_queries=1,
            num_splits=num_splits,
            tokens=tile.tokens,
            dependent=dependent,
        )
