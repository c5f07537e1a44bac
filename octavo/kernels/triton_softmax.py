"""Attention of a tile of queries to one tile of cached keys: what the decode and the prefill kernel share.

The softmax is computed online (Milakov and Gimelshein 2018, arXiv 1805.02867; as in FlashAttention, Dao et al. 2022,
arXiv 2205.14135, algorithm 1), in base 2: `scale` has the factor log2(e). A key that a query does not see has the score
HIDDEN, which is finite: a row that has seen nothing yet has no number to be ashamed of, and what it then sums up has
weight 0 beside the first key that it sees.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

HIDDEN = tl.constexpr(-1.0e30)


@dataclass(frozen=True, slots=True)
class PagedBatch:
    """R requests: where their new tokens begin, int32 [R + 1]; their lengths, int32 [R]; their blocks, int32 [R, W]."""

    query_start_loc: Tensor
    seq_lens: Tensor
    block_table: Tensor

    def arguments(self) -> tuple[Tensor, Tensor, Tensor]:
        """In the order in which the kernels take them."""
        return self.block_table, self.query_start_loc, self.seq_lens


@dataclass(frozen=True, slots=True)
class Scoring:
    """How scores are made and who sees whom; no soft cap, or no window: 0."""

    scale: float
    soft_cap: float
    sliding_window: int
    causal: bool

    def arguments(self) -> tuple[float, float, int]:
        """scale and soft_cap as `add_tile` takes them, and the window."""
        log2_e = math.log2(math.e)
        return (
            self.scale * log2_e * (2.0 / self.soft_cap if self.soft_cap else 1.0),
            self.soft_cap * log2_e,
            self.sliding_window,
        )

    def constants(self) -> dict[str, bool]:
        return {"CAUSAL": self.causal, "WINDOW": self.sliding_window > 0, "SOFT_CAP": self.soft_cap > 0}


@triton.jit
def page_numbers(table_ptr, start, lo, hi, PAGE: tl.constexpr, TOKENS: tl.constexpr):
    """Which blocks hold the tile of keys from position `start`: a number, or int32 [TOKENS], one for each key.

    A loop looks them up one tile ahead: were they read in front of their tile, the compiler could not send for a tile
    before the one in front of it has arrived. Nothing is read of blocks without a key in [lo, hi): they are block 0.
    """
    if PAGE >= TOKENS:
        pages = tl.load(table_ptr + start // PAGE, mask=(start + TOKENS > lo) & (start < hi), other=0)
    else:
        tokens = start + tl.arange(0, TOKENS)
        pages = tl.load(table_ptr + tokens // PAGE, mask=(tokens >= lo) & (tokens < hi), other=0)
    return pages


@triton.jit
def read_tile(
    kv_ptr, pages, start, lo, hi, BLOCK: tl.constexpr, VALUES: tl.constexpr, D: tl.constexpr, DP: tl.constexpr,
    PAGE: tl.constexpr, TOKENS: tl.constexpr, MASKED: tl.constexpr
):  # fmt: skip
    """Keys and values [TOKENS, DP] from position `start`, a multiple of TOKENS; their positions; which are in [lo, hi).

    When MASKED nothing outside of [lo, hi) is read of the cache, which may hold anything there. `kv_ptr` is at the KV
    head, `pages` are those of `page_numbers`. BLOCK: numbers from one block of the cache to the next, VALUES: from a
    key to its value.
    """
    place = tl.arange(0, TOKENS)
    tokens = start + place
    d = tl.arange(0, DP)
    seen = (tokens >= lo) & (tokens < hi)
    if PAGE >= TOKENS:
        offsets = pages.to(tl.int64) * BLOCK + (start % PAGE + place) * D
    else:
        offsets = pages.to(tl.int64) * BLOCK + (place % PAGE) * D
    keys = kv_ptr + offsets[:, None] + d[None, :]
    if MASKED:
        mask = seen[:, None]
        if DP > D:
            mask = mask & (d < D)[None, :]
        k = tl.load(keys, mask=mask, other=0.0)
        v = tl.load(keys + VALUES, mask=mask, other=0.0)
    elif DP > D:
        k = tl.load(keys, mask=(d < D)[None, :], other=0.0)
        v = tl.load(keys + VALUES, mask=(d < D)[None, :], other=0.0)
    else:
        k = tl.load(keys)
        v = tl.load(keys + VALUES)
    return k, v, tokens, seen


@triton.jit
def visible_keys(tokens, seen, position, window, CAUSAL: tl.constexpr, WINDOW: tl.constexpr):
    """[ROWS or 1, TOKENS]: which of the keys at `tokens` that are `seen` the queries at `position` [ROWS] see."""
    visible = seen[None, :]
    if CAUSAL:
        visible = visible & (tokens[None, :] <= position[:, None])
    if WINDOW:
        visible = visible & (tokens[None, :] > position[:, None] - window)
    return visible


@triton.jit
def empty_sums(ROWS: tl.constexpr, DP: tl.constexpr):
    """What `add_tile` starts from."""
    maximum = tl.full([ROWS], HIDDEN, tl.float32)
    return maximum, tl.zeros([ROWS], tl.float32), tl.zeros([ROWS, DP], tl.float32)


@triton.jit
def add_tile(
    q, k, v, visible, maximum, total, acc, scale, soft_cap, SOFT_CAP: tl.constexpr, MASKED: tl.constexpr
):  # fmt: skip
    """Adds a tile of keys to the running maximum [ROWS], sum of weights [ROWS] and weighted values [ROWS, DP].

    `visible` [ROWS or 1, TOKENS] counts when MASKED. SOFT_CAP: scores become soft_cap * tanh(q k scale / 2), so `scale`
    is twice that of the tanh's argument times log2(e), and `soft_cap` has the factor log2(e). Keys and values of 8 bits
    become as wide as the queries.
    """
    k = k.to(q.dtype)
    v = v.to(q.dtype)
    scores = tl.dot(q, tl.trans(k), input_precision="ieee")
    if SOFT_CAP:
        scores = soft_cap - 2.0 * soft_cap / (tl.exp2(scores * scale) + 1.0)
    if MASKED or SOFT_CAP:
        if not SOFT_CAP:
            scores = scores * scale
        if MASKED:
            scores = tl.where(visible, scores, HIDDEN)
        peak = tl.maximum(maximum, tl.max(scores, 1))
        weights = tl.exp2(scores - peak[:, None])
    else:  # one multiply-add for each score
        peak = tl.maximum(maximum, tl.max(scores, 1) * scale)
        weights = tl.exp2(scores * scale - peak[:, None])
    fade = tl.exp2(maximum - peak)
    total = total * fade + tl.sum(weights, 1)
    acc = tl.dot(weights.to(v.dtype), v, acc * fade[:, None], input_precision="ieee")
    return peak, total, acc
