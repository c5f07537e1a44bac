"""Which kernel and which tile a linear layer of few tokens gets, by its size and the GPU.

Nothing is tuned at run time. The rules were read off measurements on an H100 with the shapes of Qwen3-0.6B and
Llama-3.1-8B; they hold for sizes in between, and other GPUs start from them. `MEASURED` has what a tuning run
found for one size exactly, and goes first.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch

_DTYPES = (torch.bfloat16, torch.float16)  # in float32, for comparisons, the library multiplies
_NARROW = 2048  # outputs up to which cuBLAS leaves bandwidth unused for 3 to 16 tokens
_HEAD = 65536  # outputs from which a layer is a vocabulary
_FP8_NARROW = 4096  # outputs up to which widened weights are faster than the library's product of 8 bits
_FMA_TOKENS = 4
_GATED_TOKENS = 1024  # from which gates and ups are multiplied by a kernel of our own, and the tiles of it ...
_GATED_ROUNDS = 2.5  # ... that each processor has to have


@dataclass(frozen=True, slots=True)
class FmaTile:
    """Tile of `fma_kernel`: `early` tiles of the weight are loaded ahead; `stages` 0: the loop is unrolled."""

    outputs: int
    columns: int
    early: int
    stages: int
    warps: int


@dataclass(frozen=True, slots=True)
class MmaTile:
    """Tile of `mma_kernel`: `parts` of the columns are multiplied side by side, `columns` of each at a time."""

    outputs: int
    columns: int
    parts: int
    stages: int
    warps: int


@dataclass(frozen=True, slots=True)
class WideTile:
    """Tile of `wide_kernel`."""

    outputs: int
    columns: int
    stages: int
    warps: int


Tile = FmaTile | MmaTile | WideTile


@dataclass(frozen=True, slots=True)
class GatedTile:
    """Tile of `gated_kernel`: `outputs` gates and as many ups of `tokens`; `group` rows of tiles go side by side."""

    tokens: int
    outputs: int
    columns: int
    group: int
    stages: int
    warps: int


class Size(NamedTuple):
    """A linear layer: outputs are half of its rows when they are gated. `num_tokens` is that of the step."""

    family: str
    num_tokens: int
    outputs: int
    in_features: int
    gated: bool


MEASURED: dict[Size, Tile | None] = {}


@lru_cache(maxsize=4096)
def choose_tile(
    family: str, dtype: torch.dtype, num_tokens: int, outputs: int, in_features: int, *, gated: bool
) -> Tile | None:
    """The tile for x [num_tokens, in_features] and `outputs` numbers for each token; None: the library is faster."""
    if dtype not in _DTYPES or num_tokens == 0:
        return None
    size = Size(family, num_tokens, outputs, in_features, gated)
    if size in MEASURED:
        return MEASURED[size]
    if num_tokens == 1:
        return _one_token(size)
    if num_tokens == 2 or (num_tokens <= _FMA_TOKENS and outputs <= _NARROW):
        return _few_tokens(size)
    if family != "sm_90" or num_tokens > 64:
        return None
    return _tensor_cores(size)


@lru_cache(maxsize=4096)
def choose_fp8_tile(
    family: str, dtype: torch.dtype, num_tokens: int, outputs: int, in_features: int, *, gated: bool
) -> Tile | None:
    """`choose_tile` for a weight of 8 bits; None: the product of 8 bits is faster."""
    size = Size(family, num_tokens, outputs, in_features, gated)
    if dtype not in _DTYPES or num_tokens == 0:
        return None
    if num_tokens == 1:
        return _fp8_one_token(size)
    if num_tokens == 2 or (num_tokens <= _FMA_TOKENS and outputs <= _NARROW):
        return _fp8_few_tokens(size)
    return _fp8_tensor_cores(size) if num_tokens <= 16 and in_features % 512 == 0 else None


def choose_gated_tile(
    family: str, num_processors: int, dtype: torch.dtype, num_tokens: int, outputs: int
) -> GatedTile | None:
    """The tile of a gated layer of many tokens with `outputs` numbers for each; None: the library is faster.

    That is where a last round of tiles would leave much of the GPU idle, and for short K and a few hundred tokens.
    """
    tile = GatedTile(tokens=128, outputs=128, columns=64, group=8, stages=3, warps=8)
    if family != "sm_90" or dtype not in _DTYPES or num_tokens < _GATED_TOKENS:
        return None
    num_tiles = -(-num_tokens // tile.tokens) * -(-outputs // tile.outputs)
    return tile if num_tiles >= _GATED_ROUNDS * num_processors else None


def _fp8_one_token(size: Size) -> FmaTile:
    """Twice the numbers of a tile of 16 bits: the bytes under way are what counts."""
    k = size.in_features
    if size.gated:
        return _fma(size, 2, 512, 2, 1) if k <= 2048 else _fma(size, 4, 1024, 4, 4)
    if k <= 2048 or size.outputs <= _NARROW:
        return _fma(size, 4, 1024, 2, 4)
    if k >= 8192:
        return _fma(size, 8, 1024, 1, 4)
    return _fma(size, 8, 1024 if size.outputs <= 4096 else 512, 2, 4)


def _fp8_few_tokens(size: Size) -> FmaTile:
    k = size.in_features
    if size.outputs <= _NARROW and not size.gated:
        return _fma(size, 2, 1024, 2, 4)
    if k <= 2048:
        return _fma(size, 2, 256, 2, 1)
    if size.gated:
        return _fma(size, 4, 256, 0, 2)
    return _fma(size, 4, 512, 0, 2) if size.outputs <= _FP8_NARROW else _fma(size, 8, 256, 0, 2)


def _fp8_tensor_cores(size: Size) -> MmaTile | None:
    k = size.in_features
    if size.gated or size.outputs <= _NARROW:
        return None if size.gated and k > 2048 else MmaTile(8, 128, 4, 4, 4)
    if size.outputs > _FP8_NARROW or k <= 2048:
        return None
    return MmaTile(16, 128, 8, 3, 8) if k >= 8192 and k % 1024 == 0 else MmaTile(16, 128, 4, 3, 4)


def _one_token(size: Size) -> FmaTile:
    """Small tiles of 2 to 4 rows for short rows; long rows or many of them let a program have more."""
    k, head = size.in_features, size.outputs >= _HEAD
    if head:
        outputs, columns, early, warps = 8, 1024 if k <= 2048 else 2048, 1 if k <= 2048 else 2, 4 if k <= 2048 else 8
    elif k <= 2048:
        narrow = not size.gated and size.outputs <= _NARROW
        outputs, columns, early, warps = (4, 512, 4, 2) if narrow else (2, 512, 2, 2)
    elif size.gated:
        outputs, columns, early, warps = 2, 2048, 2, 4
    elif k <= 6144:
        outputs, columns, early, warps = (8, 1024, 2, 4) if size.outputs <= _NARROW else (4, 512, 4, 2)
    else:
        outputs, columns, early, warps = 4, 2048, 2, 8
    return _fma(size, outputs, columns, early, warps)


def _few_tokens(size: Size) -> FmaTile:
    return _fma(size, 2 if size.gated else 4, 1024, 4, 4)


def _fma(size: Size, outputs: int, columns: int, early: int, warps: int) -> FmaTile:
    """A tile of half the columns, and twice as many of them early, where that fits the rows and the whole does not."""
    k = size.in_features
    if columns > k or (k % columns and k % (columns // 2) == 0):
        columns, early, warps = columns // 2, early * 2, max(1, warps // 2)
    tiles = k // columns
    early = min(early, tiles)
    unrolled = 3 if columns <= 512 else 6  # tiles; more of them would take too many registers
    return FmaTile(outputs, columns, early, 0 if tiles - early <= unrolled else 3, warps)


def _tensor_cores(size: Size) -> Tile | None:
    k = size.in_features
    if size.outputs >= _HEAD and k % 128 == 0:
        if size.num_tokens > 16 or k <= 2048 or k % 256:
            return WideTile(64 if k <= 2048 and size.num_tokens > 16 else 128, 128, 3, 4)
        return WideTile(64, 256, 5, 4)
    if size.num_tokens > 16:
        return None
    if size.outputs <= _NARROW and not size.gated and k % 512 == 0:
        return MmaTile(8, 128, 4, 4, 4)
    if size.gated and k >= 4096 and k % 256 == 0:
        return WideTile(64, 256, 3, 4)
    return None
