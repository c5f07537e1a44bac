"""GGUFTensor: a quantized tensor as it lies in a GGUF file, on its way to the layer that will use it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from octavo.kernels.gguf import dequantize


@dataclass(frozen=True, slots=True)
class GGUFTensor:
    """Rows of quantized blocks.

    `raw` may be a view of a memory-mapped file that allows no writing: read it or copy it.
    """

    raw: Tensor  # uint8 [rows, row_bytes]
    type_name: str  # a key of kernels.gguf.BLOCK_FORMATS
    shape: tuple[int, ...]  # of the numbers; all dimensions but the last make up the rows

    @property
    def nbytes(self) -> int:
        return self.raw.nbytes

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The numbers, `shape` of `dtype`, in memory of their own."""
        return dequantize(self.raw, self.type_name, self.shape[-1], dtype).view(self.shape)

    def rows(self, index: Tensor | slice) -> GGUFTensor:
        """The rows that `index` (int64 [n], or a slice) selects of a matrix, still quantized."""
        raw = self.raw[index]
        return GGUFTensor(raw, self.type_name, (raw.shape[0], self.shape[-1]))
