"""The attention layer: it holds the numbers of one layer; the backend attached to it does the work."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from octavo.attention.base import AttentionBackend, AttentionSpec
from octavo.layers.context import ForwardContext

if TYPE_CHECKING:
    from octavo.layers.norm import HeadNorm
    from octavo.layers.rotary import Rotation


class Attention(nn.Module):
    """Scaled dot-product attention of `num_heads` query heads over `num_kv_heads` key and value heads.

    `backend` and `group_id` (the KV-cache group that the layer belongs to) are set from outside.
    """

    backend: AttentionBackend
    group_id: int = 0

    def __init__(
        self,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        scale: float,
        layer_id: int,
        *,
        sliding_window: int | None = None,
        logits_soft_cap: float | None = None,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.num_kv_heads = num_kv_heads
        self.head_dim = head_dim
        self.scale = scale
        self.layer_id = layer_id
        self.sliding_window = sliding_window
        self.logits_soft_cap = logits_soft_cap

    def forward(self, q: Tensor, k: Tensor, v: Tensor, ctx: ForwardContext) -> Tensor:
        """q [T, num_heads * head_dim], k and v [T, num_kv_heads * head_dim] -> [T, num_heads * head_dim]."""
        out = self.backend.forward(
            self,
            q.view(-1, self.num_heads, self.head_dim),
            k.view(-1, self.num_kv_heads, self.head_dim),
            v.view(-1, self.num_kv_heads, self.head_dim),
            ctx.kv_caches[self.layer_id],
            ctx.metadata[self.group_id],
        )
        return out.view(-1, self.num_heads * self.head_dim)

    def rotated(
        self,
        qkv: Tensor,
        rotate: Rotation,
        norms: tuple[HeadNorm, HeadNorm] | None,
        ctx: ForwardContext,
    ) -> Tensor:
        """Attention with heads of q and k that are normed, where there are norms, and rotated first.

        qkv [T, (num_heads + 2 * num_kv_heads) * head_dim] -> [T, num_heads * head_dim].
        """
        if self.backend.rotates:
            cache, metadata = ctx.kv_caches[self.layer_id], ctx.metadata[self.group_id]
            operands = None if norms is None else (norms[0].weight, norms[1].weight, norms[0].eps, norms[0].offset)
            out = self.backend.forward_rotated(self, qkv, (rotate.cos, rotate.sin), operands, cache, metadata)
            return out.view(-1, self.num_heads * self.head_dim)
        sizes = (self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim)
        qk, v = qkv.split_with_sizes((sum(sizes), sizes[1]), dim=-1)
        if norms is None:
            q, k = rotate(qk).split_with_sizes(sizes, dim=-1)
        else:
            heads = qk.view(qk.shape[0], -1, self.head_dim)
            q, k = heads.split_with_sizes((self.num_heads, self.num_kv_heads), dim=1)
            q, k = rotate(norms[0](q).flatten(1)), rotate(norms[1](k).flatten(1))
        return self(q, k, v, ctx)

    def spec(self, dtype: torch.dtype, kv_cache_dtype: torch.dtype, block_size: int) -> AttentionSpec:
        return AttentionSpec(
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            dtype=dtype,
            kv_cache_dtype=kv_cache_dtype,
            sliding_window=self.sliding_window,
            logits_soft_cap=self.logits_soft_cap,
            block_size=block_size,
        )
