"""Linear layers whose weight is rounded to 8 bits of floating point when it is loaded, a scale for each output channel.

A shard is rounded on the device as it comes, so the model never lies there in the dtype of the run. Activations are
rounded when they are multiplied, with a scale for each token, or not at all, as the kernels find better. The head keeps
the dtype of the run, as elsewhere in the field: its rounding would change logits directly.
"""

from __future__ import annotations

import torch
from torch import nn

from octavo.errors import ConfigError
from octavo.kernels.torch_fp8 import FP8, round_rows
from octavo.quantization.base import LinearKernels, LinearLayer, LinearMethod, Weight, parameter
from octavo.quantization.gguf_tensor import GGUFTensor
from octavo.quantization.unquantized import UnquantizedLinearMethod, rows_of

_CHUNK_NUMBERS = 1 << 24  # rounded at once
_DTYPES = (torch.bfloat16, torch.float16)


class Fp8LinearMethod(UnquantizedLinearMethod):
    @classmethod
    def for_head(cls) -> LinearMethod:
        return UnquantizedLinearMethod()

    def create_weights(self, linear: LinearLayer, dtype: torch.dtype, device: torch.device) -> None:
        if dtype not in _DTYPES:
            raise ConfigError(
                f"quantization 'fp8' is for bfloat16 and float16, and the dtype of the run is {dtype}; "
                "set dtype to bfloat16, or leave quantization out"
            )
        rows = sum(linear.shard_sizes)
        linear.weight = parameter((rows, linear.in_features), FP8, device)
        linear.weight_scale = parameter((rows,), torch.float32, device)
        linear.bias = parameter((rows,), dtype, device) if linear.has_bias else None

    def load_shard(self, linear: LinearLayer, shard: int, tensor: Weight) -> None:
        rows = rows_of(linear, shard)
        weight, scale = linear.weight[rows], linear.weight_scale[rows]
        step = max(1, _CHUNK_NUMBERS // linear.in_features)
        for start in range(0, len(weight), step):
            part = slice(start, start + step)
            source = tensor.rows(part).dequantize() if isinstance(tensor, GGUFTensor) else tensor[part]
            weight[part], scale[part] = round_rows(source.to(weight.device))

    def share(self, linear: LinearLayer, weight: nn.Parameter, blocks: GGUFTensor | None) -> None:
        raise NotImplementedError("a head that shares its weight has the method of `for_head`")

    def dummy_value(self, name: str) -> float | None:
        return 1.0 if name == "weight_scale" else None

    def attach(self, linear: LinearLayer, kernels: LinearKernels) -> None:
        packed = kernels.pack_fp8(
            linear.weight, linear.weight_scale, linear.bias, float_output=linear.float_output, gate=linear.gate
        )
        if packed is None:
            raise ConfigError(
                "quantization 'fp8' needs an NVIDIA GPU of compute capability 8.9 or more (Ada, Hopper, Blackwell), "
                "and this device is none; leave quantization out"
            )
        linear.multiply = packed
