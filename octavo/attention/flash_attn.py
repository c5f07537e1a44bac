"""FLASH_ATTN: attention by Dao's packages, whichever is installed and serves this GPU and these layers.

* `flash_attn_interface` (FlashAttention-3, Shah et al. 2024, arXiv 2407.08608): Hopper, pages of any size.
* `flash_attn.cute` (the package flash-attn-4): Hopper and Blackwell, pages of any size; compiles when first called.
* `flash_attn` (FlashAttention-2, Dao 2023, arXiv 2307.08691): from Ampere on, pages of a multiple of 256 tokens.

They read the pages where they lie, and are told lengths by tensors on the device: nothing is asked of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any, ClassVar

import torch
from torch import Tensor

from octavo.attention.base import AttentionLayer, AttentionMetadata, AttentionSpec
from octavo.attention.head_major import HALVES, HeadMajorBackend, keys_and_values, readable_table, unserved_nvidia


class _Package(ABC):
    """One of the packages. `majors` are the compute capabilities that it is built for."""

    title: ClassVar[str]
    module: ClassVar[str]
    function: ClassVar[str]
    majors: ClassVar[tuple[int, ...]]
    pages_of: ClassVar[int] = 1  # a page has a multiple of so many tokens
    most: ClassVar[int] = 256  # numbers of a head

    def __init__(self) -> None:
        self._attend: Callable[..., Any] = getattr(import_module(self.module), self.function)

    @classmethod
    def is_installed(cls) -> bool:
        try:
            return find_spec(cls.module) is not None
        except ImportError:  # the package that `module` is part of is not there, or is broken
            return False

    @classmethod
    def unserved(cls, spec: AttentionSpec, major: int) -> str | None:
        if major not in cls.majors:
            return f"{cls.title} has no kernels with paged keys for compute capability {major}"
        if spec.block_size % cls.pages_of:
            return f"{cls.title} takes blocks of a multiple of {cls.pages_of} tokens, not {spec.block_size}"
        if spec.head_dim % 8 or spec.head_dim > cls.most:
            return f"{cls.title} takes a head_dim that is a multiple of 8 up to {cls.most}, not {spec.head_dim}"
        return None

    def __call__(self, layer: AttentionLayer, q: Tensor, kv_cache: Tensor, metadata: AttentionMetadata) -> Tensor:
        window = -1 if layer.sliding_window is None else layer.sliding_window - 1
        options = {
            "softmax_scale": layer.scale,
            "causal": metadata.causal,
            "window_size": (window, 0 if metadata.causal else -1),
            "softcap": layer.logits_soft_cap or 0.0,
        }
        out = self.call(q, *keys_and_values(kv_cache), metadata, options)
        first: Tensor = out[0] if isinstance(out, tuple) else out
        return first

    @abstractmethod
    def call(
        self, q: Tensor, keys: Tensor, values: Tensor, metadata: AttentionMetadata, options: dict[str, Any]
    ) -> Any:
        """The package's function, with its names for the arguments."""


class FlashAttention2(_Package):
    title, module, function = "flash-attn 2", "flash_attn", "flash_attn_varlen_func"
    majors, pages_of = (8, 9, 10, 12), 256

    def call(
        self, q: Tensor, keys: Tensor, values: Tensor, metadata: AttentionMetadata, options: dict[str, Any]
    ) -> Any:
        return self._attend(
            q,
            keys,
            values,
            cu_seqlens_q=metadata.query_start_loc,
            cu_seqlens_k=metadata.plan,
            max_seqlen_q=metadata.max_query_len,
            max_seqlen_k=metadata.max_seq_len,
            block_table=metadata.block_table,
            **options,
        )


class FlashAttention3(_Package):
    title, module, function = "flash-attn 3", "flash_attn_interface", "flash_attn_with_kvcache"
    majors = (9,)

    def call(
        self, q: Tensor, keys: Tensor, values: Tensor, metadata: AttentionMetadata, options: dict[str, Any]
    ) -> Any:
        return self._attend(
            q,
            keys,
            values,
            cache_seqlens=metadata.seq_lens,
            page_table=metadata.block_table,
            cu_seqlens_q=metadata.query_start_loc,
            max_seqlen_q=metadata.max_query_len,
            **options,
        )


class FlashAttention4(_Package):
    title, module, function = "flash-attn 4", "flash_attn.cute", "flash_attn_varlen_func"
    majors, most = (9, 10), 128

    def call(
        self, q: Tensor, keys: Tensor, values: Tensor, metadata: AttentionMetadata, options: dict[str, Any]
    ) -> Any:
        left, right = options.pop("window_size")
        return self._attend(
            q,
            keys,
            values,
            cu_seqlens_q=metadata.query_start_loc,
            seqused_k=metadata.seq_lens,
            max_seqlen_q=metadata.max_query_len,
            max_seqlen_k=metadata.max_seq_len,
            page_table=metadata.block_table,
            window_size=(None, None) if left < 0 else (left, None if right < 0 else right),
            **options,
        )


PACKAGES = (FlashAttention3, FlashAttention4, FlashAttention2)  # the first that serves is taken


class FlashAttentionBackend(HeadMajorBackend):
    name: ClassVar[str] = "FLASH_ATTN"

    def __init__(self, specs: Sequence[AttentionSpec], kernels: object) -> None:
        super().__init__(specs, kernels)
        package = _choose(specs, torch.cuda.get_device_capability()[0])
        assert not isinstance(package, str), package
        self._package = package()

    @classmethod
    def declines(cls, spec: AttentionSpec, device: torch.device, kernels: object) -> str | None:
        if (reason := unserved_nvidia(device)) is not None:
            return reason
        if spec.dtype not in HALVES:
            return f"serves {', '.join(map(str, HALVES))}, not {spec.dtype}"
        if spec.kv_cache_dtype is not spec.dtype:
            return f"its KV cache has the dtype of the run, {spec.dtype}, not {spec.kv_cache_dtype}"
        package = _choose([spec], torch.cuda.get_device_capability(device)[0])
        return package if isinstance(package, str) else None

    def build(self, metadata: AttentionMetadata, sliding_window: int | None) -> AttentionMetadata:
        """The plan: int32 [R + 1], where each request's keys would begin if they lay one after another."""
        starts = torch.nn.functional.pad(metadata.seq_lens.cumsum(0, dtype=torch.int32), (1, 0))
        return replace(metadata, block_table=readable_table(metadata, sliding_window), plan=starts)

    def attend(self, layer: AttentionLayer, q: Tensor, kv_cache: Tensor, metadata: AttentionMetadata) -> Tensor:
        return self._package(layer, q, kv_cache, metadata)


def _choose(specs: Sequence[AttentionSpec], major: int) -> type[_Package] | str:
    """The package that serves all of `specs`, or why none does."""
    installed = [package for package in PACKAGES if package.is_installed()]
    if not installed:
        return "none of the packages flash_attn_interface (3), flash-attn-4 and flash-attn (2) is installed"
    reasons: list[str] = []
    for package in installed:
        reason = next((reason for spec in specs if (reason := package.unserved(spec, major))), None)
        if reason is None:
            return package
        reasons.append(reason)
    return "; ".join(reasons)
