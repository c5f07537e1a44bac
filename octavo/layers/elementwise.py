"""Sums and products element by element, as layers: so that every operation of a model goes through its kernels."""

from __future__ import annotations

from torch import Tensor

from octavo.layers.base import Layer


class Add(Layer):
    """x + y of the same shape."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.kernels.add(x, y)


class Scale(Layer):
    """x times a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.kernels.scale(x, self.factor)
