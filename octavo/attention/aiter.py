"""ROCM_AITER_FA and ROCM_AITER_UNIFIED_ATTN: attention on AMD GPUs by AMD's package aiter.

Written from its documented functions; no AMD GPU was at hand, so nothing here has run on one (docs/attention.md).
The unified kernel reads pages where they lie. AITER's flash attention takes keys that lie one after another: those of a
step are gathered first, which costs a copy of all of them, and decoding should not use it where it can be helped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from typing import ClassVar

import torch
from torch import Tensor

from octavo.attention.base import AttentionLayer, AttentionMetadata, AttentionSpec
from octavo.attention.head_major import HALVES, HeadMajorBackend, keys_and_values, readable_table, unserved_device


class _AiterBackend(HeadMajorBackend):
    module: ClassVar[str]
    function: ClassVar[str]
    most: ClassVar[int] = 256  # numbers of a head

    def __init__(self, specs: Sequence[AttentionSpec], kernels: object) -> None:
        super().__init__(specs, kernels)
        self._function = getattr(import_module(self.module), self.function)

    @classmethod
    def declines(cls, spec: AttentionSpec, device: torch.device, kernels: object) -> str | None:
        if device.type != "cuda" or torch.version.hip is None:
            return f"serves AMD GPUs, not {'NVIDIA' if device.type == 'cuda' else device.type}"
        if find_spec("aiter") is None:
            return "the package aiter is not installed"
        if (reason := unserved_device(device)) is not None:
            return reason
        if spec.dtype not in HALVES:
            return f"serves {', '.join(map(str, HALVES))}, not {spec.dtype}"
        if spec.kv_cache_dtype is not spec.dtype:
            return f"its KV cache has the dtype of the run, {spec.dtype}, not {spec.kv_cache_dtype}"
        if spec.head_dim % 8 or spec.head_dim > cls.most:
            return f"head_dim must be a multiple of 8 up to {cls.most}, and is {spec.head_dim}"
        return None


class AiterUnifiedBackend(_AiterBackend):
    """One kernel for prompts and single tokens."""

    name: ClassVar[str] = "ROCM_AITER_UNIFIED_ATTN"
    module: ClassVar[str] = "aiter.ops.triton.unified_attention"
    function: ClassVar[str] = "unified_attention"

    def build(self, metadata: AttentionMetadata, sliding_window: int | None) -> AttentionMetadata:
        return replace(metadata, block_table=readable_table(metadata, sliding_window))

    def attend(self, layer: AttentionLayer, q: Tensor, kv_cache: Tensor, metadata: AttentionMetadata) -> Tensor:
        keys, values = keys_and_values(kv_cache)
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        self._function(
            q=q,
            k=keys,
            v=values,
            out=out,
            cu_seqlens_q=metadata.query_start_loc,
            max_seqlen_q=metadata.max_query_len,
            seqused_k=metadata.seq_lens,
            max_seqlen_k=metadata.max_seq_len,
            softmax_scale=layer.scale,
            causal=metadata.causal,
            window_size=(-1, -1) if layer.sliding_window is None else (layer.sliding_window - 1, 0),
            block_table=metadata.block_table,
            softcap=layer.logits_soft_cap or 0.0,
            q_descale=None,
            k_descale=None,
            v_descale=None,
        )
        return out


@dataclass(slots=True)
class _Gathered:
    """Where the keys of a step lie: `blocks` and `offsets` int64 [K], and `starts` int32 [R + 1] of each request's."""

    blocks: Tensor
    offsets: Tensor
    starts: Tensor
    longest: int


class AiterFlashBackend(_AiterBackend):
    name: ClassVar[str] = "ROCM_AITER_FA"
    module: ClassVar[str] = "aiter"
    function: ClassVar[str] = "flash_attn_varlen_func"

    @classmethod
    def declines(cls, spec: AttentionSpec, device: torch.device, kernels: object) -> str | None:
        if spec.logits_soft_cap:
            return "AITER's flash attention is called without a soft cap of the logits"
        return super().declines(spec, device, kernels)

    def build(self, metadata: AttentionMetadata, sliding_window: int | None) -> AttentionMetadata:
        lengths = metadata.seq_lens.cpu() if metadata.host_lens is None else metadata.host_lens
        starts = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
        rows = torch.arange(len(lengths)).repeat_interleave(lengths)
        positions = torch.arange(len(rows)) - starts[:-1][rows]
        device = metadata.block_table.device
        rows, positions = rows.to(device), positions.to(device)
        blocks = readable_table(metadata, sliding_window)[rows, positions // self.block_size].long()
        plan = _Gathered(blocks, positions % self.block_size, starts.int().to(device), int(lengths.max()))
        return replace(metadata, plan=plan)

    def attend(self, layer: AttentionLayer, q: Tensor, kv_cache: Tensor, metadata: AttentionMetadata) -> Tensor:
        plan: _Gathered = metadata.plan
        keys, values = (pages[plan.blocks, plan.offsets] for pages in keys_and_values(kv_cache))
        out = self._function(
            q.contiguous(),
            keys,
            values,
            metadata.query_start_loc,
            plan.starts,
            metadata.max_query_len,
            plan.longest,
            softmax_scale=layer.scale,
            causal=metadata.causal,
            window_size=(-1, -1) if layer.sliding_window is None else (layer.sliding_window - 1, 0),
        )
        first: Tensor = out[0] if isinstance(out, tuple) else out
        return first
