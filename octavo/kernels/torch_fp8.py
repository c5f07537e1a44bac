"""Rounding to 8 bits of floating point (e4m3: Micikevicius et al. 2022, arXiv 2209.05433), in plain torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from octavo.kernels import torch_ops

FP8 = torch.float8_e4m3fn
FP8_MAX = 448.0  # the largest number of e4m3
SMALLEST_SCALE = 1e-12  # of a row of zeros


def round_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [M, K] -> float8_e4m3fn [M, K] and a float32 scale for each row, [M], whose product is about x."""
    wide = x.float()
    scale = (wide.abs().amax(-1) / FP8_MAX).clamp_min(SMALLEST_SCALE)
    return (wide / scale[:, None]).clamp(-FP8_MAX, FP8_MAX).to(FP8), scale


class RoundedLinear:
    """The plain twin of a product of 8 bits, on any device: what is rounded is multiplied in float32.

    Slow: it says what the rounding does to a model, and what faster products must give.
    """

    nbytes = 0
    arithmetic = "float32"

    def __init__(
        self, weight: Tensor, scale: Tensor, bias: Tensor | None, *, float_output: bool = False, gate: str | None = None
    ) -> None:
        self._weight = weight.float() * scale[:, None]
        self._bias, self._float_output, self._gate = bias, float_output, gate

    def rows(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        return self._weight[ids].to(dtype)

    def __call__(
        self, x: Tensor, *, norm: tuple[Tensor, float] | None = None, residual: Tensor | None = None
    ) -> Tensor:
        dtype = x.dtype
        if norm is not None:
            x = torch_ops.rms_norm(x, *norm)
        rounded, scale = round_rows(x)
        y = F.linear(rounded.float() * scale[:, None], self._weight).to(dtype)
        if self._bias is not None:
            y = y + self._bias
        if self._gate is not None:
            y = getattr(torch_ops, f"{self._gate}_and_mul")(y)
        if residual is not None:
            return residual.add_(y)
        return y.float() if self._float_output else y
