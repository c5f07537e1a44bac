"""LinearMethod: how the weight of a linear layer is kept and multiplied. The format of the checkpoint chooses it.

A layer says what it is (LinearLayer); the method puts the tensors on it. This module knows no model and no file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

import torch
from torch import Tensor, nn

from octavo.quantization.gguf_tensor import GGUFTensor

Weight = Tensor | GGUFTensor


class LinearKernel(Protocol):
    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor: ...


class LinearLayer(Protocol):
    """What a method sees of a linear layer: [in_features] -> [sum of shard_sizes]."""

    in_features: int
    shard_sizes: tuple[int, ...]  # rows of each tensor of the checkpoint, stacked in this order
    has_bias: bool
    weight: nn.Parameter  # made by the method
    bias: nn.Parameter | None  # made by the method

    @property
    def linear_kernel(self) -> LinearKernel: ...


class LinearMethod(ABC):
    @abstractmethod
    def create_weights(self, linear: LinearLayer, dtype: torch.dtype, device: torch.device) -> None:
        """Allocates the parameters of `linear`."""

    @abstractmethod
    def load_shard(self, linear: LinearLayer, shard: int, tensor: Weight) -> None:
        """Takes shard number `shard` of the weight, [shard_sizes[shard], in_features]."""

    @abstractmethod
    def load_bias(self, linear: LinearLayer, shard: int, tensor: Weight) -> None:
        """Takes shard number `shard` of the bias, [shard_sizes[shard]]."""

    @abstractmethod
    def finish_loading(self, linear: LinearLayer) -> None:
        """After the last shard: repacks the weight into the form that `apply` multiplies with."""

    @abstractmethod
    def apply(self, linear: LinearLayer, x: Tensor) -> Tensor:
        """x [T, in_features] -> [T, sum of shard_sizes]."""


def parameter(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> nn.Parameter:
    """An uninitialized parameter that takes no gradient."""
    return nn.Parameter(torch.empty(shape, dtype=dtype, device=device), requires_grad=False)


def dense(tensor: Weight, dtype: torch.dtype) -> Tensor:
    """`tensor` as a plain tensor; a quantized one is expanded to `dtype`."""
    return tensor.dequantize(dtype) if isinstance(tensor, GGUFTensor) else tensor
