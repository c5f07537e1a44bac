"""Paged attention for requests with several new tokens, on the tensor cores.

The order of the loops is that of FlashAttention-2 (Dao 2023, arXiv 2307.08691, section 3.1).

A program serves one KV head and some consecutive queries of one request with all heads of the group, so that keys and
values are read once for the group. Which queries, a map says that a small kernel makes once for a step: the host need
not know how long each request is. Tiles of keys that no query sees are skipped; those that all see are not masked.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo.kernels.triton_attention_tiles import PrefillTile
from octavo.kernels.triton_cache import Rotation
from octavo.kernels.triton_launch import launch
from octavo.kernels.triton_softmax import (
    PagedBatch,
    Scoring,
    add_tile,
    empty_sums,
    page_numbers,
    read_tile,
    visible_keys,
)


@triton.jit(do_not_specialize=["num_reqs", "num_tiles"])
def _tile_map_kernel(
    map_ptr, starts_ptr, num_reqs, num_tiles, QUERIES: tl.constexpr, SHORT: tl.constexpr, STEP: tl.constexpr
):  # fmt: skip
    """Program (request): lists its tiles behind those of the requests before it; the last one ends the list with -1.

    Behind the list it puts the zeros from which a kernel counts.
    """
    request = tl.program_id(0)
    at = request * 0
    for first in tl.range(0, request, STEP):
        i = first + tl.arange(0, STEP)
        begin = tl.load(starts_ptr + i, mask=i < request, other=0)
        count = tl.load(starts_ptr + i + 1, mask=i < request, other=0) - begin
        at += tl.sum(tl.where(count > SHORT, tl.cdiv(count, QUERIES), 0), 0)
    count = tl.load(starts_ptr + request + 1) - tl.load(starts_ptr + request)
    own = tl.where(count > SHORT, tl.cdiv(count, QUERIES), 0)
    for first in tl.range(0, own, STEP):
        i = first + tl.arange(0, STEP)
        tl.store(map_ptr + (at + i) * 2, request, mask=i < own)
        tl.store(map_ptr + (at + i) * 2 + 1, own - 1 - i, mask=i < own)  # the longest first
    if request == num_reqs - 1:
        for first in tl.range(at + own, num_tiles, STEP):
            i = first + tl.arange(0, STEP)
            tl.store(map_ptr + i * 2, -1, mask=i < num_tiles)
        tl.store(map_ptr + num_tiles * 2 + tl.arange(0, 2), 0)


@triton.jit
def _rotated_queries(
    q_at, cos_ptr, sin_ptr, norm_ptr, eps, norm_offset, token, is_real, D: tl.constexpr, ROWS: tl.constexpr,
    NORM: tl.constexpr
):  # fmt: skip
    """Queries [ROWS, D] at q_at [ROWS], normed and rotated, in their dtype; read and turned in halves."""
    h = tl.arange(0, D // 2)
    mask = is_real[:, None]
    first = tl.load(q_at[:, None] + h[None, :], mask=mask, other=0.0).to(tl.float32)
    second = tl.load(q_at[:, None] + D // 2 + h[None, :], mask=mask, other=0.0).to(tl.float32)
    if NORM:
        inverse = tl.rsqrt(tl.sum(first * first + second * second, 1) / D + eps)[:, None]
        first *= inverse * (tl.load(norm_ptr + h).to(tl.float32) + norm_offset)[None, :]
        second *= inverse * (tl.load(norm_ptr + D // 2 + h).to(tl.float32) + norm_offset)[None, :]
    angle = (token * (D // 2))[:, None] + h[None, :]
    cos = tl.load(cos_ptr + angle, mask=mask, other=1.0).to(tl.float32)
    sin = tl.load(sin_ptr + angle, mask=mask, other=0.0).to(tl.float32)
    halves = tl.join(first * cos - second * sin, second * cos + first * sin)
    return tl.reshape(tl.permute(halves, (0, 2, 1)), (ROWS, D)).to(q_at.dtype.element_ty)


@triton.jit(do_not_specialize=["window", "table_stride"])
def _prefill_kernel(
    out_ptr, q_ptr, kv_ptr, table_ptr, starts_ptr, lens_ptr, map_ptr, cos_ptr, sin_ptr, norm_ptr, eps, norm_offset,
    scale, soft_cap, window, table_stride, q_stride, HQ: tl.constexpr, HKV: tl.constexpr, D: tl.constexpr,
    DP: tl.constexpr, PAGE: tl.constexpr, ROWS: tl.constexpr, QUERIES: tl.constexpr, TOKENS: tl.constexpr,
    STAGES: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SOFT_CAP: tl.constexpr, ROTATE: tl.constexpr,
    NORM: tl.constexpr
):  # fmt: skip
    """Program (KV head, fastest, and entry of the map). ROTATE: queries are normed and rotated when they are read."""
    kv_head = tl.program_id(0) % HKV
    entry = tl.program_id(0) // HKV
    request = tl.load(map_ptr + entry * 2)
    if request < 0:
        return
    first_query = tl.load(map_ptr + entry * 2 + 1) * QUERIES
    first_token = tl.load(starts_ptr + request)
    num_queries = tl.load(starts_ptr + request + 1) - first_token
    seq_len = tl.load(lens_ptr + request)
    table_ptr += request.to(tl.int64) * table_stride
    kv_ptr += kv_head * (PAGE * D)
    BLOCK: tl.constexpr = 2 * HKV * PAGE * D
    VALUES: tl.constexpr = HKV * PAGE * D
    GROUP: tl.constexpr = HQ // HKV
    rows = tl.arange(0, ROWS)
    d = tl.arange(0, DP)
    query = first_query + rows // GROUP
    head = kv_head * GROUP + rows % GROUP
    is_real = (rows < QUERIES * GROUP) & (query < num_queries)
    token = (first_token + query).to(tl.int64)
    q_at = q_ptr + (token * q_stride + head * D)
    if ROTATE:
        q = _rotated_queries(q_at, cos_ptr, sin_ptr, norm_ptr, eps, norm_offset, token, is_real, D, ROWS, NORM)
    else:
        q = tl.load(q_at[:, None] + d[None, :], mask=is_real[:, None] & (d < D)[None, :], other=0.0)
    before = seq_len - num_queries  # tokens before the request's new ones
    position = before + query
    first = before + first_query
    lo = first * 0
    if WINDOW:
        lo = tl.maximum(first + 1 - window, 0)
    hi = seq_len
    if CAUSAL:
        hi = tl.minimum(first + QUERIES, seq_len)
    start = lo // TOKENS * TOKENS
    full = start  # up to here, from `start`, every query sees every key
    if not WINDOW:
        full = (tl.minimum(first + 1, hi) if CAUSAL else hi) // TOKENS * TOKENS
    maximum, total, acc = empty_sums(ROWS, DP)
    pages = page_numbers(table_ptr, start, lo, hi, PAGE, TOKENS)
    if not WINDOW:
        for t in tl.range(start, full, TOKENS, num_stages=STAGES):
            k, v, tokens, seen = read_tile(kv_ptr, pages, t, lo, hi, BLOCK, VALUES, D, DP, PAGE, TOKENS, False)
            pages = page_numbers(table_ptr, t + TOKENS, lo, hi, PAGE, TOKENS)
            maximum, total, acc = add_tile(q, k, v, True, maximum, total, acc, scale, soft_cap, SOFT_CAP, False)
    # With a window most tiles are here; without one a tile or two, which wait for no others.
    for t in tl.range(full, hi, TOKENS, num_stages=STAGES if WINDOW else 1):
        k, v, tokens, seen = read_tile(kv_ptr, pages, t, lo, hi, BLOCK, VALUES, D, DP, PAGE, TOKENS, True)
        pages = page_numbers(table_ptr, t + TOKENS, lo, hi, PAGE, TOKENS)
        visible = visible_keys(tokens, seen, position, window, CAUSAL, WINDOW)
        maximum, total, acc = add_tile(q, k, v, visible, maximum, total, acc, scale, soft_cap, SOFT_CAP, True)
    out = (acc / total[:, None]).to(out_ptr.dtype.element_ty)
    at = out_ptr + ((token * HQ + head) * D)[:, None] + d[None, :]
    tl.store(at, out, mask=is_real[:, None] & (d < D)[None, :])


def can_rotate(rotation: Rotation, head_dim: int) -> bool:
    """The prefill kernel turns whole heads, of a size that is a power of two."""
    return 2 * rotation.half == head_dim and head_dim & (head_dim - 1) == 0


def tile_queries(tile: PrefillTile, num_heads: int, num_kv_heads: int) -> int:
    """Queries of one program."""
    return tile.rows // (num_heads // num_kv_heads)


def make_tile_map(query_start_loc: Tensor, num_reqs: int, num_tokens: int, num_queries: int, num_short: int) -> Tensor:
    """int32 [N + 1, 2]: which request, and which `num_queries` of its queries; -1 where the list has ended.

    N is the most tiles that `num_tokens` new tokens of `num_reqs` requests can need. Requests with at most `num_short`
    new tokens have none. The last row is zeros, from which a kernel counts what its programs have taken, and those that
    are done; it leaves zeros there.
    """
    num_long = min(num_reqs, num_tokens // (num_short + 1))  # each has at most one tile that is not full
    num_tiles = num_tokens // num_queries + num_long
    tile_map = torch.empty(num_tiles + 1, 2, dtype=torch.int32, device=query_start_loc.device)
    args = (tile_map, query_start_loc, num_reqs, num_tiles)
    launch(
        _tile_map_kernel,
        (num_reqs,),
        *args,
        QUERIES=num_queries,
        SHORT=num_short,
        STEP=256,
        num_warps=4,
    )
    return tile_map


def prefill_attention(
    out: Tensor,
    q: Tensor,
    kv_cache: Tensor,
    batch: PagedBatch,
    scoring: Scoring,
    tile: PrefillTile,
    tile_map: Tensor,
    rotation: Rotation | None = None,
) -> None:
    """Fills the rows of `out` [T, Hq, D] that belong to the requests of `tile_map`.

    rotation: what is to be done to q [T, Hq, D] first, where it is the product's; `can_rotate` says which.
    """
    num_heads, head_dim = q.shape[1:]
    num_kv_heads, page = kv_cache.shape[2:4]
    launch(
        _prefill_kernel,
        (num_kv_heads * (tile_map.shape[0] - 1),),
        *(out, q, kv_cache, *batch.arguments(), tile_map),
        *((q, q) if rotation is None else (rotation.cos, rotation.sin)),
        *(q if rotation is None or rotation.norms is None else rotation.norms[0],),
        *((0.0, 0.0) if rotation is None else (rotation.eps, rotation.norm_offset)),
        *(*scoring.arguments(), batch.block_table.stride(0), q.stride(0)),
        **scoring.constants(),
        ROTATE=rotation is not None,
        NORM=rotation is not None and rotation.norms is not None,
        HQ=num_heads,
        HKV=num_kv_heads,
        D=head_dim,
        DP=triton.next_power_of_2(head_dim),
        PAGE=page,
        ROWS=tile.rows,
        QUERIES=tile_queries(tile, num_heads, num_kv_heads),
        TOKENS=tile.tokens,
        STAGES=tile.stages,
        num_warps=tile.num_warps,
    )
