"""Linear layers whose weight is rounded to 8 bits when it is loaded, with one symmetric scale for each output channel.

Activations are rounded when they are multiplied, with a scale for each 64 of a row: with one scale a few outliers
(SmoothQuant, Xiao et al. 2023, arXiv 2211.10438, section 3, says where they come from) make the others too coarse.
"""

from __future__ import annotations

from octavo.errors import ConfigError
from octavo.quantization.base import LinearKernels, LinearLayer
from octavo.quantization.unquantized import UnquantizedLinearMethod, drop_weight


class Int8LinearMethod(UnquantizedLinearMethod):
    def attach(self, linear: LinearLayer, kernels: LinearKernels) -> None:
        packed = kernels.pack_int8(linear.weight, linear.bias, float_output=linear.float_output, gate=linear.gate)
        if packed is None:
            raise ConfigError(
                "quantization 'int8' needs octavo's C++ kernels, which are not built here; leave quantization out"
            )
        linear.multiply = packed
        drop_weight(linear)
