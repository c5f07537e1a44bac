"""LinearMethod: how the weight of a linear layer is kept and multiplied. The format of the checkpoint chooses it.

A layer says what it is (LinearLayer); the method puts the tensors on it. This module knows no model and no file.
"""

from __future__ import annotations

import mmap
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from octavo.kernels.gguf import dequantize
from octavo.quantization.gguf_tensor import GGUFTensor

Weight = Tensor | GGUFTensor
_CHUNK_ELEMENTS = 1 << 20  # expanded at once
_OWN_PAGES = 1 << 16  # bytes


class LinearFunction(Protocol):
    """x [T, in_features] -> x @ weight^T + bias, [T, out_features]; with a gate half as many."""

    @property
    def nbytes(self) -> int:
        """Memory of its own; where there is some, the weight that it was made of is not needed any more."""

    @property
    def arithmetic(self) -> str:
        """The name of the dtype that is multiplied, such as "bfloat16" or "int8"."""

    def __call__(
        self, x: Tensor, *, norm: tuple[Tensor, float] | None = None, residual: Tensor | None = None
    ) -> Tensor:
        """Args:
        norm: weight and epsilon of an RMS norm of x, that comes first.
        residual: [T, out_features], which the product is added to, in place, and which is returned.
        """
        ...

    def rows(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """Rows of the weight, [T, in_features] of `dtype`, the run's, for ids int64 [T]: an embedding's look-up."""


class LinearKernels(Protocol):
    """What kernels make of weights. None: they have no such product.

    `gate` is the activation of a layer with a gate: its product becomes gate(first half) * second half.
    """

    def pack_linear(
        self, weight: Tensor, bias: Tensor | None, *, float_output: bool = False, gate: str | None = None
    ) -> LinearFunction: ...
    def pack_int8(
        self, weight: Tensor, bias: Tensor | None, *, float_output: bool = False, gate: str | None = None
    ) -> LinearFunction | None: ...
    def pack_fp8(
        self,
        weight: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        *,
        float_output: bool = False,
        gate: str | None = None,
    ) -> LinearFunction | None: ...
    def pack_blocks(
        self,
        shards: Sequence[tuple[Tensor, str]],
        in_features: int,
        bias: Tensor | None,
        *,
        float_output: bool = False,
        gate: str | None = None,
    ) -> LinearFunction | None: ...


class LinearLayer(Protocol):
    """What a method sees of a linear layer: [in_features] -> [sum of shard_sizes]."""

    in_features: int
    shard_sizes: tuple[int, ...]  # rows of each tensor of the checkpoint, stacked in this order
    has_bias: bool
    weight: nn.Parameter  # made by the method
    weight_scale: nn.Parameter  # of each row, made by a method whose weight has scales
    bias: nn.Parameter | None  # made by the method
    multiply: LinearFunction  # made by the method, when it is attached to kernels
    float_output: bool  # the result is float32 whatever the dtype of the run
    gate: str | None


class LinearMethod(ABC):
    @classmethod
    def for_head(cls) -> LinearMethod:
        """The method of the layer that makes logits, in a model whose other layers have this one."""
        return cls()

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
        """Takes the weight of another layer, in place of loading. It is still to be filled where there are `blocks`."""

    def dummy_value(self, name: str) -> float | None:
        """`Layer.dummy_value` for a linear layer."""
        return None

    @abstractmethod
    def attach(self, linear: LinearLayer, kernels: LinearKernels) -> None:
        """Sets `linear.multiply`, and lets go of what it does not need.

        Raises:
            ConfigError: the kernels have no product of this kind.
        """


def parameter(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> nn.Parameter:
    """A parameter still to be filled, which takes no gradient.

    On a CPU a large one lies in pages of its own: they take memory when they are written, and give it back when the
    parameter is dropped, while malloc would keep what lies between other things.
    """
    size = torch.Size(shape).numel() * dtype.itemsize
    if device.type == "cpu" and size >= _OWN_PAGES:
        pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        data = torch.frombuffer(pages, dtype=dtype).view(shape)
    else:
        data = torch.empty(shape, dtype=dtype, device=device)
    return nn.Parameter(data, requires_grad=False)


def fill(target: Tensor, tensor: Weight) -> None:
    """Copies `tensor` to `target` of the same shape; a quantized one is expanded, some rows at a time."""
    if not isinstance(tensor, GGUFTensor):
        target.copy_(tensor)
        return
    rows, raw = target.view(-1, tensor.shape[-1]), tensor.raw
    step = max(1, _CHUNK_ELEMENTS // tensor.shape[-1])
    for start in range(0, len(raw), step):
        part = dequantize(raw[start : start + step], tensor.type_name, tensor.shape[-1], target.dtype)
        rows[start : start + step].copy_(part)
