"""Products with packed weights in C++: what goes into a call, and weights in the order in which kernels read them.

A product may begin with a norm of its rows, and end in a gate (act(first half) * second half) or in a sum with a
residual; the last two are part of its kernel. Knows no other kernels than the team's, and the norm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, Protocol

import torch
from torch import Tensor

DTYPES = {torch.float32: 0, torch.bfloat16: 1}
_GATES = {"silu": 0, "gelu": 1, "gelu_tanh": 2, None: 4}
_PANEL = 48  # rows of a weight that kernels read side by side; the second half of a gate begins with a panel

Norm = tuple[Tensor, float]  # weight and epsilon of an RMS norm
Places = Sequence[tuple[int, int, int]]  # rows of a weight: from where, to where in the packed one, how many


class Kernels(Protocol):
    """What the products need of CPUKernels."""

    extension: Any
    team: Any
    empty: Callable[[tuple[int, ...], torch.dtype], Tensor]

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor: ...
    def activation(self, kind: int, x: Tensor, *, gated: bool) -> Tensor: ...


class _Product:
    """What the products with packed weights have in common: norm before, gate or sum behind, room for the result."""

    def __init__(
        self, kernels: Kernels, size: int, bias: Tensor | None, *, float_output: bool, gate: str | None
    ) -> None:
        self._kernels = kernels
        self._float_output = float_output
        self._gate = gate
        self._size = size // 2 if gate else size  # of a result
        self._bias = None if bias is None else bias.float().contiguous()

    def _operands(self, x: Tensor, norm: Norm | None, residual: Tensor | None) -> tuple[Tensor, Tensor, bool]:
        """The rows to multiply, where the result goes, and whether it is added to what is there."""
        if norm is not None:
            x = self._kernels.rms_norm(x, *norm)
        if residual is not None:
            assert residual.shape == (x.shape[0], self._size)
            return x, residual, True
        dtype = torch.float32 if self._float_output else x.dtype
        return x, self._kernels.empty((x.shape[0], self._size), dtype), False


class PackedLinear(_Product):
    """x [T, in] @ weight [out, in]^T + bias [out] -> [T, out], with a copy of the weight in the kernels' order."""

    def __init__(
        self, kernels: Kernels, weight: Tensor, bias: Tensor | None, *, float_output: bool, gate: str | None
    ) -> None:
        super().__init__(kernels, len(weight), bias, float_output=float_output, gate=gate)
        self.arithmetic = str(weight.dtype).removeprefix("torch.")
        rows = weight if weight.stride(-1) == 1 else weight.contiguous()
        places = _places(len(weight), halves=gate is not None)
        self._packed = kernels.extension.Packed(DTYPES[weight.dtype], _room(places), weight.shape[1])
        for source, first, count in places:
            self._packed.fill(rows[source:].data_ptr(), rows.stride(0), first, count)
        self._bias = _spread(self._bias, places)

    @property
    def nbytes(self) -> int:
        return int(self._packed.nbytes)

    def rows(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        assert ids.dtype is torch.int64
        assert DTYPES[dtype] == self._packed.dtype
        y = self._kernels.empty((ids.shape[0], self._packed.k), dtype)
        self._kernels.team.gather_packed(self._packed, ids.data_ptr(), y.data_ptr(), ids.shape[0])
        return y

    def __call__(self, x: Tensor, *, norm: Norm | None = None, residual: Tensor | None = None) -> Tensor:
        x, y, accumulate = self._operands(x, norm, residual)
        rows, stride = matrix(x)
        assert x.shape[-1] == self._packed.k
        self._kernels.team.linear(
            self._packed,
            x.data_ptr(),
            stride,
            0 if self._bias is None else self._bias.data_ptr(),
            DTYPES[y.dtype],
            y.data_ptr(),
            matrix(y)[1],
            accumulate,
            _GATES[self._gate],
            self._size if self._gate else 0,
            rows,
        )
        return y


class QuantizedLinear(_Product):
    """x [T, in] @ weight^T + bias -> [T, out], where the rows of the weight are one or more packed matrices.

    Activations are rounded to 8 bits, with a scale for every 32 of them or for a row. A gate whose halves are of
    different types is a kernel of its own.
    """

    arithmetic = "int8"

    def __init__(
        self,
        kernels: Kernels,
        parts: Sequence[Any],
        size: int,
        bias: Tensor | None,
        *,
        float_output: bool,
        gate: str | None,
    ) -> None:
        super().__init__(kernels, size, bias, float_output=float_output, gate=gate)
        self._parts = parts
        if gate and len(parts) == 1:
            self._bias = _spread(self._bias, _places(size, halves=True))

    @property
    def nbytes(self) -> int:
        return sum(int(part.nbytes) for part in self._parts)

    def rows(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        assert ids.dtype is torch.int64
        (packed,) = self._parts  # one matrix of a checkpoint has one type
        y = self._kernels.empty((ids.shape[0], packed.k), dtype)
        self._kernels.team.gather_quant(packed, ids.data_ptr(), DTYPES[dtype], y.data_ptr(), ids.shape[0])
        return y

    def __call__(self, x: Tensor, *, norm: Norm | None = None, residual: Tensor | None = None) -> Tensor:
        x, y, accumulate = self._operands(x, norm, residual)
        if self._gate and len(self._parts) > 1:
            both = self._kernels.empty((x.shape[0], 2 * self._size), x.dtype)
            self._multiply(x, both, accumulate=False, gate=None)
            return self._kernels.activation(_GATES[self._gate], both, gated=True)
        self._multiply(x, y, accumulate=accumulate, gate=self._gate)
        return y

    def _multiply(self, x: Tensor, y: Tensor, *, accumulate: bool, gate: str | None) -> None:
        (rows, stride), (_, y_stride) = matrix(x), matrix(y)
        assert x.shape[-1] == self._parts[0].k
        column = 0
        for part in self._parts:
            self._kernels.team.quant_linear(
                part,
                DTYPES[x.dtype],
                x.data_ptr(),
                stride,
                0 if self._bias is None else self._bias.data_ptr() + 4 * column,
                DTYPES[y.dtype],
                y.data_ptr() + column * y.element_size(),
                y_stride,
                accumulate,
                _GATES[gate],
                self._size if gate else 0,
                rows,
            )
            column += part.n


def pack_rows(extension: Any, weight: Tensor, *, halves: bool) -> Any:
    """`weight` rounded to 8 bits, with a scale for each row."""
    rows = weight if weight.stride(-1) == 1 else weight.contiguous()
    places = _places(len(weight), halves=halves)
    packed = extension.QuantPacked("int8", _room(places), weight.shape[1])
    for source, first, count in places:
        packed.fill_floats(DTYPES[weight.dtype], rows[source:].data_ptr(), rows.stride(0), first, count)
    return packed


def pack_shards(extension: Any, shards: Sequence[tuple[Tensor, str]], in_features: int, *, halves: bool) -> list[Any]:
    """Raw blocks, as they are: a packed matrix for each run of shards of one type. `halves`: there are two shards."""
    parts: list[Any] = []
    for type_name, group in groupby(shards, key=lambda shard: shard[1]):
        raws = [raw.contiguous() for raw, _ in group]
        num_rows = sum(len(raw) for raw in raws)
        places = _places(num_rows, halves=halves and len(raws) == len(shards))
        packed = extension.QuantPacked(type_name, _room(places), in_features)
        first = 0
        for index, raw in enumerate(raws):
            if len(places) == 2:
                first = places[index][1]
            packed.fill_blocks(raw.data_ptr(), raw.stride(0), first, len(raw))
            first += len(raw)
        parts.append(packed)
    return parts


def matrix(x: Tensor) -> tuple[int, int]:
    """Rows of a matrix and the distance between them, in elements."""
    assert x.dim() == 2
    assert x.stride(1) == 1
    return x.shape[0], x.stride(0)


def _places(num_rows: int, *, halves: bool) -> Places:
    if not halves:
        return ((0, 0, num_rows),)
    half = num_rows // 2
    return (0, 0, half), (half, -(-half // _PANEL) * _PANEL, half)


def _room(places: Places) -> int:
    """Rows of the packed weight."""
    _, first, count = places[-1]
    return first + count


def _spread(bias: Tensor | None, places: Places) -> Tensor | None:
    """The bias of rows that lie at `places`."""
    if bias is None:
        return None
    spread = bias.new_zeros(_room(places))
    for source, first, count in places:
        spread[first : first + count] = bias[source : source + count]
    return spread
