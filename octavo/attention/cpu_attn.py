"""CPU_ATTN: attention on a CPU by the C++ kernels, for any mix of prompts and single tokens in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from octavo.attention.base import AttentionBackend, AttentionLayer, AttentionMetadata, AttentionSpec
from octavo.kernels.cpu import CPUKernels, PagedCache, page_shape

PIECE = 16  # tokens and dims that the kernels take at a time


class CPUAttentionBackend(AttentionBackend):
    """A cache of pages: for each block and KV head, keys and values beside each other (csrc/cpu/kernels.h draws it)."""

    name: ClassVar[str] = "CPU_ATTN"

    def __init__(self, specs: Sequence[AttentionSpec], kernels: object) -> None:
        super().__init__(specs, kernels)
        assert isinstance(kernels, CPUKernels)
        self._kernels = kernels

    @classmethod
    def declines(cls, spec: AttentionSpec, device: torch.device, kernels: object) -> str | None:
        if device.type != "cpu":
            return f"serves the cpu only, not {device.type}"
        if not isinstance(kernels, CPUKernels):
            return "the C++ kernels are not built"
        if spec.dtype not in kernels.dtypes:
            return f"serves {', '.join(map(str, kernels.dtypes))}, not {spec.dtype}"
        if spec.kv_cache_dtype not in kernels.cache_dtypes:
            return f"serves a KV cache of {', '.join(map(str, kernels.cache_dtypes))}, not {spec.kv_cache_dtype}"
        for name in ("head_dim", "block_size"):
            if getattr(spec, name) % PIECE:
                return f"{name} must be a multiple of {PIECE}, and is {getattr(spec, name)}"
        return None

    @staticmethod
    def kv_cache_shape(
        num_blocks: int, block_size: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype
    ) -> tuple[int, ...]:
        return (num_blocks, *page_shape(num_kv_heads, block_size, head_dim, dtype))

    def build(self, metadata: AttentionMetadata, sliding_window: int | None) -> AttentionMetadata:
        return metadata  # the kernels need no more

    def forward(
        self, layer: AttentionLayer, q: Tensor, k: Tensor, v: Tensor, kv_cache: Tensor, metadata: AttentionMetadata
    ) -> Tensor:
        cache = PagedCache(kv_cache, self.num_kv_heads, self.head_dim, self.block_size)
        self._kernels.cache_write(cache, k, v, metadata.slot_mapping)
        return self._kernels.paged_attention(
            cache,
            q,
            query_start_loc=metadata.query_start_loc,
            seq_lens=metadata.seq_lens,
            block_table=metadata.block_table,
            scale=layer.scale,
            soft_cap=layer.logits_soft_cap or 0.0,
            sliding_window=layer.sliding_window or 0,
            causal=metadata.causal,
        )
