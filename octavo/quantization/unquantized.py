"""Linear layers with plain weights in the dtype of the run."""

from __future__ import annotations

import torch
from torch import nn

from octavo.quantization.base import LinearKernels, LinearLayer, LinearMethod, Weight, fill, parameter
from octavo.quantization.gguf_tensor import GGUFTensor


class UnquantizedLinearMethod(LinearMethod):
    def create_weights(self, linear: LinearLayer, dtype: torch.dtype, device: torch.device) -> None:
        rows = sum(linear.shard_sizes)
        linear.weight = parameter((rows, linear.in_features), dtype, device)
        linear.bias = parameter((rows,), dtype, device) if linear.has_bias else None

    def load_shard(self, linear: LinearLayer, shard: int, tensor: Weight) -> None:
        fill(linear.weight[rows_of(linear, shard)], tensor)

    def load_bias(self, linear: LinearLayer, shard: int, tensor: Weight) -> None:
        assert linear.bias is not None
        fill(linear.bias[rows_of(linear, shard)], tensor)

    def finish_loading(self, linear: LinearLayer) -> None:
        """Nothing is left to do."""

    def share(self, linear: LinearLayer, weight: nn.Parameter, blocks: GGUFTensor | None) -> None:
        linear.weight, linear.bias = weight, None
        if blocks is not None:
            fill(weight, blocks)

    def attach(self, linear: LinearLayer, kernels: LinearKernels) -> None:
        linear.multiply = kernels.pack_linear(
            linear.weight, linear.bias, float_output=linear.float_output, gate=linear.gate
        )
        if linear.multiply.nbytes:
            drop_weight(linear)


def drop_weight(linear: LinearLayer) -> None:
    """The function that multiplies has a copy of its own."""
    linear.weight = parameter((0, linear.in_features), linear.weight.dtype, linear.weight.device)


def rows_of(linear: LinearLayer, shard: int) -> slice:
    """The rows of the stacked weight that belong to shard number `shard`."""
    start = sum(linear.shard_sizes[:shard])
    return slice(start, start + linear.shard_sizes[shard])
