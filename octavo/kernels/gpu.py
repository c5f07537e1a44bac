"""The kernels of the layers on a GPU, NVIDIA or AMD: in Triton where memory is the limit, else the library's.

One object with the methods of torch_ops. Triton is an optional package: importing this module needs it, importing
octavo does not.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from octavo.kernels import triton_layers
from octavo.kernels.gpu_sampling import GPUSampling
from octavo.kernels.torch_ops import DenseLinear
from octavo.kernels.triton_fp8 import MIN_CAPABILITY
from octavo.kernels.triton_launch import gpu_family, gpu_traits
from octavo.kernels.triton_linear import Gate, Norm, linear


class GPULinear(DenseLinear):
    """DenseLinear by Triton's kernels for a few rows, and the library's for more."""

    def __call__(
        self, x: Tensor, *, norm: tuple[Tensor, float] | None = None, residual: Tensor | None = None
    ) -> Tensor:
        return linear(
            x,
            self.weight,
            self.bias,
            norm=None if norm is None else Norm(*norm),
            gate=None if self.gate is None else Gate(self.gate),
            residual=residual,
            out_dtype=torch.float32 if self.float_output else None,
        )


class Fp8Linear:
    """A weight float8_e4m3fn [out, in] with a float32 scale for each of its rows.

    Few tokens are multiplied as they are with the widened weight; of many, each is rounded to 8 bits itself.
    """

    nbytes = 0
    arithmetic = "float8_e4m3fn"

    def __init__(
        self, weight: Tensor, scale: Tensor, bias: Tensor | None, *, float_output: bool, gate: str | None
    ) -> None:
        self.weight, self.scale, self.bias = weight, scale, bias
        self.float_output, self.gate = float_output, gate

    def rows(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        return (self.weight[ids].float() * self.scale[ids, None]).to(dtype)

    def __call__(
        self, x: Tensor, *, norm: tuple[Tensor, float] | None = None, residual: Tensor | None = None
    ) -> Tensor:
        return linear(
            x,
            self.weight,
            self.bias,
            scale=self.scale,
            norm=None if norm is None else Norm(*norm),
            gate=None if self.gate is None else Gate(self.gate),
            residual=residual,
            out_dtype=torch.float32 if self.float_output else None,
        )


class GPUKernels:
    """The kernels of one device. Methods are those of torch_ops; results lie where their arguments lie."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.sampling = GPUSampling(device)

    def describe(self) -> str:
        early = ", dependent launches" if gpu_traits(self._device).dependent_launch else ""
        return f"Triton kernels, {gpu_family(self._device)}{early}"

    def pack_linear(
        self, weight: Tensor, bias: Tensor | None, *, float_output: bool = False, gate: str | None = None
    ) -> GPULinear:
        return GPULinear(weight, bias, float_output=float_output, gate=gate)

    def pack_int8(
        self, weight: Tensor, bias: Tensor | None, *, float_output: bool = False, gate: str | None = None
    ) -> None:
        """There is no product of 8-bit numbers yet."""
        return None

    def pack_fp8(
        self,
        weight: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        *,
        float_output: bool = False,
        gate: str | None = None,
    ) -> Fp8Linear | None:
        """None where the GPU has no products of 8 bits in floating point, or where one is AMD's."""
        if torch.version.hip is not None or torch.cuda.get_device_capability(self._device) < MIN_CAPABILITY:
            return None
        return Fp8Linear(weight, scale, bias, float_output=float_output, gate=gate)

    def pack_blocks(
        self,
        shards: Sequence[tuple[Tensor, str]],
        in_features: int,
        bias: Tensor | None,
        *,
        float_output: bool = False,
        gate: str | None = None,
    ) -> None:
        """There is no product with quantized blocks yet."""
        return None

    embedding = staticmethod(triton_layers.embedding)
    rms_norm = staticmethod(triton_layers.rms_norm)
    gemma_rms_norm = staticmethod(triton_layers.gemma_rms_norm)
    layer_norm = staticmethod(triton_layers.layer_norm)
    rotary_angles = staticmethod(triton_layers.rotary_angles)
    rotary_embedding = staticmethod(triton_layers.rotary_embedding)
    silu_and_mul = staticmethod(triton_layers.silu_and_mul)
    gelu_and_mul = staticmethod(triton_layers.gelu_and_mul)
    gelu_tanh_and_mul = staticmethod(triton_layers.gelu_tanh_and_mul)
    relu = staticmethod(triton_layers.relu)
    gelu = staticmethod(triton_layers.gelu)
    add = staticmethod(triton_layers.add)
    scale = staticmethod(triton_layers.scale)
