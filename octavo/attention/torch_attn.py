"""TORCH_ATTN: attention on a CPU in few, large torch calls. It stands in for CPU_ATTN where that is not built.

Requests with one new token are served together: those of similar length form a batch whose blocks are gathered into a
workspace, then two batched products and a softmax do the whole batch. Requests with more new tokens (prompts, or
chunks of them) are served one by one, in pieces of queries that look no further than they must.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from octavo.attention import paged
from octavo.attention.base import AttentionBackend, AttentionLayer, AttentionMetadata, AttentionSpec
from octavo.attention.dense import attend, attend_causal, visible

QUERIES_PER_PIECE = 512  # bounds the mask and the scores of a long prompt


@dataclass(slots=True)
class _DecodeBatch:
    """B requests with one new token each, padded to W blocks of keys; S is W * block_size."""

    tokens: Tensor | None  # int64 [B], their new tokens among all; None: all, in order
    rows: Tensor  # int64 [2 * B * Hkv * W], runs of block_size tokens of one head in the cache: keys, then values
    mask: Tensor  # [B * Hkv, 1, S], 0 where a key is seen, else -inf; in the dtype of the run
    size: int


@dataclass(slots=True)
class _PrefillRow:
    """A request with several new tokens."""

    tokens: slice  # its new tokens among all
    blocks: Tensor | None  # int64, from the first visible one; None: all that it sees is new
    first_key: int  # the position of the first token of those blocks
    first_query: int


@dataclass(slots=True)
class _Plan:
    blocks: Tensor
    offsets: Tensor
    decodes: list[_DecodeBatch]
    prefills: list[_PrefillRow]
    sliding_window: int | None


class TorchAttentionBackend(AttentionBackend):
    name: ClassVar[str] = "TORCH_ATTN"

    def __init__(self, specs: Sequence[AttentionSpec], kernels: object) -> None:
        super().__init__(specs, kernels)
        # Kept from step to step: fresh memory of this size would cost more in page faults than the copy itself.
        self.workspace = torch.empty(0, dtype=specs[0].kv_cache_dtype)

    @classmethod
    def declines(cls, spec: AttentionSpec, device: torch.device, kernels: object) -> str | None:
        return paged.declines(spec) if device.type == "cpu" else f"serves the cpu only, not {device.type}"

    @staticmethod
    def kv_cache_shape(
        num_blocks: int, block_size: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype
    ) -> tuple[int, ...]:
        return paged.kv_cache_shape(num_blocks, block_size, num_kv_heads, head_dim)

    def build(self, metadata: AttentionMetadata, sliding_window: int | None) -> AttentionMetadata:
        starts, seq_lens = metadata.query_start_loc.tolist(), metadata.seq_lens.tolist()
        batches: dict[int, list[int]] = {}
        prefills: list[_PrefillRow] = []
        for row, seq_len in enumerate(seq_lens):
            num_queries = starts[row + 1] - starts[row]
            first = paged.first_visible_block(seq_len - num_queries, self.block_size, sliding_window)
            last = -(-seq_len // self.block_size)
            if num_queries == 1:
                # Batches of doubling width: padding less than doubles the work, and there are few batches.
                batches.setdefault(1 << (last - first - 1).bit_length(), []).append(row)
                continue
            alone = num_queries == seq_len and (sliding_window is None or sliding_window >= seq_len)
            blocks = None if alone else metadata.block_table[row, first:last].long()
            tokens = slice(starts[row], starts[row + 1])
            prefills.append(_PrefillRow(tokens, blocks, first * self.block_size, seq_len - num_queries))
        whole = len(batches) == 1 and not prefills
        decodes = [self._decode_batch(metadata, rows, sliding_window, whole) for rows in batches.values()]
        plan = _Plan(*paged.slots(metadata.slot_mapping, self.block_size), decodes, prefills, sliding_window)
        return replace(metadata, plan=plan)

    def _decode_batch(
        self, metadata: AttentionMetadata, rows: list[int], sliding_window: int | None, whole: bool
    ) -> _DecodeBatch:
        size, num_kv_heads = len(rows), self.num_kv_heads
        row_ids = torch.tensor(rows)
        queries = metadata.seq_lens[row_ids].long() - 1  # positions, [B]
        last = queries // self.block_size
        first = torch.zeros_like(last)
        if sliding_window is not None:
            first = (queries + 1 - sliding_window).clamp_(min=0) // self.block_size
        columns = first[:, None] + torch.arange(int((last - first).max()) + 1)
        keys = (columns[:, :, None] * self.block_size + torch.arange(self.block_size)).view(size, -1)
        seen = visible(queries[:, None], keys, causal=True, sliding_window=sliding_window)
        mask = torch.zeros(seen.shape, dtype=self.dtype).masked_fill_(~seen, float("-inf"))
        # Columns after a request's last block repeat that block, which is masked there.
        blocks = metadata.block_table[row_ids[:, None], torch.minimum(columns, last[:, None])].long()
        runs = (blocks[:, None, :] * num_kv_heads + torch.arange(num_kv_heads)[:, None]).flatten()
        return _DecodeBatch(
            tokens=None if whole else metadata.query_start_loc[row_ids].long(),
            rows=runs,
            mask=mask.repeat_interleave(num_kv_heads, dim=0),
            size=size,
        )

    def forward(
        self, layer: AttentionLayer, q: Tensor, k: Tensor, v: Tensor, kv_cache: Tensor, metadata: AttentionMetadata
    ) -> Tensor:
        plan: _Plan = metadata.plan
        paged.write(kv_cache, plan.blocks, plan.offsets, k, v)
        if len(plan.decodes) == 1 and plan.decodes[0].tokens is None:
            return self._decode(layer, q, kv_cache, plan.decodes[0])
        out = torch.empty(q.shape, dtype=q.dtype)
        for batch in plan.decodes:
            out[batch.tokens] = self._decode(layer, q[batch.tokens], kv_cache, batch)
        for row in plan.prefills:
            self._prefill(layer, row, q, k, v, kv_cache, metadata, out)
        return out

    def _decode(self, layer: AttentionLayer, q: Tensor, kv_cache: Tensor, batch: _DecodeBatch) -> Tensor:
        """q [B, H, D] -> [B, H, D]."""
        runs = kv_cache.view(2, -1, self.block_size * self.head_dim)
        num_elements = 2 * batch.rows.numel() * runs.shape[2]
        if self.workspace.numel() < num_elements:
            self.workspace = torch.empty(num_elements, dtype=kv_cache.dtype)
        gathered = self.workspace[:num_elements].view(2, -1, runs.shape[2])
        torch.index_select(runs[0], 0, batch.rows, out=gathered[0])
        torch.index_select(runs[1], 0, batch.rows, out=gathered[1])
        keys, values = gathered.to(self.dtype).view(2, batch.size * self.num_kv_heads, -1, self.head_dim)
        queries = q.reshape(batch.size * self.num_kv_heads, -1, self.head_dim)
        if layer.logits_soft_cap is None:
            scores = torch.baddbmm(batch.mask, queries, keys.transpose(1, 2), alpha=layer.scale)
        else:
            cap = layer.logits_soft_cap
            scores = torch.bmm(queries, keys.transpose(1, 2)).mul_(layer.scale / cap).tanh_().mul_(cap).add_(batch.mask)
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(self.dtype)
        return torch.bmm(weights, values).view(q.shape)

    def _prefill(
        self,
        layer: AttentionLayer,
        row: _PrefillRow,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        kv_cache: Tensor,
        metadata: AttentionMetadata,
        out: Tensor,
    ) -> None:
        """Fills the row's part of `out`."""
        queries = q[row.tokens].transpose(0, 1)
        if row.blocks is None:
            keys, values = (x[row.tokens].transpose(0, 1).to(kv_cache.dtype) for x in (k, v))
        else:
            keys, values = paged.gather(kv_cache, row.blocks)
        keys, values = keys.to(q.dtype), values.to(q.dtype)
        if row.blocks is None and metadata.causal and layer.logits_soft_cap is None:
            out[row.tokens] = attend_causal(queries, keys, values, scale=layer.scale).transpose(0, 1)
            return
        plan: _Plan = metadata.plan
        num_keys = row.first_query - row.first_key + queries.shape[1]
        for start in range(0, queries.shape[1], QUERIES_PER_PIECE):
            piece = queries[:, start : start + QUERIES_PER_PIECE]
            first = row.first_query + start
            end = first - row.first_key + piece.shape[1] if metadata.causal else num_keys
            mask = visible(
                torch.arange(first, first + piece.shape[1]),
                torch.arange(row.first_key, row.first_key + end),
                causal=metadata.causal,
                sliding_window=plan.sliding_window,
            )
            attended = attend(
                piece, keys[:, :end], values[:, :end], mask, scale=layer.scale, soft_cap=layer.logits_soft_cap
            )
            out[row.tokens][start : start + piece.shape[1]] = attended.transpose(0, 1)
