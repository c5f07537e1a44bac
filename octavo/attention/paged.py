"""The KV-cache layout of the torch backends: (2, num_blocks, num_kv_heads, block_size, head_dim), keys then values.

One head's tokens of a block lie next to each other, so that gathering blocks copies long runs of memory.
"""

from __future__ import annotations

import torch
from torch import Tensor

from octavo.attention.base import AttentionSpec


def declines(spec: AttentionSpec) -> str | None:
    """Why the cache that `spec` asks for can't be of this layout; None when it can."""
    if spec.kv_cache_dtype.is_floating_point:
        return None
    return f"its KV cache is of floating point, not {spec.kv_cache_dtype}"


def kv_cache_shape(num_blocks: int, block_size: int, num_kv_heads: int, head_dim: int) -> tuple[int, ...]:
    return (2, num_blocks, num_kv_heads, block_size, head_dim)


def write(kv_cache: Tensor, blocks: Tensor, offsets: Tensor, k: Tensor, v: Tensor) -> None:
    """Puts k and v [T, num_kv_heads, head_dim] at `offsets` [T] of `blocks` [T], rounded to the cache's dtype."""
    kv_cache[0][blocks, :, offsets] = k.to(kv_cache.dtype)
    kv_cache[1][blocks, :, offsets] = v.to(kv_cache.dtype)


def gather(kv_cache: Tensor, blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values of `blocks` [B], in that order: two of [num_kv_heads, B * block_size, head_dim]."""
    _, _, num_kv_heads, _, head_dim = kv_cache.shape
    found = kv_cache[:, blocks].transpose(1, 2).reshape(2, num_kv_heads, -1, head_dim)
    return found[0], found[1]


def first_visible_block(first_query: int, block_size: int, sliding_window: int | None) -> int:
    """The index in a request's block table of the first block that a query at position `first_query` sees."""
    return 0 if sliding_window is None else max(0, first_query + 1 - sliding_window) // block_size


def slots(slot_mapping: Tensor, block_size: int) -> tuple[Tensor, Tensor]:
    """Block ids and offsets in the block of `slot_mapping` [T]."""
    return torch.div(slot_mapping, block_size, rounding_mode="floor"), slot_mapping % block_size
