"""HeadMajorBackend: what the backends of GPUs share. One layout of the cache, written by our Triton kernels.

The layout, [num_blocks, 2, Hkv, block_size, D], is described in `octavo.kernels.triton_cache`. FlashInfer knows it as
HND; FlashAttention and AITER take keys and values as strided views of it. So a backend of this kind says how it
attends, and nothing of how keys and values come to the cache. Triton is imported when a backend is made, so that octavo
runs where it is not installed.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import ClassVar

import torch
from torch import Tensor

from octavo.attention.base import AttentionBackend, AttentionLayer, AttentionMetadata, AttentionSpec, HeadNorms

MIN_CAPABILITY = (8, 0)
HALVES = (torch.float16, torch.bfloat16)


class HeadMajorBackend(AttentionBackend):
    rotates: ClassVar[bool] = True

    def __init__(self, specs: Sequence[AttentionSpec], kernels: object) -> None:
        super().__init__(specs, kernels)
        self._num_heads = sorted({spec.num_heads for spec in specs})
        self._cache = import_module("octavo.kernels.triton_cache")

    @staticmethod
    def kv_cache_shape(
        num_blocks: int, block_size: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype
    ) -> tuple[int, ...]:
        return (num_blocks, 2, num_kv_heads, block_size, head_dim)

    def forward(
        self, layer: AttentionLayer, q: Tensor, k: Tensor, v: Tensor, kv_cache: Tensor, metadata: AttentionMetadata
    ) -> Tensor:
        self._cache.cache_write(kv_cache, k, v, metadata.slot_mapping)
        return self.attend(layer, q, kv_cache, metadata)

    def forward_rotated(
        self,
        layer: AttentionLayer,
        qkv: Tensor,
        angles: tuple[Tensor, Tensor],
        norms: HeadNorms | None,
        kv_cache: Tensor,
        metadata: AttentionMetadata,
    ) -> Tensor:
        q_norm, k_norm, eps, offset = norms or (None, None, 0.0, 0.0)
        q = self._cache.rotary_and_cache_write(
            qkv,
            kv_cache,
            *angles,
            metadata.slot_mapping,
            num_heads=layer.num_heads,
            q_norm=q_norm,
            k_norm=k_norm,
            eps=eps,
            norm_offset=offset,
        )
        return self.attend(layer, q, kv_cache, metadata)

    @abstractmethod
    def attend(self, layer: AttentionLayer, q: Tensor, kv_cache: Tensor, metadata: AttentionMetadata) -> Tensor:
        """q [T, num_heads, head_dim] over the cache, which holds the new tokens already -> [T, num_heads, head_dim]."""


def keys_and_values(kv_cache: Tensor) -> tuple[Tensor, Tensor]:
    """Views of a cache as the field's token-major shape, [num_blocks, block_size, num_kv_heads, head_dim] each."""
    keys, values = kv_cache.transpose(2, 3).unbind(1)
    return keys, values


def readable_table(metadata: AttentionMetadata, sliding_window: int | None) -> Tensor:
    """The block table for a package that reads whole tiles of keys, the first of which may begin before a window does.

    Blocks that the window has left behind have no entry: what is read in their place is masked, and has to be there.
    """
    return metadata.block_table if sliding_window is None else metadata.block_table.clamp_min(0)


def unserved_device(device: torch.device) -> str | None:
    """Why the cache's kernels do not run on `device`."""
    if device.type != "cuda":
        return f"serves NVIDIA and AMD GPUs, not {device.type}"
    if find_spec("triton") is None:
        return "the package triton is not installed; it comes with torch for a GPU"
    return None


def unserved_nvidia(device: torch.device, least: tuple[int, int] = MIN_CAPABILITY) -> str | None:
    """Why a backend for NVIDIA GPUs of compute capability `least` or more does not run on `device`."""
    if device.type != "cuda" or torch.version.hip is not None:
        return f"serves NVIDIA GPUs, not {'AMD' if device.type == 'cuda' else device.type}"
    if (capability := torch.cuda.get_device_capability(device)) < least:
        return f"needs compute capability {dotted(least)} or more, and this GPU has {dotted(capability)}"
    return unserved_device(device)


def dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"
