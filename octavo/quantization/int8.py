"""Linear layers whose weight is rounded to 8 bits when it is loaded; activations are rounded when they are multiplied.

`int8` has a scale for every 32 numbers of a row, of weights and of activations. `int8_channel` has one scale for an
output channel and one for a row of activations: faster in batches, and less exact where activations have outliers
(SmoothQuant, Xiao et al. 2023, arXiv 2211.10438, section 3, says why; nothing is smoothed here).
"""

from __future__ import annotations

from abc import abstractmethod

from octavo.errors import ConfigError
from octavo.kernels.gguf import quantize_q8_0
from octavo.quantization.base import LinearFunction, LinearKernels, LinearLayer
from octavo.quantization.unquantized import UnquantizedLinearMethod, drop_weight, rows_of

BLOCK = 32


class _Rounded(UnquantizedLinearMethod):
    @abstractmethod
    def pack(self, linear: LinearLayer, kernels: LinearKernels) -> LinearFunction | None:
        """The function that multiplies with the rounded weight."""

    def attach(self, linear: LinearLayer, kernels: LinearKernels) -> None:
        packed = self.pack(linear, kernels)
        if packed is None:
            raise ConfigError(
                "quantization 'int8' needs octavo's C++ kernels, which are not built here; leave quantization out"
            )
        linear.multiply = packed
        drop_weight(linear)


class Int8LinearMethod(_Rounded):
    def pack(self, linear: LinearLayer, kernels: LinearKernels) -> LinearFunction | None:
        if linear.in_features % BLOCK:
            raise ConfigError(
                f"quantization 'int8' rounds blocks of {BLOCK} numbers, but a layer of this model has rows of "
                f"{linear.in_features}; use int8_channel"
            )
        shards = [linear.weight[rows_of(linear, shard)] for shard in range(len(linear.shard_sizes))]
        return kernels.pack_blocks(
            [(quantize_q8_0(shard), "Q8_0") for shard in shards],
            linear.in_features,
            linear.bias,
            float_output=linear.float_output,
            gate=linear.gate,
        )


class Int8ChannelLinearMethod(_Rounded):
    def pack(self, linear: LinearLayer, kernels: LinearKernels) -> LinearFunction | None:
        return kernels.pack_int8(linear.weight, linear.bias, float_output=linear.float_output, gate=linear.gate)
