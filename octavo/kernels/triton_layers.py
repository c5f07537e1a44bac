"""The kernels of the layers in Triton: norms, rotation, activations, sums, rows of tables. For NVIDIA and AMD GPUs.

Twins of the functions of torch_ops: same arguments, results of the dtype of `x`, rounded once from float32 (torch_ops
rounds some intermediate results as well). Rows may lie anywhere, numbers of a row next to each other: views of a wider
tensor (q and k within qkv) are taken as they are. Linear layers and sampling have rooms of their own.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from octavo.kernels.triton_launch import launch_dependent, next_power_of_2

_RMS, _GEMMA_RMS, _LAYER = (tl.constexpr(kind) for kind in range(3))
IDENTITY, SILU, GELU, GELU_TANH, RELU = (tl.constexpr(name) for name in range(5))
_TILE = 1024  # elements of a program whose work is element by element


@triton.jit
def overlap(PDL: tl.constexpr):
    """The successor may start, and what was launched before this kernel is complete."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()


@triton.jit
def activate(x, NAME: tl.constexpr):
    """An activation function of float32 numbers, by the constants above."""
    if NAME == SILU:
        y = x * tl.sigmoid(x)
    elif NAME == GELU:
        y = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    elif NAME == GELU_TANH:  # 0.5 * (1 + tanh(u)) is sigmoid(2u)
        y = x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    elif NAME == RELU:
        y = tl.where(x < 0, 0.0, x)  # a NaN stays
    else:
        y = x
    return y


# ---- norms ----


@triton.jit(do_not_specialize=["rows"])
def norm_kernel(
    x_ptr, weight_ptr, bias_ptr, y_ptr, rows, groups, x_stride, x_group_stride, eps,
    C: tl.constexpr, KIND: tl.constexpr, BR: tl.constexpr, BC: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """BR rows a program, each as a whole. Row r is group r % groups of x[r // groups]; y is contiguous."""
    row = tl.program_id(0).to(tl.int64) * BR + tl.arange(0, BR)
    c = tl.arange(0, BC)
    inside = (row < rows)[:, None] & (c < C)[None, :]
    weight = tl.load(weight_ptr + c, mask=c < C, other=0.0).to(tl.float32)
    if KIND == _LAYER:
        bias = tl.load(bias_ptr + c, mask=c < C, other=0.0).to(tl.float32)
    overlap(PDL)
    x_at = (row // groups) * x_stride + (row % groups) * x_group_stride
    x = tl.load(x_ptr + x_at[:, None] + c[None, :], mask=inside, other=0.0).to(tl.float32)
    if KIND == _LAYER:
        x = tl.where(inside, x - (tl.sum(x, 1) / C)[:, None], 0.0)
    y = x * tl.rsqrt(tl.sum(x * x, 1) / C + eps)[:, None]
    if KIND == _GEMMA_RMS:
        y = y * (1.0 + weight)[None, :]
    else:
        y = y * weight[None, :]
    if KIND == _LAYER:
        y += bias[None, :]
    tl.store(y_ptr + (row * C)[:, None] + c[None, :], y.to(y_ptr.dtype.element_ty), mask=inside)


def _norm(kind: tl.constexpr, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """Over the last dimension of x [T, C] or [T, N, C]."""
    channels = x.shape[-1]
    groups, group_stride = (x.shape[1], x.stride(1)) if x.dim() == 3 else (1, 0)
    assert x.dim() in (2, 3)
    assert x.stride(-1) == 1 or channels == 1
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    rows, width = x.shape[0] * groups, next_power_of_2(channels)
    block_rows = max(1, min(16, 1024 // width))
    launch_dependent(
        norm_kernel,
        (triton.cdiv(rows, block_rows),),
        x,
        weight,
        weight if bias is None else bias,
        y,
        rows,
        groups,
        x.stride(0),
        group_stride,
        eps,
        C=channels,
        KIND=kind,
        BR=block_rows,
        BC=width,
        num_warps=min(16, max(1, block_rows * width // 512)),
    )
    return y


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return _norm(_RMS, x, weight, None, eps)


def gemma_rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return _norm(_GEMMA_RMS, x, weight, None, eps)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return _norm(_LAYER, x, weight, bias, eps)


# ---- rotary embeddings ----


@triton.jit
def sine_and_cosine(angle):
    """Of float32 angles of any size, to float32 accuracy: the GPU's own instructions are exact near 0 alone.

    The angle is brought to [-pi/4, pi/4] in float64, where a multiple of pi/2 up to 2**20 has room to be exact enough.
    Polynomials: the Taylor series, whose first term left out is below 2**-28 there.
    """
    turn = angle.to(tl.float64) * 0.6366197723675814
    quarter = tl.floor(turn + 0.5)
    r = ((turn - quarter) * 1.5707963267948966).to(tl.float32)
    quadrant = quarter.to(tl.int64).to(tl.int32) & 3
    s = r * r
    sine = r * (1 + s * (-1 / 6 + s * (1 / 120 + s * (-1 / 5040 + s * (1 / 362880)))))
    cosine = 1 + s * (-1 / 2 + s * (1 / 24 + s * (-1 / 720 + s * (1 / 40320 - s * (1 / 3628800)))))
    odd = (quadrant & 1) == 1
    sign = tl.where(quadrant >= 2, -1.0, 1.0)
    return sign * tl.where(odd, cosine, sine), sign * tl.where(odd, -sine, cosine)


@triton.jit
def angles_kernel(
    positions_ptr, inv_freq_ptr, cos_ptr, sin_ptr, factor, H: tl.constexpr, BH: tl.constexpr, PDL: tl.constexpr
):
    """One position a program."""
    overlap(PDL)
    row = tl.program_id(0).to(tl.int64)
    h = tl.arange(0, BH)
    angle = tl.load(positions_ptr + row).to(tl.float32) * tl.load(inv_freq_ptr + h, mask=h < H, other=0.0)
    sine, cosine = sine_and_cosine(angle)
    tl.store(cos_ptr + row * H + h, (cosine * factor).to(cos_ptr.dtype.element_ty), mask=h < H)
    tl.store(sin_ptr + row * H + h, (sine * factor).to(sin_ptr.dtype.element_ty), mask=h < H)


def rotary_angles(positions: Tensor, inv_freq: Tensor, factor: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    rows, half = positions.shape[0], inv_freq.shape[0]
    cos, sin = torch.empty((2, rows, 1, half), dtype=dtype, device=positions.device)
    width = next_power_of_2(half)
    launch_dependent(angles_kernel, (rows,), positions, inv_freq, cos, sin, factor, H=half, BH=width, num_warps=1)
    return cos, sin


@triton.jit
def rotary_kernel(
    x_ptr, cos_ptr, sin_ptr, y_ptr, num_heads, x_stride, x_head_stride, angle_stride,
    D: tl.constexpr, H: tl.constexpr, BN: tl.constexpr, BH: tl.constexpr, BREST: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """BN heads of one token a program. Numbers of a head beyond the 2H rotated ones are copied; y is contiguous."""
    overlap(PDL)
    row = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    h = tl.arange(0, BH)
    inside = (n < num_heads)[:, None] & (h < H)[None, :]
    cosine = tl.load(cos_ptr + row * angle_stride + h, mask=h < H, other=0.0).to(tl.float32)[None, :]
    sine = tl.load(sin_ptr + row * angle_stride + h, mask=h < H, other=0.0).to(tl.float32)[None, :]
    x_at = x_ptr + row * x_stride + (n * x_head_stride)[:, None] + h[None, :]
    y_at = y_ptr + (row * num_heads + n)[:, None] * D + h[None, :]
    first = tl.load(x_at, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(x_at + H, mask=inside, other=0.0).to(tl.float32)
    tl.store(y_at, (first * cosine - second * sine).to(y_ptr.dtype.element_ty), mask=inside)
    tl.store(y_at + H, (second * cosine + first * sine).to(y_ptr.dtype.element_ty), mask=inside)
    if 2 * H < D:
        d = 2 * H + tl.arange(0, BREST)
        rest = (n < num_heads)[:, None] & (d < D)[None, :]
        x = tl.load(x_ptr + row * x_stride + (n * x_head_stride)[:, None] + d[None, :], mask=rest, other=0.0)
        tl.store(y_ptr + (row * num_heads + n)[:, None] * D + d[None, :], x, mask=rest)


def rotary_embedding(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    rows, num_heads, head_dim = x.shape
    half = cos.shape[-1]
    assert x.stride(-1) == cos.stride(-1) == sin.stride(-1) == 1
    assert cos.stride(0) == sin.stride(0)
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    width = next_power_of_2(half)
    heads = min(next_power_of_2(num_heads), max(1, 1024 // width))
    launch_dependent(
        rotary_kernel,
        (rows, triton.cdiv(num_heads, heads)),
        x,
        cos,
        sin,
        y,
        num_heads,
        x.stride(0),
        x.stride(1),
        cos.stride(0),
        D=head_dim,
        H=half,
        BN=heads,
        BH=width,
        BREST=next_power_of_2(max(head_dim - 2 * half, 1)),
    )
    return y


# ---- element by element ----


@triton.jit
def activation_kernel(
    x_ptr, y_ptr, C, x_stride, GATED: tl.constexpr, NAME: tl.constexpr, BC: tl.constexpr, PDL: tl.constexpr
):
    """BC channels of one row a program; y is contiguous."""
    overlap(PDL)
    row = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    y = activate(tl.load(x_ptr + row * x_stride + c, mask=c < C, other=0.0).to(tl.float32), NAME)
    if GATED:
        y *= tl.load(x_ptr + row * x_stride + C + c, mask=c < C, other=0.0).to(tl.float32)
    tl.store(y_ptr + row * C + c, y.to(y_ptr.dtype.element_ty), mask=c < C)


def _activation(x: Tensor, name: tl.constexpr, *, gated: bool) -> Tensor:
    assert x.dim() == 2
    assert x.stride(1) == 1 or x.shape[1] == 1
    rows, channels = x.shape[0], x.shape[1] // 2 if gated else x.shape[1]
    y = torch.empty((rows, channels), dtype=x.dtype, device=x.device)
    tile = min(_TILE, next_power_of_2(channels))
    grid = (rows, triton.cdiv(channels, tile))
    launch_dependent(activation_kernel, grid, x, y, channels, x.stride(0), GATED=gated, NAME=name, BC=tile)
    return y


def silu_and_mul(x: Tensor) -> Tensor:
    return _activation(x, SILU, gated=True)


def gelu_and_mul(x: Tensor) -> Tensor:
    return _activation(x, GELU, gated=True)


def gelu_tanh_and_mul(x: Tensor) -> Tensor:
    return _activation(x, GELU_TANH, gated=True)


def relu(x: Tensor) -> Tensor:
    return _activation(x, RELU, gated=False)


def gelu(x: Tensor) -> Tensor:
    return _activation(x, GELU, gated=False)


@triton.jit
def combine_kernel(
    x_ptr, y_ptr, z_ptr, C, x_stride, y_stride, factor, ADD: tl.constexpr, BC: tl.constexpr, PDL: tl.constexpr
):
    """z = x * factor + y, BC channels of one row a program; z is contiguous."""
    overlap(PDL)
    row = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    z = tl.load(x_ptr + row * x_stride + c, mask=c < C, other=0.0).to(tl.float32) * factor
    if ADD:
        z += tl.load(y_ptr + row * y_stride + c, mask=c < C, other=0.0).to(tl.float32)
    tl.store(z_ptr + row * C + c, z.to(z_ptr.dtype.element_ty), mask=c < C)


def _combine(x: Tensor, y: Tensor | None, factor: float) -> Tensor:
    assert x.dim() == 2
    assert x.stride(1) == 1 or x.shape[1] == 1
    assert y is None or (y.shape == x.shape and y.stride(1) == x.stride(1))
    rows, channels = x.shape
    z = torch.empty((rows, channels), dtype=x.dtype, device=x.device)
    tile = min(_TILE, next_power_of_2(channels))
    other, other_stride = (x, 0) if y is None else (y, y.stride(0))
    grid = (rows, triton.cdiv(channels, tile))
    launch_dependent(
        combine_kernel, grid, x, other, z, channels, x.stride(0), other_stride, factor, ADD=y is not None, BC=tile
    )
    return z


def add(x: Tensor, y: Tensor) -> Tensor:
    return _combine(x, y, 1.0)


def scale(x: Tensor, factor: float) -> Tensor:
    return _combine(x, None, factor)


@triton.jit
def embedding_kernel(ids_ptr, weight_ptr, y_ptr, V, C, weight_stride, BC: tl.constexpr, PDL: tl.constexpr):
    """BC channels of one id a program."""
    overlap(PDL)
    row = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    token = tl.load(ids_ptr + row).to(tl.int64)
    inside = (c < C) & (token >= 0) & (token < V)
    tl.store(y_ptr + row * C + c, tl.load(weight_ptr + token * weight_stride + c, mask=inside, other=0.0), mask=c < C)


def embedding(ids: Tensor, weight: Tensor) -> Tensor:
    """Rows of weight [V, C] for ids [T] -> [T, C]; zeros for an id outside [0, V), as padding may have one."""
    assert weight.stride(1) == 1 or weight.shape[1] == 1
    rows, (vocab_size, channels) = ids.shape[0], weight.shape
    y = torch.empty((rows, channels), dtype=weight.dtype, device=weight.device)
    tile = min(_TILE, next_power_of_2(channels))
    grid = (rows, triton.cdiv(channels, tile))
    launch_dependent(embedding_kernel, grid, ids, weight, y, vocab_size, channels, weight.stride(0), BC=tile)
    return y
