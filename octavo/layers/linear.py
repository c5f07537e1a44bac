"""Linear layers, some of several matrices of the checkpoint stacked (q, k, v; gate, up) so that one product does.

How the weight is kept and multiplied is the LinearMethod's; it is set from outside before the weights are created.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from octavo.layers.base import Kernels, Layer, Slot
from octavo.layers.norm import RMSNorm
from octavo.quantization.base import LinearFunction, LinearMethod, Weight


class Linear(Layer):
    """x [T, in_features] -> [T, out_features]; `out_features` is the rows of one matrix, or of each that is stacked.

    `gate` (silu, gelu, gelu_tanh), for two matrices: the result is gate(x @ first^T) * (x @ second^T).
    """

    method: LinearMethod
    weight: nn.Parameter
    weight_scale: nn.Parameter
    bias: nn.Parameter | None
    multiply: LinearFunction
    float_output = False

    def __init__(
        self, in_features: int, out_features: int | Sequence[int], *, bias: bool = False, gate: str | None = None
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.shard_sizes = (out_features,) if isinstance(out_features, int) else tuple(out_features)
        self.has_bias = bias
        self.gate = gate

    def create_weights(self, dtype: torch.dtype, device: torch.device) -> None:
        self.method.create_weights(self, dtype, device)

    def slots(self) -> dict[Slot, tuple[int, ...]]:
        found: dict[Slot, tuple[int, ...]] = {}
        for shard, rows in enumerate(self.shard_sizes):
            found[Slot("weight", shard)] = (rows, self.in_features)
            if self.has_bias:
                found[Slot("bias", shard)] = (rows,)
        return found

    def load_weight(self, slot: Slot, tensor: Weight) -> None:
        load = self.method.load_bias if slot.parameter == "bias" else self.method.load_shard
        load(self, slot.shard, tensor)

    def finish_loading(self) -> None:
        self.method.finish_loading(self)

    def attach(self, kernels: Kernels) -> None:
        super().attach(kernels)
        self.method.attach(self, kernels)

    def dummy_value(self, name: str) -> float | None:
        return self.method.dummy_value(name)

    @property
    def packed_bytes(self) -> int:
        return self.multiply.nbytes

    def forward(self, x: Tensor, *, norm: RMSNorm | None = None, residual: Tensor | None = None) -> Tensor:
        """`norm` of x comes first. `residual` [T, out_features]: the product is added to it, in place."""
        before = None if norm is None else (norm.weight, norm.eps)
        return self.multiply(x, norm=before, residual=residual)
