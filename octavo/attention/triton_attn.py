"""TRITON_ATTN: attention on NVIDIA and AMD GPUs by kernels in Triton, for any mix of prompts and single tokens.

Nothing is asked of the device: a step's plan follows from what the host knows. ROCM_ATTN is the name that the field
gives to an AMD GPU's own backend; here it is the same kernels, which serve both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from typing import ClassVar

import torch
from torch import Tensor

from octavo.attention.base import AttentionLayer, AttentionMetadata, AttentionSpec, HeadNorms
from octavo.attention.head_major import MIN_CAPABILITY, HeadMajorBackend, dotted, unserved_device

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
FP8 = torch.float8_e4m3fn
FP8_CAPABILITY = (8, 9)
MAX_HEAD_DIM = 256
MAX_GROUP = 32  # query heads that share a KV head; one tile of queries has room for so many


class TritonAttentionBackend(HeadMajorBackend):
    name: ClassVar[str] = "TRITON_ATTN"
    capturable: ClassVar[bool] = True
    compiles_ahead: ClassVar[bool] = True

    def __init__(self, specs: Sequence[AttentionSpec], kernels: object) -> None:
        super().__init__(specs, kernels)
        self._cache_dtype = specs[0].kv_cache_dtype
        self._soft_cap = max(spec.logits_soft_cap or 0.0 for spec in specs)
        self._attention = import_module("octavo.kernels.triton_attention")

    @classmethod
    def declines(cls, spec: AttentionSpec, device: torch.device, kernels: object) -> str | None:
        if (reason := unserved_device(device)) is not None:
            return reason
        if torch.version.hip is None:
            capability = torch.cuda.get_device_capability(device)
            least = FP8_CAPABILITY if spec.kv_cache_dtype is FP8 else MIN_CAPABILITY
            if capability < least:
                what = " for a KV cache of fp8" if spec.kv_cache_dtype is FP8 else ""
                return f"needs compute capability {dotted(least)} or more{what}, and this GPU has {dotted(capability)}"
        elif spec.kv_cache_dtype is FP8:
            return "a KV cache of fp8 is for NVIDIA GPUs yet"
        return _unserved(spec)

    def build(self, metadata: AttentionMetadata, sliding_window: int | None) -> AttentionMetadata:
        """The plan is a dictionary: layers with as many query heads share an `AttentionPlan`."""
        plans = {
            num_heads: self._attention.plan_attention(
                metadata.query_start_loc,
                num_reqs=metadata.num_reqs,
                num_tokens=metadata.num_tokens,
                max_query_len=metadata.max_query_len,
                max_seq_len=metadata.max_seq_len,
                num_heads=num_heads,
                num_kv_heads=self.num_kv_heads,
                head_dim=self.head_dim,
                dtype=self.dtype,
                cache_dtype=self._cache_dtype,
                soft_cap=self._soft_cap,
                sliding_window=sliding_window or 0,
                isolated=metadata.isolated,
            )
            for num_heads in self._num_heads
        }
        return replace(metadata, plan=plans)

    def forward_rotated(
        self,
        layer: AttentionLayer,
        qkv: Tensor,
        angles: tuple[Tensor, Tensor],
        norms: HeadNorms | None,
        kv_cache: Tensor,
        metadata: AttentionMetadata,
    ) -> Tensor:
        if kv_cache.dtype is not qkv.dtype:
            return super().forward_rotated(layer, qkv, angles, norms, kv_cache, metadata)
        q_norm, k_norm, eps, offset = norms or (None, None, 0.0, 0.0)
        weights = None if q_norm is None or k_norm is None else (q_norm, k_norm)
        out: Tensor = self._attention.rotated_attention(
            qkv,
            kv_cache,
            metadata.plan[layer.num_heads],
            self._cache.Rotation(*angles, weights, eps, offset),
            metadata.slot_mapping,
            num_heads=layer.num_heads,
            query_start_loc=metadata.query_start_loc,
            seq_lens=metadata.seq_lens,
            block_table=metadata.block_table,
            scale=layer.scale,
            soft_cap=layer.logits_soft_cap or 0.0,
            sliding_window=layer.sliding_window or 0,
            causal=metadata.causal,
        )
        return out

    def attend(self, layer: AttentionLayer, q: Tensor, kv_cache: Tensor, metadata: AttentionMetadata) -> Tensor:
        out: Tensor = self._attention.paged_attention(
            q,
            kv_cache,
            metadata.plan[layer.num_heads],
            query_start_loc=metadata.query_start_loc,
            seq_lens=metadata.seq_lens,
            block_table=metadata.block_table,
            scale=layer.scale,
            soft_cap=layer.logits_soft_cap or 0.0,
            sliding_window=layer.sliding_window or 0,
            causal=metadata.causal,
        )
        return out


class RocmAttentionBackend(TritonAttentionBackend):
    name: ClassVar[str] = "ROCM_ATTN"

    @classmethod
    def declines(cls, spec: AttentionSpec, device: torch.device, kernels: object) -> str | None:
        if device.type == "cuda" and torch.version.hip is None:
            return "serves AMD GPUs; the same kernels are TRITON_ATTN on NVIDIA's"
        return super().declines(spec, device, kernels)


def _unserved(spec: AttentionSpec) -> str | None:
    """What the kernels do not serve on any GPU."""
    if spec.dtype not in DTYPES:
        return f"serves {', '.join(map(str, DTYPES))}, not {spec.dtype}"
    if spec.kv_cache_dtype not in (spec.dtype, FP8):
        return f"its KV cache has the dtype of the run, {spec.dtype}, or is fp8, not {spec.kv_cache_dtype}"
    if spec.head_dim % 16 or spec.head_dim > MAX_HEAD_DIM:
        return f"head_dim must be a multiple of 16 up to {MAX_HEAD_DIM}, and is {spec.head_dim}"
    if spec.block_size < 16 or spec.block_size & (spec.block_size - 1):
        return f"block_size must be a power of two from 16 on, and is {spec.block_size}"
    if spec.num_heads // spec.num_kv_heads > MAX_GROUP:
        return f"at most {MAX_GROUP} query heads may share a KV head, and {spec.num_heads // spec.num_kv_heads} do"
    return None
