"""FLASHINFER: attention by the package flashinfer-python, which compiles a kernel when it is first needed.

Its wrappers plan a step on the host, from the length of every request, and then run for each layer. Those lengths are
taken from the host where the step has them there; otherwise they are fetched from the device, which waits for it. A
plan lies in a piece of pinned memory that is copied to the device later. A step may be planned while the one before
still runs, so there are two wrappers of each kind, taken in turns. Plans differ from step to step: decode steps are not
captured.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any, ClassVar

import torch
from torch import Tensor

from octavo.attention.base import AttentionLayer, AttentionMetadata, AttentionSpec
from octavo.attention.head_major import HALVES, HeadMajorBackend, unserved_nvidia

HEAD_DIMS = (64, 128, 256)
WORKSPACE_BYTES = 128 << 20  # what FlashInfer recommends, for the partial sums of requests that it splits


@dataclass(frozen=True, slots=True)
class _Kind:
    """Layers that are planned together."""

    num_heads: int
    sliding_window: int | None
    soft_cap: float | None


class FlashInferBackend(HeadMajorBackend):
    name: ClassVar[str] = "FLASHINFER"

    def __init__(self, specs: Sequence[AttentionSpec], kernels: object) -> None:
        super().__init__(specs, kernels)
        self._flashinfer = import_module("flashinfer")
        self._kinds = {_Kind(spec.num_heads, spec.sliding_window, spec.logits_soft_cap) for spec in specs}
        self._workspace: Tensor | None = None  # shared: the kernels of a stream run one after another
        self._wrappers: dict[tuple[_Kind, bool], list[Any]] = {}

    @classmethod
    def declines(cls, spec: AttentionSpec, device: torch.device, kernels: object) -> str | None:
        if (reason := unserved_nvidia(device)) is not None:
            return reason
        if find_spec("flashinfer") is None:
            return "the package flashinfer-python is not installed"
        if not _finds_compiler():
            return "FlashInfer compiles its kernels, and there is no nvcc: set CUDA_HOME or PATH"
        if spec.dtype not in HALVES:
            return f"serves {', '.join(map(str, HALVES))}, not {spec.dtype}"
        if spec.kv_cache_dtype is not spec.dtype:
            return f"its KV cache has the dtype of the run, {spec.dtype}, not {spec.kv_cache_dtype}"
        if spec.head_dim not in HEAD_DIMS:
            return f"head_dim must be one of {', '.join(map(str, HEAD_DIMS))}, and is {spec.head_dim}"
        return None

    def build(self, metadata: AttentionMetadata, sliding_window: int | None) -> AttentionMetadata:
        """The plan is a dictionary: `_Kind` to a wrapper that has planned the step."""
        starts = metadata.query_start_loc.cpu() if metadata.host_starts is None else metadata.host_starts
        lengths = metadata.seq_lens.cpu() if metadata.host_lens is None else metadata.host_lens
        pages = _Pages(metadata, starts, lengths, self.block_size, sliding_window)
        plans = {
            kind: self._planned(kind, metadata, starts.contiguous(), pages)
            for kind in self._kinds
            if kind.sliding_window == sliding_window
        }
        return replace(metadata, plan=plans)

    def _planned(self, kind: _Kind, metadata: AttentionMetadata, starts: Tensor, pages: _Pages) -> Any:
        is_decode = metadata.max_query_len == 1 and metadata.num_tokens == metadata.num_reqs
        wrapper = self._take(kind, is_decode, metadata.seq_lens.device)
        options = {
            "sm_scale": 1.0,  # the layer's comes with the queries
            "window_left": -1 if kind.sliding_window is None else kind.sliding_window - 1,
            "logits_soft_cap": kind.soft_cap or 0.0,
            "q_data_type": self.dtype,
            "kv_data_type": self.dtype,
        }
        paging = (pages.starts, pages.indices, pages.last_lens)
        sizes = (kind.num_heads, self.num_kv_heads, self.head_dim, self.block_size)
        if is_decode:
            wrapper.plan(*paging, *sizes, **options)
        else:
            wrapper.plan(starts, *paging, *sizes, causal=metadata.causal, **options)
        return wrapper

    def _take(self, kind: _Kind, is_decode: bool, device: torch.device) -> Any:
        """The one of two wrappers whose plan is the older one."""
        turns = self._wrappers.get((kind, is_decode))
        if turns is None:
            if self._workspace is None:
                self._workspace = torch.zeros(WORKSPACE_BYTES, dtype=torch.uint8, device=device)
            turns = self._wrappers[kind, is_decode] = [self._make(is_decode) for _ in range(2)]
        turns.reverse()
        return turns[0]

    def _make(self, is_decode: bool) -> Any:
        if is_decode:  # the tensor cores' kernel has room for any group; it is the one of prompts on other GPUs
            wrapper = self._flashinfer.BatchDecodeWithPagedKVCacheWrapper
            return wrapper(self._workspace, "HND", use_tensor_cores=True)
        return self._flashinfer.BatchPrefillWithPagedKVCacheWrapper(self._workspace, "HND")

    def attend(self, layer: AttentionLayer, q: Tensor, kv_cache: Tensor, metadata: AttentionMetadata) -> Tensor:
        wrapper = metadata.plan[_Kind(layer.num_heads, layer.sliding_window or None, layer.logits_soft_cap)]
        out: Tensor = wrapper.run(q.contiguous(), kv_cache, q_scale=layer.scale)
        return out


class _Pages:
    """The pages of a step's requests, one after another, from the first one that a window shows.

    `starts` int32 [R + 1] and `last_lens` int32 [R], the tokens of each request's last page, lie on the host, `indices`
    int32 [pages] on the device. A request of no tokens has no page.
    """

    def __init__(
        self, metadata: AttentionMetadata, starts: Tensor, lengths: Tensor, page: int, sliding_window: int | None
    ) -> None:
        first = torch.zeros_like(lengths)
        if sliding_window is not None:
            first_query = lengths - (starts[1:] - starts[:-1])
            first = (first_query + 1 - sliding_window).clamp_min(0) // page
        counts = (lengths + page - 1) // page - first
        self.starts = torch.zeros(len(counts) + 1, dtype=torch.int32)
        torch.cumsum(counts, 0, out=self.starts[1:])
        self.last_lens = torch.where(lengths > 0, (lengths - 1) % page + 1, 0).int()
        rows = torch.arange(len(counts)).repeat_interleave(counts)
        columns = torch.arange(len(rows)) - (self.starts[:-1] - first)[rows]
        table = metadata.block_table
        at = (rows * table.shape[1] + columns).pin_memory().to(table.device, non_blocking=True)
        self.indices = table.reshape(-1)[at]


def _finds_compiler() -> bool:
    """Whether there is CUDA's compiler, or the package of kernels that were compiled before."""
    if find_spec("flashinfer_jit_cache") is not None or shutil.which("nvcc"):
        return True
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    return os.access(os.path.join(home, "bin", "nvcc"), os.X_OK)
