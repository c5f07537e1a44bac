"""Linear layers whose checkpoint is a GGUF file: shards are kept in the file's form until the layer is complete.

Kernels that multiply with the blocks as they are take them over; the shards of one layer may have different types
(Q4_K beside Q6_K). Otherwise, and in float32, which is asked for where every digit counts, they are expanded into one
weight in the dtype of the run.
"""

from __future__ import annotations

import torch
from torch import nn

from octavo.quantization.base import LinearKernels, LinearLayer, Weight
from octavo.quantization.gguf_tensor import GGUFTensor
from octavo.quantization.unquantized import UnquantizedLinearMethod, drop_weight


class GGUFLinearMethod(UnquantizedLinearMethod):
    """One object per layer: it holds the layer's shards until kernels take them."""

    def __init__(self) -> None:
        self.shards: dict[int, Weight] = {}

    def load_shard(self, linear: LinearLayer, shard: int, tensor: Weight) -> None:
        self.shards[shard] = tensor

    def share(self, linear: LinearLayer, weight: nn.Parameter, blocks: GGUFTensor | None) -> None:
        super().share(linear, weight, None)
        if blocks is not None:
            self.shards[0] = blocks

    def attach(self, linear: LinearLayer, kernels: LinearKernels) -> None:
        shards = [self.shards[index] for index in sorted(self.shards)]
        self.shards.clear()
        blocks = [(shard.raw, shard.type_name) for shard in shards if isinstance(shard, GGUFTensor)]
        if shards and len(blocks) == len(shards) and linear.weight.dtype is not torch.float32:
            packed = kernels.pack_blocks(
                blocks, linear.in_features, linear.bias, float_output=linear.float_output, gate=linear.gate
            )
            if packed is not None:
                linear.multiply = packed
                drop_weight(linear)
                return
        for index, shard in enumerate(shards):
            super().load_shard(linear, index, shard)
        super().attach(linear, kernels)
