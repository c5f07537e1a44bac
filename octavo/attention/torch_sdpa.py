"""TORCH_SDPA: the plain twin. Request by request, over gathered blocks, on any device that torch serves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from octavo.attention import paged
from octavo.attention.base import AttentionBackend, AttentionLayer, AttentionMetadata, AttentionSpec
from octavo.attention.dense import attend, visible


@dataclass(slots=True)
class _Row:
    """One request of the step."""

    tokens: slice  # its new tokens among all
    blocks: Tensor  # int64, from the first visible one
    num_keys: int  # from the start of those blocks
    mask: Tensor  # bool [new tokens, num_keys]


@dataclass(slots=True)
class _Plan:
    blocks: Tensor
    offsets: Tensor
    rows: list[_Row]


class TorchSDPABackend(AttentionBackend):
    name: ClassVar[str] = "TORCH_SDPA"

    @classmethod
    def declines(cls, spec: AttentionSpec, device: torch.device, kernels: object) -> str | None:
        return paged.declines(spec)

    @staticmethod
    def kv_cache_shape(
        num_blocks: int, block_size: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype
    ) -> tuple[int, ...]:
        return paged.kv_cache_shape(num_blocks, block_size, num_kv_heads, head_dim)

    def build(self, metadata: AttentionMetadata, sliding_window: int | None) -> AttentionMetadata:
        starts = metadata.query_start_loc.tolist()
        rows: list[_Row] = []
        for row, seq_len in enumerate(metadata.seq_lens.tolist()):
            first_query = seq_len - (starts[row + 1] - starts[row])
            first = paged.first_visible_block(first_query, self.block_size, sliding_window)
            blocks = metadata.block_table[row, first : -(-seq_len // self.block_size)].long()
            positions = torch.arange(seq_len, device=blocks.device)
            keys = positions[first * self.block_size :]
            mask = visible(positions[first_query:], keys, causal=metadata.causal, sliding_window=sliding_window)
            rows.append(_Row(slice(starts[row], starts[row + 1]), blocks, len(keys), mask))
        return replace(metadata, plan=_Plan(*paged.slots(metadata.slot_mapping, self.block_size), rows))

    def forward(
        self, layer: AttentionLayer, q: Tensor, k: Tensor, v: Tensor, kv_cache: Tensor, metadata: AttentionMetadata
    ) -> Tensor:
        plan: _Plan = metadata.plan
        paged.write(kv_cache, plan.blocks, plan.offsets, k, v)
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        for row in plan.rows:
            keys, values = (x[:, : row.num_keys].to(q.dtype) for x in paged.gather(kv_cache, row.blocks))
            queries = q[row.tokens].transpose(0, 1)
            attended = attend(queries, keys, values, row.mask, scale=layer.scale, soft_cap=layer.logits_soft_cap)
            out[row.tokens] = attended.transpose(0, 1)
        return out
