"""Activation functions, by the names that configurations use (`hidden_act`)."""

from __future__ import annotations

from torch import Tensor

from octavo.layers.base import Layer

GATED_ACTIVATIONS = {"silu": "silu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh"}  # to the `gate` of a Linear
ACTIVATIONS = ("relu", "gelu")


class Activation(Layer):
    """Element by element. `name` is one of ACTIVATIONS."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.kernel = name

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = getattr(self.kernels, self.kernel)(x)
        return out
