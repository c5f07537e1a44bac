"""Activation functions, by the names that configurations use (`hidden_act`)."""

from __future__ import annotations

from torch import Tensor

from octavo.layers.base import Layer

GATED_ACTIVATIONS = {
    "silu": "silu_and_mul",
    "gelu": "gelu_and_mul",
    "gelu_pytorch_tanh": "gelu_tanh_and_mul",
}
ACTIVATIONS = ("relu", "gelu")


class GatedActivation(Layer):
    """act(first half) * second half of the last dimension: [T, 2C] -> [T, C]. `name` is one of GATED_ACTIVATIONS."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.kernel = GATED_ACTIVATIONS[name]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = getattr(self.kernels, self.kernel)(x)
        return out


class Activation(Layer):
    """Element by element. `name` is one of ACTIVATIONS."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.kernel = name

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = getattr(self.kernels, self.kernel)(x)
        return out
