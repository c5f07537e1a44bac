"""The kernels of the layers in C++ (csrc/cpu): the fast twin of torch_ops on a CPU.

The extension knows addresses, shapes and strides; this module takes tensors, checks them, and makes room for results. A
step can be recorded: then nothing is computed, but every call is noted down, to be replayed with other numbers of rows.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from octavo.kernels.cpu_linear import PackedLinear, QuantizedLinear, matrix, pack_rows, pack_shards
from octavo.kernels.cpu_sampling import CPUSampling

_DTYPES = {torch.float32: 0, torch.bfloat16: 1}
_CACHE_DTYPES = {**_DTYPES, torch.int8: 2}
_RMS, _GEMMA_RMS, _LAYER = range(3)
_SILU, _GELU, _GELU_TANH, _RELU = range(4)
_NUM_PARTIALS = 1 << 20  # floats for the parts of long contexts that several threads attend to


@dataclass(frozen=True, slots=True)
class PagedCache:
    """One layer's keys and values, in the kernels' own order: [num_blocks, num_kv_heads, 2, block_size * head_dim].

    float32, bfloat16, or int8: then with 4 bytes more for each token, its scale.
    """

    pages: Tensor
    num_kv_heads: int
    head_dim: int
    block_size: int


def page_shape(num_kv_heads: int, block_size: int, head_dim: int, dtype: torch.dtype) -> tuple[int, int, int]:
    """Of one block of a PagedCache."""
    return num_kv_heads, 2, block_size * (head_dim + (4 if dtype is torch.int8 else 0))


class CPUKernels:
    """The kernels, and the team of threads that runs them. Methods are those of torch_ops, and attention;
    `sampling` has those of torch_sampling.

    Args:
        extension: the module octavo._cpu.
        num_threads: members of the team, the calling thread included.
        isa: the instruction set; "" is the best of this machine.
    """

    dtypes = tuple(_DTYPES)
    cache_dtypes = tuple(_CACHE_DTYPES)
    block_types = ("Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K")

    def __init__(self, extension: Any, num_threads: int, isa: str = "") -> None:
        self.extension = extension
        self.team = extension.Team(num_threads, isa)
        self.sampling = CPUSampling(self.team)
        self.empty: Callable[[tuple[int, ...], torch.dtype], Tensor] = _empty
        self._partials = torch.empty(_NUM_PARTIALS)

    def describe(self) -> str:
        return f"{self.team.isa} kernels, {self.team.num_threads} threads"

    def probe(self) -> Any:
        """What the machine does at most with this team: `barrier_seconds`; a second `read_bytes`, and operations in
        `float32`, `bfloat16` and `int8`, 0 without instructions for them (csrc/cpu/probe.h)."""
        return self.team.probe()

    # ---- recording ----

    def record(self, forward: Callable[[], Tensor], num_rows: int) -> Recording:
        """Note down the kernel calls of `forward`, whose tensors have `num_rows` rows, or a multiple of that."""
        arena = _Arena()
        self.empty = arena.empty
        self.team.start_recording(num_rows)
        try:
            result = forward()
        finally:
            calls = self.team.finish_recording()
            self.empty = _empty
        return Recording(self.team, calls, result, arena)

    # ---- layers ----

    def pack_linear(
        self, weight: Tensor, bias: Tensor | None, *, float_output: bool = False, gate: str | None = None
    ) -> PackedLinear:
        return PackedLinear(self, weight, bias, float_output=float_output, gate=gate)

    def pack_int8(
        self, weight: Tensor, bias: Tensor | None, *, float_output: bool = False, gate: str | None = None
    ) -> QuantizedLinear:
        """The function that multiplies with `weight` rounded to 8 bits, with a scale for each of its rows."""
        parts = [pack_rows(self.extension, weight, halves=gate is not None)]
        return QuantizedLinear(self, parts, len(weight), bias, float_output=float_output, gate=gate)

    def pack_fp8(
        self,
        weight: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        *,
        float_output: bool = False,
        gate: str | None = None,
    ) -> None:
        """There is no product of 8 bits in floating point: CPUs have no instructions for it."""
        return None

    def pack_blocks(
        self,
        shards: Sequence[tuple[Tensor, str]],
        in_features: int,
        bias: Tensor | None,
        *,
        float_output: bool = False,
        gate: str | None = None,
    ) -> QuantizedLinear | None:
        """The function that multiplies with GGUF blocks as they are; None when a type is not one of `block_types`.

        Args:
            shards: raw blocks, uint8 [rows, row_bytes], with their type; stacked in this order.
        """
        if any(type_name not in self.block_types for _, type_name in shards):
            return None
        parts = pack_shards(self.extension, shards, in_features, halves=gate is not None)
        size = sum(len(raw) for raw, _ in shards)
        return QuantizedLinear(self, parts, size, bias, float_output=float_output, gate=gate)

    def embedding(self, ids: Tensor, weight: Tensor) -> Tensor:
        assert weight.is_contiguous()
        assert ids.dtype is torch.int64
        y = self.empty((ids.shape[0], weight.shape[1]), weight.dtype)
        row_bytes = weight.shape[1] * weight.element_size()
        self.team.gather(row_bytes, weight.data_ptr(), weight.shape[0], ids.data_ptr(), y.data_ptr(), ids.shape[0])
        return y

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return self._norm(_RMS, x, weight, None, eps)

    def gemma_rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return self._norm(_GEMMA_RMS, x, weight, None, eps)

    def layer_norm(self, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        return self._norm(_LAYER, x, weight, bias, eps)

    def _norm(self, kind: int, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
        """Over the last dimension of x [T, channels] or [T, groups, channels], whose groups lie next to each other."""
        channels = x.shape[-1]
        groups = x.shape[1] if x.dim() == 3 else 1
        assert weight.shape == (channels,)
        assert x.stride(-1) == 1
        assert groups == 1 or x.stride(1) == channels
        y = self.empty(tuple(x.shape), x.dtype)
        self.team.norm(
            kind,
            _DTYPES[x.dtype],
            x.data_ptr(),
            x.stride(0),
            weight.data_ptr(),
            0 if bias is None else bias.data_ptr(),
            y.data_ptr(),
            groups * channels,
            channels,
            groups,
            eps,
            x.shape[0],
        )
        return y

    def rotary_angles(
        self, positions: Tensor, inv_freq: Tensor, factor: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        assert positions.dtype is torch.int64
        rows, half = positions.shape[0], inv_freq.shape[0]
        cos, sin = self.empty((rows, 1, half), dtype), self.empty((rows, 1, half), dtype)
        self.team.rotary_angles(
            _DTYPES[dtype],
            positions.data_ptr(),
            inv_freq.data_ptr(),
            factor,
            half,
            cos.data_ptr(),
            sin.data_ptr(),
            rows,
        )
        return cos, sin

    def rotary_embedding(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        rows, num_heads, head_dim = x.shape
        assert x.stride()[1:] == (head_dim, 1)
        y = self.empty((rows, num_heads, head_dim), x.dtype)
        self.team.rotary(
            _DTYPES[x.dtype],
            x.data_ptr(),
            x.stride(0),
            cos.data_ptr(),
            sin.data_ptr(),
            cos.stride(0),
            y.data_ptr(),
            num_heads * head_dim,
            num_heads,
            head_dim,
            cos.shape[-1],
            rows,
        )
        return y

    def silu_and_mul(self, x: Tensor) -> Tensor:
        return self.activation(_SILU, x, gated=True)

    def gelu_and_mul(self, x: Tensor) -> Tensor:
        return self.activation(_GELU, x, gated=True)

    def gelu_tanh_and_mul(self, x: Tensor) -> Tensor:
        return self.activation(_GELU_TANH, x, gated=True)

    def relu(self, x: Tensor) -> Tensor:
        return self.activation(_RELU, x, gated=False)

    def gelu(self, x: Tensor) -> Tensor:
        return self.activation(_GELU, x, gated=False)

    def activation(self, kind: int, x: Tensor, *, gated: bool) -> Tensor:
        rows, stride = matrix(x)
        channels = x.shape[1] // 2 if gated else x.shape[1]
        y = self.empty((rows, channels), x.dtype)
        self.team.activation(
            kind, _DTYPES[x.dtype], x.data_ptr(), stride, y.data_ptr(), channels, channels, gated, rows
        )
        return y

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        assert x.shape == y.shape
        return self._combine(x, y, 1.0)

    def scale(self, x: Tensor, factor: float) -> Tensor:
        return self._combine(x, None, factor)

    def _combine(self, x: Tensor, y: Tensor | None, factor: float) -> Tensor:
        """x * factor + y."""
        rows, stride = matrix(x)
        z = self.empty((rows, x.shape[1]), x.dtype)
        y_address, y_stride = (0, 0) if y is None else (y.data_ptr(), matrix(y)[1])
        self.team.combine(
            _DTYPES[x.dtype], x.data_ptr(), stride, y_address, y_stride, factor, z.data_ptr(), x.shape[1], rows
        )
        return z

    # ---- attention ----

    def cache_write(self, cache: PagedCache, k: Tensor, v: Tensor, slot_mapping: Tensor) -> None:
        """Puts k and v [T, num_kv_heads, head_dim] at `slot_mapping` int64 [T]."""
        assert k.shape == v.shape == (slot_mapping.shape[0], cache.num_kv_heads, cache.head_dim)
        assert k.dtype is v.dtype
        assert k.stride()[1:] == v.stride()[1:] == (cache.head_dim, 1)
        assert slot_mapping.dtype is torch.int64
        self.team.cache_write(
            *_cache_arguments(cache),
            _DTYPES[k.dtype],
            k.data_ptr(),
            k.stride(0),
            v.data_ptr(),
            v.stride(0),
            slot_mapping.data_ptr(),
            k.shape[0],
        )

    def paged_attention(
        self,
        cache: PagedCache,
        q: Tensor,
        *,
        query_start_loc: Tensor,
        seq_lens: Tensor,
        block_table: Tensor,
        scale: float,
        soft_cap: float,
        sliding_window: int,
        causal: bool,
    ) -> Tensor:
        """q [T, num_heads, head_dim] over the cached tokens of its requests -> the same shape. 0: no cap, no window."""
        rows, num_heads, head_dim = q.shape
        assert q.stride()[1:] == (head_dim, 1)
        assert all(t.dtype is torch.int32 for t in (query_start_loc, seq_lens, block_table))
        y = self.empty((rows, num_heads, head_dim), q.dtype)
        self.team.attention(
            *_cache_arguments(cache),
            _DTYPES[q.dtype],
            q.data_ptr(),
            q.stride(0),
            y.data_ptr(),
            num_heads * head_dim,
            num_heads,
            scale,
            soft_cap,
            sliding_window,
            causal,
            seq_lens.shape[0],
            query_start_loc.data_ptr(),
            seq_lens.data_ptr(),
            block_table.data_ptr(),
            block_table.stride(0),
            self._partials.data_ptr(),
            _NUM_PARTIALS,
        )
        return y


class Recording:
    """The calls of a step. `result` is where its last tensor lies; rows beyond those replayed are left over."""

    def __init__(self, team: Any, calls: Any, result: Tensor, arena: _Arena) -> None:
        self.result = result
        self._team, self._calls, self._arena = team, calls, arena

    @property
    def num_calls(self) -> int:
        return int(self._calls.num_calls)

    def replay(self, num_rows: int, num_requests: int) -> None:
        self._team.replay(self._calls, num_rows, num_requests)


class _Arena:
    """Memory for the tensors of a recording. What nobody refers to any more is given out again, as it was then."""

    def __init__(self) -> None:
        self._slabs: list[np.ndarray[Any, Any]] = []
        self._free: dict[int, list[np.ndarray[Any, Any]]] = defaultdict(list)  # by size

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        size = max(torch.Size(shape).numel() * dtype.itemsize, 1)
        free = self._free[size]
        if free:
            slab = free.pop()
        else:
            slab = np.zeros(size, np.uint8)
            self._slabs.append(slab)
        lent = slab[:]  # an array of its own, which lives as long as a tensor over it
        weakref.finalize(lent, free.append, slab)
        return torch.from_numpy(lent).view(dtype).view(shape)


def _empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype)


def _cache_arguments(cache: PagedCache) -> tuple[int, int, int, int, int]:
    pages = cache.pages
    assert pages.is_contiguous()
    assert pages.shape[1:] == page_shape(cache.num_kv_heads, cache.block_size, cache.head_dim, pages.dtype)
    return _CACHE_DTYPES[pages.dtype], pages.data_ptr(), cache.num_kv_heads, cache.head_dim, cache.block_size
