"""Layer: a module with weights that a checkpoint fills, and kernels that the platform chooses.

A layer says which weights it has; it allocates them when told the dtype and the device, so that a model is built
without memory first. The functions `attach_*` are the joints between a model and its platform. Neither file nor
platform is known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from octavo.attention.base import AttentionBackend
from octavo.config import KVGroupSpec
from octavo.kernels import torch_ops
from octavo.layers.attention import Attention
from octavo.quantization.base import LinearKernels, Weight, fill, parameter

Angles = tuple[Tensor, Tensor]  # cosines and sines


class Kernels(LinearKernels, Protocol):
    """The functions that layers call; `octavo.kernels.torch_ops` describes them."""

    def embedding(self, ids: Tensor, weight: Tensor) -> Tensor: ...
    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor: ...
    def gemma_rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor: ...
    def layer_norm(self, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor: ...
    def rotary_angles(self, positions: Tensor, inv_freq: Tensor, factor: float, dtype: torch.dtype) -> Angles: ...
    def rotary_embedding(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor: ...
    def add(self, x: Tensor, y: Tensor) -> Tensor: ...
    def scale(self, x: Tensor, factor: float) -> Tensor: ...
    def silu_and_mul(self, x: Tensor) -> Tensor: ...
    def gelu_and_mul(self, x: Tensor) -> Tensor: ...
    def gelu_tanh_and_mul(self, x: Tensor) -> Tensor: ...
    def relu(self, x: Tensor) -> Tensor: ...
    def gelu(self, x: Tensor) -> Tensor: ...


class Slot(NamedTuple):
    """A place that one tensor of the checkpoint fills."""

    parameter: str
    shard: int


class Layer(nn.Module):
    """A leaf of the model."""

    kernels: Kernels = torch_ops

    def __init__(self, **weight_shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.weight_shapes = weight_shapes

    def create_weights(self, dtype: torch.dtype, device: torch.device) -> None:
        """Allocates the parameters."""
        for name, shape in self.weight_shapes.items():
            setattr(self, name, parameter(shape, dtype, device))

    def slots(self) -> dict[Slot, tuple[int, ...]]:
        """What the checkpoint must bring: each place with the shape of its tensor."""
        return {Slot(name, 0): shape for name, shape in self.weight_shapes.items()}

    def load_weight(self, slot: Slot, tensor: Weight) -> None:
        """Copies a tensor of the right shape to its place."""
        fill(self.get_parameter(slot.parameter), tensor)

    def finish_loading(self) -> None:
        """Called once when all weights are there."""

    def attach(self, kernels: Kernels) -> None:
        """Called once when the weights are loaded: from now on the layer calls `kernels`."""
        self.kernels = kernels

    @property
    def packed_bytes(self) -> int:
        """Memory that the layer's functions take beside its parameters."""
        return 0

    def dummy_value(self, name: str) -> float | None:
        """The constant that stands for parameter `name` in a model without a checkpoint; None: small random numbers."""
        return None


def attach_kernels(model: nn.Module, kernels: Kernels) -> None:
    """Every layer of the loaded `model` calls `kernels`, which take the weights of linear layers over."""
    for module in model.modules():
        if isinstance(module, Layer):
            module.attach(kernels)


def attach_attention(model: nn.Module, backend: AttentionBackend, groups: Sequence[KVGroupSpec]) -> None:
    """Every attention layer of `model` calls `backend`, with the metadata of its group."""
    group_of = {layer_id: index for index, group in enumerate(groups) for layer_id in group.layer_ids}
    for module in model.modules():
        if isinstance(module, Attention):
            module.backend = backend
            module.group_id = group_of[module.layer_id]
