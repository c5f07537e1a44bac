"""LinearMethod: how the weight of a linear layer is kept and multiplied. The format of the checkpoint chooses it.

A layer says what it is (LinearLayer); the method puts the tensors on it. This module knows no model and no file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from octavo.quantization.gguf_tensor import GGUFTensor

Weight = Tensor | GGUFTensor


class LinearFunction(Protocol):
    """x [T, in_features] -> x @ weight^T + bias, [T, out_features]."""

    @property
    def nbytes(self) -> int:
        """Memory of its own; where there is some, the weight that it was made of is not needed any more."""

    def __call__(self, x: Tensor) -> Tensor: ...


class LinearKernels(Protocol):
    """What kernels make of weights. None: they have no such product."""

    def pack_linear(self, weight: Tensor, bias: Tensor | None, *, float_output: bool = False) -> LinearFunction: ...
    def pack_int8(
        self, weight: Tensor, bias: Tensor | None, *, float_output: bool = False
    ) -> LinearFunction | None: ...
    def pack_blocks(
        self, shards: Sequence[tuple[Tensor, str]], in_features: int, bias: Tensor | None, *, float_output: bool = False
    ) -> LinearFunction | None: ...


class LinearLayer(Protocol):
    """What a method sees of a linear layer: [in_features] -> [sum of shard_sizes]."""

    in_features: int
    shard_sizes: tuple[int, ...]  # rows of each tensor of the checkpoint, stacked in this order
    has_bias: bool
    weight: nn.Parameter  # made by the method
    bias: nn.Parameter | None  # made by the method
    multiply: LinearFunction  # made by the method, when it is attached to kernels
    float_output: bool  # the result is float32 whatever the dtype of the run


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
        """After the last shard."""

    @abstractmethod
    def share(self, linear: LinearLayer, weight: nn.Parameter, blocks: GGUFTensor | None) -> None:
        """Takes the weight of another layer, in place of loading; `blocks` are the same numbers as they were stored."""

    @abstractmethod
    def attach(self, linear: LinearLayer, kernels: LinearKernels) -> None:
        """Sets `linear.multiply`, and lets go of what it does not need.

        Raises:
            ConfigError: the kernels have no product of this kind.
        """


def parameter(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> nn.Parameter:
    """An uninitialized parameter that takes no gradient."""
    return nn.Parameter(torch.empty(shape, dtype=dtype, device=device), requires_grad=False)


def dense(tensor: Weight, dtype: torch.dtype) -> Tensor:
    """`tensor` as a plain tensor; a quantized one is expanded to `dtype`."""
    return tensor.dequantize(dtype) if isinstance(tensor, GGUFTensor) else tensor
