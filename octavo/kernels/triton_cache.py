"""The KV cache of the Triton kernels, and what writes to it: [num_blocks, 2, Hkv, block_size, D] for each layer.

The keys of one block and head lie in one piece (4 KB for 16 tokens of 128 numbers of 16 bits), their values a fixed
distance behind them: a program of attention, which serves one KV head, reads long runs of memory, and finds both by one
look-up in the block table. A block is one piece of memory, so that it can be copied or moved as one. What is written is
rounded to the dtype of the cache: that of the run, or float8_e4m3fn (with no scale: beyond 448 it is cut off).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from octavo.kernels.triton_launch import gpu_traits, launch

NUMBERS_PER_PROGRAM = 1024
MANY_TOKENS = 1024  # from here on a program has twice as many numbers


@dataclass(frozen=True, slots=True)
class Rotation:
    """What becomes of the heads of queries and keys before attention; see `rotary_and_cache_write`."""

    cos: Tensor
    sin: Tensor
    norms: tuple[Tensor, Tensor] | None = None  # of queries, of keys
    eps: float = 0.0
    norm_offset: float = 0.0

    @property
    def half(self) -> int:
        return self.cos.shape[-1]


def kv_cache_shape(num_blocks: int, block_size: int, num_kv_heads: int, head_dim: int) -> tuple[int, ...]:
    """The shape of one layer's cache; contiguous."""
    return (num_blocks, 2, num_kv_heads, block_size, head_dim)


@triton.jit
def _cache_offsets(slot, heads, d, is_value, HKV: tl.constexpr, D: tl.constexpr, PAGE: tl.constexpr):
    """Where token `slot` of KV heads [H] lies in the cache: int64 [H, DP]; `is_value` [H] chooses its value."""
    block = (slot // PAGE) * (2 * HKV * PAGE * D)
    head = tl.where(is_value, heads + HKV, heads) * (PAGE * D)
    return (block + head + (slot % PAGE) * D)[:, None] + d[None, :]


@triton.jit
def _cache_write_kernel(
    kv_ptr, k_ptr, v_ptr, slots_ptr, k_stride, v_stride, HKV: tl.constexpr, D: tl.constexpr, DP: tl.constexpr,
    PAGE: tl.constexpr, HEADS: tl.constexpr, PDL: tl.constexpr
):  # fmt: skip
    """Program (token, HEADS heads)."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    token = tl.program_id(0).to(tl.int64)
    heads = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    slot = tl.load(slots_ptr + token).to(tl.int64)
    if slot < 0:
        return
    d = tl.arange(0, DP)
    is_real = (heads < HKV)[:, None] & (d < D)[None, :]
    here = (heads * D)[:, None] + d[None, :]
    k = tl.load(k_ptr + token * k_stride + here, mask=is_real).to(kv_ptr.dtype.element_ty)
    v = tl.load(v_ptr + token * v_stride + here, mask=is_real).to(kv_ptr.dtype.element_ty)
    tl.store(kv_ptr + _cache_offsets(slot, heads, d, heads < 0, HKV, D, PAGE), k, mask=is_real)
    tl.store(kv_ptr + _cache_offsets(slot, heads, d, heads >= 0, HKV, D, PAGE), v, mask=is_real)


@triton.jit
def _norm_weight(q_norm_ptr, k_norm_ptr, is_query, at, mask, offset):
    """Factors of the query or the key norm [H, C], one of them for each row."""
    q_norm = tl.load(q_norm_ptr + at, mask=mask, other=0.0).to(tl.float32)
    k_norm = tl.load(k_norm_ptr + at, mask=mask, other=0.0).to(tl.float32)
    return tl.where(is_query[:, None], q_norm[None, :], k_norm[None, :]) + offset


@triton.jit
def _rotary_cache_kernel(
    q_ptr, kv_ptr, qkv_ptr, cos_ptr, sin_ptr, slots_ptr, q_norm_ptr, k_norm_ptr, eps, norm_offset, qkv_stride,
    HQ: tl.constexpr, HKV: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr, BH: tl.constexpr, BREST: tl.constexpr,
    PAGE: tl.constexpr, FIRST: tl.constexpr, HEADS: tl.constexpr, NORM: tl.constexpr, PDL: tl.constexpr
):  # fmt: skip
    """Program (token, HEADS heads of the row of qkv from head FIRST on). HALF: half of the numbers that are rotated.

    A head is read in pieces, both halves of what is rotated and the rest, so that every read and write is a wide one.
    """
    heads = FIRST + tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    is_query = heads < HQ
    is_value = heads >= HQ + HKV
    h = tl.arange(0, BH)
    r = 2 * HALF + tl.arange(0, BREST)
    if NORM:
        first_norm = _norm_weight(q_norm_ptr, k_norm_ptr, is_query, h, h < HALF, norm_offset)
        second_norm = _norm_weight(q_norm_ptr, k_norm_ptr, is_query, HALF + h, h < HALF, norm_offset)
        if 2 * HALF < D:
            rest_norm = _norm_weight(q_norm_ptr, k_norm_ptr, is_query, r, r < D, norm_offset)
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots_ptr + token).to(tl.int64)
    cos = tl.load(cos_ptr + token * HALF + h, mask=h < HALF, other=1.0).to(tl.float32)[None, :]
    sin = tl.load(sin_ptr + token * HALF + h, mask=h < HALF, other=0.0).to(tl.float32)[None, :]
    is_real = (heads < HQ + 2 * HKV)[:, None]
    inside = is_real & (h < HALF)[None, :]
    row = qkv_ptr + token * qkv_stride + (heads * D)[:, None]
    raw_first = tl.load(row + h[None, :], mask=inside, other=0.0)
    raw_second = tl.load(row + HALF + h[None, :], mask=inside, other=0.0)
    first, second = raw_first.to(tl.float32), raw_second.to(tl.float32)
    q_at = q_ptr + token * (HQ * D) + (heads * D)[:, None]
    kv_heads = tl.where(is_value, heads - HQ - HKV, heads - HQ)
    to_query = is_query[:, None]
    to_cache = is_real & (heads >= HQ)[:, None] & (slot >= 0)
    squares = tl.sum(first * first + second * second, 1)
    inverse = squares[:, None]
    if 2 * HALF < D:
        raw_rest = tl.load(row + r[None, :], mask=is_real & (r < D)[None, :], other=0.0)
        rest = raw_rest.to(tl.float32)
        squares += tl.sum(rest * rest, 1)
    if NORM:
        inverse = tl.rsqrt(squares / D + eps)[:, None]
        first = first * inverse * first_norm
        second = second * inverse * second_norm
    if 2 * HALF < D:
        if NORM:
            rest = rest * inverse * rest_norm
        rest = tl.where(is_value[:, None], raw_rest, rest.to(raw_rest.dtype))
        there = (r < D)[None, :]
        tl.store(q_at + r[None, :], rest, mask=there & to_query)
        cached = rest.to(kv_ptr.dtype.element_ty)
        tl.store(kv_ptr + _cache_offsets(slot, kv_heads, r, is_value, HKV, D, PAGE), cached, mask=there & to_cache)
    turned = tl.where(is_value[:, None], raw_first, (first * cos - second * sin).to(raw_first.dtype))
    turned_second = tl.where(is_value[:, None], raw_second, (second * cos + first * sin).to(raw_first.dtype))
    kv_at = kv_ptr + _cache_offsets(slot, kv_heads, h, is_value, HKV, D, PAGE)
    tl.store(q_at + h[None, :], turned, mask=inside & to_query)
    tl.store(q_at + HALF + h[None, :], turned_second, mask=inside & to_query)
    tl.store(kv_at, turned.to(kv_ptr.dtype.element_ty), mask=inside & to_cache)
    tl.store(kv_at + HALF, turned_second.to(kv_ptr.dtype.element_ty), mask=inside & to_cache)


def cache_write(kv_cache: Tensor, k: Tensor, v: Tensor, slot_mapping: Tensor) -> None:
    """Puts k and v [T, Hkv, D] in the cache, in the slots block_id * block_size + offset of slot_mapping int64 [T].

    The heads of a token lie next to each other; its row may be part of a wider one. Slots below 0 are left out.
    """
    num_tokens, num_kv_heads, head_dim = k.shape
    assert k.stride()[1:] == v.stride()[1:] == (head_dim, 1)
    assert kv_cache.is_contiguous()
    padded = triton.next_power_of_2(head_dim)
    heads = min(max(1, NUMBERS_PER_PROGRAM // padded), triton.next_power_of_2(num_kv_heads))
    launch(
        _cache_write_kernel,
        (num_tokens, triton.cdiv(num_kv_heads, heads)),
        *(kv_cache, k, v, slot_mapping, k.stride(0), v.stride(0)),
        HKV=num_kv_heads,
        D=head_dim,
        DP=padded,
        PAGE=kv_cache.shape[3],
        HEADS=heads,
        num_warps=2,
        PDL=gpu_traits(k.device).dependent_launch,
    )


def rotary_and_cache_write(
    qkv: Tensor,
    kv_cache: Tensor,
    cos: Tensor,
    sin: Tensor,
    slot_mapping: Tensor,
    *,
    num_heads: int,
    q_norm: Tensor | None = None,
    k_norm: Tensor | None = None,
    eps: float = 0.0,
    norm_offset: float = 0.0,
) -> Tensor:
    """Norm and rotation of queries and keys, and the write of keys and values to the cache, in one launch.

    qkv [T, (Hq + 2 Hkv) * D]: queries, keys, values of each token. cos and sin [T, 1, R/2], R at most D: the pairs
    (x[i], x[i + R/2]) are rotated, the rest of a head stays (arXiv 2104.09864). q_norm and k_norm [D], both or none:
    heads are divided by their root mean square first and multiplied by the weight plus `norm_offset` (1 for Gemma).
    Between these steps nothing is rounded. slot_mapping int64 [T]: slots below 0 are not written.

    Returns the queries [T, Hq, D].
    """
    q = torch.empty(qkv.shape[0], num_heads, kv_cache.shape[-1], dtype=qkv.dtype, device=qkv.device)
    norms = None if q_norm is None or k_norm is None else (q_norm, k_norm)
    _rotate(q, qkv, kv_cache, Rotation(cos, sin, norms, eps, norm_offset), slot_mapping, first_head=0)
    return q


def rotated_keys_to_cache(
    qkv: Tensor, kv_cache: Tensor, rotation: Rotation, slot_mapping: Tensor, *, num_heads: int
) -> None:
    """`rotary_and_cache_write` of keys and values alone; the queries, `num_heads` of a token, stay as they are."""
    _rotate(qkv, qkv, kv_cache, rotation, slot_mapping, first_head=num_heads)


def _rotate(
    q: Tensor, qkv: Tensor, kv_cache: Tensor, rotation: Rotation, slot_mapping: Tensor, *, first_head: int
) -> None:
    """The heads of qkv from `first_head` on; queries, where that is 0, to q."""
    num_tokens = qkv.shape[0]
    _, _, num_kv_heads, page, head_dim = kv_cache.shape
    num_all = qkv.shape[1] // head_dim
    assert qkv.stride(1) == 1
    assert all(x.is_contiguous() for x in (rotation.cos, rotation.sin, kv_cache))
    numbers = NUMBERS_PER_PROGRAM if num_tokens <= MANY_TOKENS else 2 * NUMBERS_PER_PROGRAM
    heads = min(max(1, numbers // triton.next_power_of_2(head_dim)), triton.next_power_of_2(num_all - first_head))
    launch(
        _rotary_cache_kernel,
        (num_tokens, triton.cdiv(num_all - first_head, heads)),
        *(q, kv_cache, qkv, rotation.cos, rotation.sin, slot_mapping, *(rotation.norms or (qkv, qkv))),
        *(rotation.eps, rotation.norm_offset, qkv.stride(0)),
        HQ=num_all - 2 * num_kv_heads,
        HKV=num_kv_heads,
        D=head_dim,
        HALF=rotation.half,
        BH=triton.next_power_of_2(rotation.half),
        BREST=triton.next_power_of_2(max(head_dim - 2 * rotation.half, 1)),
        PAGE=page,
        FIRST=first_head,
        HEADS=heads,
        NORM=rotation.norms is not None,
        num_warps=4,
        PDL=gpu_traits(qkv.device).dependent_launch,
    )
