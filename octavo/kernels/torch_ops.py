"""The kernels of the layers in plain torch, for every device: the reference that faster twins are compared with.

Shapes: T tokens, N heads, D numbers per head, C channels. Results have the dtype of `x`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from octavo.kernels import torch_sampling

sampling = torch_sampling  # the kernels of the sampler
Norm = tuple[Tensor, float]  # weight and epsilon of an RMS norm


class DenseLinear:
    """x [T, in] @ weight [out, in]^T + bias [out] -> [T, out], with the weight as it lies.

    `gate` (silu, gelu, gelu_tanh): what comes out is gate(first half) * second half, [T, out / 2].
    """

    nbytes = 0

    def __init__(self, weight: Tensor, bias: Tensor | None, *, float_output: bool, gate: str | None = None) -> None:
        self.weight, self.bias, self.float_output, self.gate = weight, bias, float_output, gate
        self.arithmetic = str(weight.dtype).removeprefix("torch.")

    def rows(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """Rows of the weight for ids [T] -> [T, in]."""
        return F.embedding(ids, self.weight)

    def __call__(self, x: Tensor, *, norm: Norm | None = None, residual: Tensor | None = None) -> Tensor:
        """Args:
        norm: weight and epsilon of an RMS norm of x, that comes first.
        residual: [T, out], which the product is added to, in place, and which is returned.
        """
        if norm is not None:
            x = rms_norm(x, *norm)
        y = F.linear(x, self.weight, self.bias)
        if self.gate is not None:
            y = _GATES[self.gate](y)
        if residual is not None:
            return residual.add_(y)
        return y.float() if self.float_output else y


def pack_linear(
    weight: Tensor, bias: Tensor | None, *, float_output: bool = False, gate: str | None = None
) -> DenseLinear:
    """The function that multiplies with `weight`; `float_output` makes its results float32."""
    return DenseLinear(weight, bias, float_output=float_output, gate=gate)


def pack_int8(weight: Tensor, bias: Tensor | None, *, float_output: bool = False, gate: str | None = None) -> None:
    """Plain torch has no product of 8-bit numbers that pays."""
    return None


def pack_fp8(
    weight: Tensor, scale: Tensor, bias: Tensor | None, *, float_output: bool = False, gate: str | None = None
) -> None:
    """Plain torch has no product of 8-bit numbers on every device."""
    return None


def pack_blocks(
    shards: Sequence[tuple[Tensor, str]],
    in_features: int,
    bias: Tensor | None,
    *,
    float_output: bool = False,
    gate: str | None = None,
) -> None:
    """Plain torch does not multiply with quantized blocks."""
    return None


def embedding(ids: Tensor, weight: Tensor) -> Tensor:
    """Rows of weight [V, C] for ids [T] -> [T, C]."""
    return F.embedding(ids, weight)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight over the last dimension (Zhang and Sennrich 2019, arXiv 1910.07467)."""
    return F.rms_norm(x, weight.shape, weight, eps)


def gemma_rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """rms_norm with the factor (1 + weight), in float32 up to the last rounding as Gemma was trained."""
    return F.rms_norm(x.float(), weight.shape, weight.float() + 1.0, eps).to(x.dtype)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Layer normalization over the last dimension (Ba et al. 2016, arXiv 1607.06450)."""
    return F.layer_norm(x, weight.shape, weight, bias, eps)


def rotary_angles(positions: Tensor, inv_freq: Tensor, factor: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines, [T, 1, D/2] of `dtype`, of positions [T] times inv_freq float32 [D/2]; both times `factor`."""
    angles = (positions.float()[:, None] * inv_freq)[:, None, :]
    return (angles.cos() * factor).to(dtype), (angles.sin() * factor).to(dtype)


def rotary_embedding(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates the pairs (x[i], x[i + D/2]) of x [T, N, D] by the angles of cos, sin [T, 1, D/2] (arXiv 2104.09864)."""
    half = cos.shape[-1]
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    first, second = x[..., :half], x[..., half:]
    out_first, out_second = out[..., :half], out[..., half:]
    torch.mul(first, cos, out=out_first)
    out_first.addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=out_second)
    out_second.addcmul_(first, sin)
    return out


def silu_and_mul(x: Tensor) -> Tensor:
    """silu(first half) * second half of the last dimension: [T, 2C] -> [T, C]."""
    gate, up = x.chunk(2, dim=-1)
    return F.silu(gate).mul_(up)


def gelu_and_mul(x: Tensor) -> Tensor:
    """gelu(first half) * second half of the last dimension: [T, 2C] -> [T, C]."""
    gate, up = x.chunk(2, dim=-1)
    return F.gelu(gate).mul_(up)


def gelu_tanh_and_mul(x: Tensor) -> Tensor:
    """gelu_and_mul with the tanh approximation of gelu."""
    gate, up = x.chunk(2, dim=-1)
    return F.gelu(gate, approximate="tanh").mul_(up)


_GATES: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": silu_and_mul,
    "gelu": gelu_and_mul,
    "gelu_tanh": gelu_tanh_and_mul,
}


def relu(x: Tensor) -> Tensor:
    return F.relu(x)


def gelu(x: Tensor) -> Tensor:
    return F.gelu(x)


def add(x: Tensor, y: Tensor) -> Tensor:
    return x + y


def scale(x: Tensor, factor: float) -> Tensor:
    return x * factor
