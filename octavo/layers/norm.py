"""Normalization layers."""

from __future__ import annotations

from torch import Tensor, nn

from octavo.layers.base import Layer


class RMSNorm(Layer):
    """x / rms(x) * weight over the last dimension, of `size` numbers."""

    weight: nn.Parameter
    offset = 0.0  # that is added to the weight

    def __init__(self, size: int, eps: float) -> None:
        super().__init__(weight=(size,))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return self.kernels.rms_norm(x, self.weight, self.eps)

    def dummy_value(self, name: str) -> float | None:
        return 1.0


class GemmaRMSNorm(Layer):
    """RMSNorm whose stored weight is the distance from 1."""

    weight: nn.Parameter
    offset = 1.0  # that is added to the weight

    def __init__(self, size: int, eps: float) -> None:
        super().__init__(weight=(size,))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return self.kernels.gemma_rms_norm(x, self.weight, self.eps)

    def dummy_value(self, name: str) -> float | None:
        return 0.0


HeadNorm = RMSNorm | GemmaRMSNorm  # that heads of queries or keys may have


class LayerNorm(Layer):
    """(x - mean) / std * weight + bias over the last dimension, of `size` numbers."""

    weight: nn.Parameter
    bias: nn.Parameter

    def __init__(self, size: int, eps: float = 1e-5) -> None:
        super().__init__(weight=(size,), bias=(size,))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return self.kernels.layer_norm(x, self.weight, self.bias, self.eps)

    def dummy_value(self, name: str) -> float | None:
        return 1.0 if name == "weight" else 0.0
