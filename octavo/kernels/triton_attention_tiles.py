"""Tile sizes of the Triton attention kernels, by head size and family of GPU: a table, so nothing is tuned at start.

The row for head size 128 of `hopper` follows measurements of these kernels on an H100. The others are derived from it,
by keeping the bytes of a tile, and compile without spilled registers; they were not measured. The tile of the kernel
with specialized warps was. A tuning script hands other tiles to the kernels. Knows no kernel, and is imported without
Triton.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from octavo.kernels.triton_launch import GpuTraits

MAX_SPLITS = 64
MIN_SPLITS = 4  # to sum up over fewer costs more than they save
PROGRAMS_PER_PROCESSOR = 8  # of decode attention: enough to keep the memory busy


@dataclass(frozen=True, slots=True)
class DecodeTile:
    """One program of decode attention."""

    tokens: int  # keys read at a time; a power of two, at least 16
    num_warps: int
    stages: int  # depth of the software pipeline
    min_rows: int = 1  # query heads are padded to this many, where the tensor cores take no fewer


@dataclass(frozen=True, slots=True)
class PrefillTile:
    """One program of prefill attention."""

    rows: int  # pairs of a query and a head, all heads of a group together; a power of two
    tokens: int
    num_warps: int
    stages: int
    specialized: bool = False  # by the kernel of `gluon_attention_prefill`, whose warps each do one job


@dataclass(frozen=True, slots=True)
class AttentionTiles:
    split: DecodeTile  # few requests: each is split over several programs
    whole: DecodeTile  # many requests: one program for each request and KV head
    prefill: PrefillTile
    max_programs: int  # requests are split until there are about so many programs


# Keys: head size padded to a power of two, for numbers of 16 bits.
_TABLE: dict[str, dict[int, tuple[DecodeTile, DecodeTile, PrefillTile]]] = {
    # A request that is split has one tile of keys in shared memory. With two a step of one stream took a fifth longer:
    # shared memory is taken from the L1 cache, where the products beside it keep weights under way.
    "hopper": {
        64: (DecodeTile(64, 2, 2), DecodeTile(128, 4, 3), PrefillTile(64, 64, 4, 3)),
        128: (DecodeTile(32, 2, 2), DecodeTile(64, 4, 3), PrefillTile(64, 64, 4, 3)),
        256: (DecodeTile(16, 2, 2), DecodeTile(32, 4, 3), PrefillTile(64, 32, 4, 2)),
    },
    "ampere": {
        64: (DecodeTile(64, 2, 3), DecodeTile(128, 4, 3), PrefillTile(64, 64, 4, 3)),
        128: (DecodeTile(32, 2, 3), DecodeTile(64, 4, 3), PrefillTile(64, 32, 4, 3)),
        256: (DecodeTile(16, 2, 3), DecodeTile(32, 4, 3), PrefillTile(64, 32, 8, 2)),
    },
    # The matrix cores take 16 rows; 64 KB of shared memory.
    "amd": {
        64: (DecodeTile(64, 2, 2, 16), DecodeTile(128, 4, 2, 16), PrefillTile(64, 64, 4, 2)),
        128: (DecodeTile(32, 2, 2, 16), DecodeTile(64, 4, 2, 16), PrefillTile(64, 64, 4, 2)),
        256: (DecodeTile(32, 4, 2, 16), DecodeTile(32, 4, 2, 16), PrefillTile(64, 32, 4, 2)),
    },
}

SPECIALIZED = PrefillTile(128, 128, 4, 2, specialized=True)
SPECIALIZED_HEAD_DIM = 128


def choose_tiles(traits: GpuTraits, head_dim: int, dtype: torch.dtype) -> AttentionTiles:
    """The table's choice for heads of `head_dim` (at most 256) of `dtype`."""
    split, whole, prefill = _TABLE[traits.family][max(64, 1 << (head_dim - 1).bit_length())]
    if dtype.itemsize == 4:  # multiplied exactly, without tensor cores: smaller tiles hold as many bytes
        split, whole = (replace(tile, tokens=max(16, tile.tokens // 2), stages=2) for tile in (split, whole))
        prefill = PrefillTile(32, 16, 8, 2)
    return AttentionTiles(split, whole, prefill, PROGRAMS_PER_PROCESSOR * traits.num_processors)


def choose_prefill(
    traits: GpuTraits, tiles: AttentionTiles, head_dim: int, dtype: torch.dtype, num_rows: int
) -> PrefillTile:
    """The tile for prompts of `num_rows` pairs of a query and a head, in layers without a window or a soft cap.

    A program with specialized warps has a processor for itself. With fewer programs than processors smaller tiles, of
    which there are more, are better.
    """
    served = traits.specialized_warps and head_dim == SPECIALIZED_HEAD_DIM and dtype.itemsize == 2
    enough = num_rows >= SPECIALIZED.rows * traits.num_processors
    return SPECIALIZED if served and enough else tiles.prefill


def choose_num_splits(tiles: AttentionTiles, num_programs: int, max_tokens: int) -> int:
    """How many programs share the keys of a request: a power of two, from what is fixed for a CUDA graph.

    `num_programs` are requests times KV heads, `max_tokens` the most keys that a request can have.
    """
    wanted = min(MAX_SPLITS, tiles.max_programs // num_programs)
    if wanted < MIN_SPLITS:
        return 1
    useful = -(-max_tokens // tiles.split.tokens)
    return min(1 << (wanted.bit_length() - 1), 1 << max(0, useful - 1).bit_length())
