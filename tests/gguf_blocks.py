"""Quantized blocks for tests: random ones, and those of given numbers."""

from __future__ import annotations

import numpy as np
import torch
from gguf import GGMLQuantizationType
from gguf.quants import quantize
from torch import Tensor

from octavo.kernels.gguf import BLOCK_FORMATS

HALVES = {
    "Q8_0": (0,),
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
}  # where a block's scales stand


def random_blocks(type_name: str, num_rows: int, num_columns: int, seed: int = 0) -> Tensor:
    """Rows of random blocks: every bit pattern but for the scales, which are ordinary numbers."""
    rng = np.random.default_rng(seed)
    columns, size = BLOCK_FORMATS[type_name]
    blocks = rng.integers(0, 256, (num_rows * num_columns // columns, size), dtype=np.uint8)
    for start in HALVES[type_name]:
        blocks[:, start : start + 2] = rng.normal(0, 0.05, (len(blocks), 1)).astype(np.float16).view(np.uint8)
    return torch.from_numpy(blocks.reshape(num_rows, -1))


def quantize_q8_0(weight: Tensor) -> Tensor:
    """A matrix [rows, columns] as Q8_0 blocks, by the reference's own program: uint8 [rows, row_bytes]."""
    return torch.from_numpy(quantize(weight.float().numpy(), GGMLQuantizationType.Q8_0))
