"""The attention layer: it holds the numbers of one layer; the backend attached to it does the work."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from octavo.attention.base import AttentionBackend, AttentionSpec
from octavo.layers.context import ForwardContext


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
