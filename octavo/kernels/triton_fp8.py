"""Products of 8 bits on an NVIDIA GPU: x [M, K] @ weight [N, K]^T, both rounded to float8_e4m3fn.

Every row of x gets its own scale when it is multiplied, every row of the weight got one when it was loaded, so the
library's product (`torch._scaled_mm`) applies one of each to a sum. A kernel norms and rounds rows in one go. What is
here is for many tokens: reading the weight is then not what takes the time, or the tensor cores' rate in 8 bits counts.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from octavo.kernels import triton_layers
from octavo.kernels.torch_fp8 import FP8, FP8_MAX, SMALLEST_SCALE
from octavo.kernels.triton_launch import launch_dependent, next_power_of_2
from octavo.kernels.triton_layers import overlap

MIN_CAPABILITY = (8, 9)


@triton.jit
def round_rows_kernel(
    x_ptr, norm_ptr, q_ptr, scale_ptr, x_stride, eps, C: tl.constexpr, BC: tl.constexpr, NORM: tl.constexpr,
    MAX: tl.constexpr, SMALLEST: tl.constexpr, PDL: tl.constexpr
):  # fmt: skip
    """Program (row): its numbers, normed with NORM, divided by a scale that makes the largest one MAX."""
    row = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, BC)
    inside = c < C
    if NORM:
        factors = tl.load(norm_ptr + c, mask=inside, other=0.0).to(tl.float32)
    overlap(PDL)
    x = tl.load(x_ptr + row * x_stride + c, mask=inside, other=0.0).to(tl.float32)
    if NORM:
        x = x * tl.rsqrt(tl.sum(x * x, 0) / C + eps) * factors
    scale = tl.maximum(tl.max(tl.abs(x), 0) / MAX, SMALLEST)
    tl.store(scale_ptr + row, scale)
    rounded = tl.minimum(tl.maximum(x / scale, -MAX), MAX)
    tl.store(q_ptr + row * C + c, rounded.to(q_ptr.dtype.element_ty), mask=inside)


def round_rows(x: Tensor, norm: tuple[Tensor, float] | None = None) -> tuple[Tensor, Tensor]:
    """x [M, K] -> float8_e4m3fn [M, K] and float32 [M, 1], whose product is x, or x normed by weight and epsilon."""
    rows, channels = x.shape
    assert x.stride(1) == 1
    rounded = torch.empty(rows, channels, dtype=FP8, device=x.device)
    scales = torch.empty(rows, 1, dtype=torch.float32, device=x.device)
    width = next_power_of_2(channels)
    weight, eps = (x, 0.0) if norm is None else norm
    launch_dependent(
        round_rows_kernel,
        (rows,),
        *(x, weight, rounded, scales, x.stride(0), eps),
        C=channels,
        BC=width,
        NORM=norm is not None,
        MAX=FP8_MAX,
        SMALLEST=SMALLEST_SCALE,
        num_warps=min(16, max(4, width // 512)),
    )
    return rounded, scales


def scaled_linear(
    x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, norm: tuple[Tensor, float] | None = None
) -> Tensor:
    """norm(x) [M, K] @ (weight float8_e4m3fn [N, K] * scale float32 [N])^T + bias -> [M, N] of the dtype of x.

    The library wants multiples of 16 for N and K; a weight of other sizes is widened, each time.
    """
    if not len(x):
        return x.new_zeros(0, len(weight))
    if weight.shape[0] % 16 or weight.shape[1] % 16:
        wide = (weight.float() * scale[:, None]).to(x.dtype)
        return F.linear(x if norm is None else triton_layers.rms_norm(x, *norm), wide, bias)
    rounded, scales = round_rows(x, norm)
    y = torch._scaled_mm(
        rounded,
        weight.t(),
        scale_a=scales,
        scale_b=scale.view(1, -1),
        out_dtype=torch.bfloat16,  # the only one that the library has with a scale for each row
        use_fast_accum=True,
    )
    y = y.to(x.dtype)
    return y if bias is None else y.add_(bias)
