"""Drives a model through the paged cache as the worker does, without scheduler and worker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from all_kernels import BEST_KERNELS
from torch import Tensor

from octavo.attention.base import AttentionMetadata
from octavo.attention.select import select_backend
from octavo.config import KVGroupSpec
from octavo.kernels import torch_ops
from octavo.layers.base import attach_attention, attach_kernels
from octavo.layers.context import ForwardContext
from octavo.models.base import CausalLM


class PagedRunner:
    """`model` with a KV cache of shuffled blocks, where its weights are; requests are known by their index."""

    def __init__(
        self,
        model: CausalLM,
        *,
        num_requests: int,
        max_len: int,
        block_size: int,
        backend: str,
        kernels: Any = None,
    ) -> None:
        self.model, self.block_size = model, block_size
        layers = model.attention_layers()
        weight = next(model.parameters())
        self.device, dtype = weight.device, weight.dtype
        specs = [layer.spec(dtype, dtype, block_size) for layer in layers]
        kernels = kernels or (BEST_KERNELS if backend == "CPU_ATTN" else torch_ops)
        self.backend = select_backend(backend, [backend], specs, self.device, kernels)
        windows = list(dict.fromkeys(spec.sliding_window for spec in specs))
        self.groups = [
            KVGroupSpec(
                layer_ids=tuple(i for i, spec in enumerate(specs) if spec.sliding_window == window),
                sliding_window=window,
            )
            for window in windows
        ]
        attach_kernels(model, kernels)
        attach_attention(model, self.backend, self.groups)
        blocks_each = -(-max_len // block_size)
        num_blocks = num_requests * blocks_each * len(self.groups)
        shape = self.backend.kv_cache_shape(num_blocks, block_size, specs[0].num_kv_heads, specs[0].head_dim, dtype)
        # Numbers that a wrong read would show.
        self.kv_caches = [torch.full(shape, 1e4, dtype=dtype, device=self.device) for _ in layers]
        order = torch.randperm(num_blocks, generator=torch.Generator().manual_seed(1)).int()
        self.tables = order.view(len(self.groups), num_requests, blocks_each)
        self.lengths = [0] * num_requests

    def step(self, new_tokens: Sequence[tuple[int, Tensor]]) -> list[Tensor]:
        """Runs the new tokens [L] of each named request; the logits [L, vocab] of each."""
        rows = [row for row, _ in new_tokens]
        counts = torch.tensor([len(tokens) for _, tokens in new_tokens])
        before = torch.tensor([self.lengths[row] for row in rows])
        positions = torch.cat([torch.arange(b, b + c) for b, c in zip(before, counts, strict=True)])
        owner = torch.repeat_interleave(torch.arange(len(rows)), counts)
        metadata = []
        for group, tables in zip(self.groups, self.tables, strict=True):
            table = tables[rows][:, : -(-int((before + counts).max()) // self.block_size)].clone()
            blocks = table[owner, positions // self.block_size].long()
            if group.sliding_window is not None:
                for row, first in enumerate(before.tolist()):
                    table[row, : max(0, first + 1 - group.sliding_window) // self.block_size] = -1
            plain = AttentionMetadata(
                query_start_loc=self._here(torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)]).int()),
                seq_lens=self._here((before + counts).int()),
                block_table=self._here(table),
                slot_mapping=self._here(blocks * self.block_size + positions % self.block_size),
                num_reqs=len(rows),
                num_tokens=len(positions),
                max_query_len=int(counts.max()),
                max_seq_len=int((before + counts).max()),
            )
            metadata.append(self.backend.build(plain, group.sliding_window))
        input_ids = torch.cat([tokens for _, tokens in new_tokens])
        with torch.inference_mode():
            context = ForwardContext(tuple(metadata), self.kv_caches)
            hidden = self.model(self._here(input_ids), self._here(positions), context)
            logits = self.model.compute_logits(hidden)
        for row, count in zip(rows, counts.tolist(), strict=True):
            self.lengths[row] += count
        return list(logits.split(counts.tolist()))

    def _here(self, x: Tensor) -> Tensor:
        return x.to(self.device)
