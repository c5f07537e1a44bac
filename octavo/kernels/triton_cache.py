"""The KV cache of the Triton kernels, and what writes to it: [num_blocks, 2, Hkv, block_size, D] for each layer.

The keys of one block and head lie in one piece (4 KB for 16 tokens of 128 numbers of 16 bits), their values a fixed
distance behind them: a program of attention, which serves one KV head, reads long runs of memory, and finds both by one
look-up in the block table. A block is one piece of memory, so that it can be copied or moved as one. What is written is
rounded to the dtype of the cache: that of the run, or float8_e4m3fn (with no scale: beyond 448 it is cut off).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from octavo.kernels.triton_launch import gpu_traits, launch

NUMBERS_PER_PROGRAM = 1024


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
    """Factors of the query or the key norm [H, DP], one of them for each row."""
    q_norm = tl.load(q_norm_ptr + at, mask=mask, other=0.0).to(tl.float32)
    k_norm = tl.load(k_norm_ptr + at, mask=mask, other=0.0).to(tl.float32)
    return tl.where(is_query[:, None], q_norm[None, :], k_norm[None, :]) + offset


@triton.jit
def _rotary_cache_kernel(
    q_ptr, kv_ptr, qkv_ptr, cos_ptr, sin_ptr, slots_ptr, q_norm_ptr, k_norm_ptr, eps, norm_offset, qkv_stride,
    HQ: tl.constexpr, HKV: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, HALF: tl.constexpr, PAGE: tl.constexpr,
    HEADS: tl.constexpr, NORM: tl.constexpr, PDL: tl.constexpr
):  # fmt: skip
    """Program (token, HEADS heads of the row of qkv). HALF: half of the numbers of a head that are rotated."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    token = tl.program_id(0).to(tl.int64)
    heads = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    d = tl.arange(0, DP)
    is_real = (heads < HQ + 2 * HKV)[:, None] & (d < D)[None, :]
    is_query = heads < HQ
    is_value = heads >= HQ + HKV
    row = qkv_ptr + token * qkv_stride + (heads * D)[:, None]
    is_turned = d < 2 * HALF
    partner = tl.where(d < HALF, d + HALF, tl.where(is_turned, d - HALF, d))
    raw = tl.load(row + d[None, :], mask=is_real, other=0.0)
    x = raw.to(tl.float32)
    y = tl.load(row + partner[None, :], mask=is_real & is_turned[None, :], other=0.0).to(tl.float32)
    if NORM:
        inverse = tl.rsqrt(tl.sum(x * x, 1) / D + eps)[:, None]
        x = x * inverse * _norm_weight(q_norm_ptr, k_norm_ptr, is_query, d, d < D, norm_offset)
        y = y * inverse * _norm_weight(q_norm_ptr, k_norm_ptr, is_query, partner, is_turned, norm_offset)
    angle = token * HALF + d % HALF
    cos = tl.load(cos_ptr + angle, mask=is_turned, other=1.0).to(tl.float32)
    sin = tl.load(sin_ptr + angle, mask=is_turned, other=0.0).to(tl.float32)
    x = x * cos[None, :] + y * tl.where(d < HALF, -sin, sin)[None, :]
    turned = tl.where(is_value[:, None], raw, x.to(raw.dtype))
    tl.store(q_ptr + token * (HQ * D) + (heads * D)[:, None] + d[None, :], turned, mask=is_real & is_query[:, None])
    slot = tl.load(slots_ptr + token).to(tl.int64)
    kv_heads = tl.where(is_value, heads - HQ - HKV, heads - HQ)
    is_cached = is_real & (heads >= HQ)[:, None] & (slot >= 0)
    cached = turned.to(kv_ptr.dtype.element_ty)
    tl.store(kv_ptr + _cache_offsets(slot, kv_heads, d, is_value, HKV, D, PAGE), cached, mask=is_cached)


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
    num_tokens = qkv.shape[0]
    _, _, num_kv_heads, page, head_dim = kv_cache.shape
    assert qkv.stride(1) == 1
    assert all(x.is_contiguous() for x in (cos, sin, kv_cache))
    q = torch.empty(num_tokens, num_heads, head_dim, dtype=qkv.dtype, device=qkv.device)
    padded = triton.next_power_of_2(head_dim)
    heads = max(1, NUMBERS_PER_PROGRAM // padded)
    has_norm = q_norm is not None and k_norm is not None
    norms = (q_norm, k_norm) if has_norm else (qkv, qkv)
    launch(
        _rotary_cache_kernel,
        (num_tokens, triton.cdiv(num_heads + 2 * num_kv_heads, heads)),
        *(q, kv_cache, qkv, cos, sin, slot_mapping, *norms, eps, norm_offset, qkv.stride(0)),
        HQ=num_heads,
        HKV=num_kv_heads,
        D=head_dim,
        DP=padded,
        HALF=cos.shape[-1],
        PAGE=page,
        HEADS=heads,
        NORM=has_norm,
        num_warps=2,
        PDL=gpu_traits(qkv.device).dependent_launch,
    )
    return q
