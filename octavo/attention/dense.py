"""Attention of one request over keys and values that lie in order: the arithmetic that the torch backends share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def visible(query_positions: Tensor, key_positions: Tensor, *, causal: bool, sliding_window: int | None) -> Tensor:
    """bool [..., L, S]: which keys (positions [..., S]) each query (positions [..., L]) sees.

    Causal: those up to itself. Sliding window: the last `sliding_window` of them, itself included (Beltagy et al. 2020,
    arXiv 2004.05150, section 3.1, one-sided as in Mistral 7B, arXiv 2310.06825).
    """
    distance = query_positions[..., :, None] - key_positions[..., None, :]
    seen = distance >= 0 if causal else torch.ones_like(distance, dtype=torch.bool)
    return seen if sliding_window is None else seen & (distance < sliding_window)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, *, scale: float, soft_cap: float | None) -> Tensor:
    """q [H, L, D], k and v [Hkv, S, D] -> [H, L, D]; query head h reads key head h // (H / Hkv).

    `mask` is bool [L, S], True where a query sees a key.
    """
    q, k, v = _grouped(q, k, v)
    if soft_cap is None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale).flatten(0, 1)
    scores = torch.matmul(q, k.transpose(-1, -2)).float().mul_(scale / soft_cap).tanh_().mul_(soft_cap)
    scores.masked_fill_(~mask, float("-inf"))
    return torch.matmul(scores.softmax(dim=-1).to(v.dtype), v).flatten(0, 1)


def attend_causal(q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> Tensor:
    """`attend` of L queries over their own L keys, each seeing those up to itself."""
    return F.scaled_dot_product_attention(*_grouped(q, k, v), is_causal=True, scale=scale).flatten(0, 1)


def _grouped(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[Hkv, H / Hkv, ...] of each; key heads are repeated by a stride of 0, which costs no copy."""
    q = q.view(k.shape[0], -1, *q.shape[1:])
    return q, k[:, None].expand(-1, q.shape[1], -1, -1), v[:, None].expand(-1, q.shape[1], -1, -1)
