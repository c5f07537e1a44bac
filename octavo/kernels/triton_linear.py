"""Linear layers for few tokens in Triton: x [M, K] @ weight [N, K]^T where reading the weight is all the time it takes.

Three kernels, each deterministic: the whole of K belongs to one program, and nothing is summed with atomics.

* `fma_kernel`, M of 1 to 4: plain arithmetic. A program has a few rows of the weight, and loads its first tiles before
  it waits for its predecessor. The norm of x comes free: its scale is applied after the product.
* `mma_kernel`, M up to 16 and few rows: tensor cores; the warps of a program divide K, so that few rows still keep
  enough bytes in flight.
* `wide_kernel`, M up to 64 and many rows: tensor cores, with the rows of the weight as the long side of the tile.

What follows the product is fused into its store: bias, act(gate) * up, the sum with a residual. A weight of 8 bits is
made as wide as x when it is there, and its rows' scales are applied to the sums. Which kernel with which tile is for
`triton_tiles` to say; where it has none, cuBLAS or hipBLAS multiplies, `triton_fp8` in 8 bits, or `triton_gated`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from octavo.kernels import triton_fp8, triton_layers
from octavo.kernels.triton_gated import gated_linear, takes
from octavo.kernels.triton_launch import gpu_family, gpu_traits, launch_dependent, next_power_of_2
from octavo.kernels.triton_layers import GELU, GELU_TANH, IDENTITY, SILU, activate
from octavo.kernels.triton_tiles import (
    FmaTile,
    GatedTile,
    MmaTile,
    Tile,
    choose_fp8_tile,
    choose_gated_tile,
    choose_tile,
)

_ACTIVATIONS = {"": IDENTITY, "silu": SILU, "gelu": GELU, "gelu_tanh": GELU_TANH}
_NO_NORM, _RMS, _GEMMA_RMS = (tl.constexpr(kind) for kind in range(3))


@dataclass(frozen=True, slots=True)
class Norm:
    """The RMS norm of x before the product: weight [K]; `gemma`: its factor is 1 + weight."""

    weight: Tensor
    eps: float
    gemma: bool = False


@dataclass(frozen=True, slots=True)
class Gate:
    """Of the 2N rows of a weight, N make gates and N what they multiply: act(gate) * up.

    `interleaved`: gate and up by turns; else all gates come first. `activation`: silu, gelu or gelu_tanh.
    """

    activation: str
    interleaved: bool = False


@triton.jit
def _accumulate(acc, acc_up, squares, w, up, x, g, GATED: tl.constexpr, NORM: tl.constexpr):
    """Adds the products of one tile, element by element; the sums along K come at the end."""
    x = x.to(tl.float32)
    if NORM != _NO_NORM:
        squares += x * x
        g = g.to(tl.float32)
        if NORM == _GEMMA_RMS:
            g += 1.0
        x = x * g
    acc += w.to(tl.float32) * x
    if GATED:
        acc_up += up.to(tl.float32) * x
    return acc, acc_up, squares


@triton.jit
def _weights(w_ptr, up_ptr, norm_ptr, w_at, columns, K: tl.constexpr, GATED: tl.constexpr, NORM: tl.constexpr,
             TAIL: tl.constexpr):  # fmt: skip
    """A tile of the weight, of its up rows and of the norm's factors, at `columns`; TAIL: some are beyond K."""
    if TAIL:
        w = tl.load(w_ptr + w_at + columns, mask=columns < K, other=0.0, eviction_policy="evict_first")
    else:
        w = tl.load(w_ptr + w_at + columns, eviction_policy="evict_first")
    up = w
    g = w
    if GATED:
        if TAIL:
            up = tl.load(up_ptr + w_at + columns, mask=columns < K, other=0.0, eviction_policy="evict_first")
        else:
            up = tl.load(up_ptr + w_at + columns, eviction_policy="evict_first")
    if NORM != _NO_NORM:
        if TAIL:
            g = tl.load(norm_ptr + columns, mask=columns < K, other=0.0)
        else:
            g = tl.load(norm_ptr + columns)
    return w, up, g


@triton.jit
def fma_kernel(
    x_ptr, w_ptr, y_ptr, norm_ptr, scale_ptr, bias_ptr, residual_ptr, N, x_stride, w_stride, up_rows, residual_stride,
    eps, K: tl.constexpr, M: tl.constexpr, BM: tl.constexpr, ROW_STEP: tl.constexpr, NORM: tl.constexpr,
    GATED: tl.constexpr, ACT: tl.constexpr, SCALED: tl.constexpr, BIAS: tl.constexpr, RESIDUAL: tl.constexpr,
    BN: tl.constexpr, BK: tl.constexpr, PRE: tl.constexpr, STAGES: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """BN outputs a program. Output n has row n * ROW_STEP of the weight, and with GATED also the one `up_rows` below.

    PRE tiles of the weight are in registers before the wait. STAGES: depth of the pipeline over the other tiles, or 0:
    all of them unrolled.
    """
    if PDL:
        gdc_launch_dependents()
    FULL: tl.constexpr = K // BK * BK  # columns in whole tiles
    rn = tl.program_id(0) * BN + tl.arange(0, BN)
    n = tl.minimum(rn, N - 1)  # programs at the end read the last row again
    rm = tl.arange(0, BM)
    rk = tl.arange(0, BK)[None, None, :]
    w_at = (n.to(tl.int64) * ROW_STEP * w_stride)[None, :, None]
    up_ptr = w_ptr + up_rows * w_stride
    x_ptr += (tl.minimum(rm, M - 1) * x_stride)[:, None, None] + rk
    early = ()
    for i in tl.static_range(PRE):
        early = early + (_weights(w_ptr, up_ptr, norm_ptr, w_at, i * BK + rk, K, GATED, NORM, False),)
    if PDL:
        gdc_wait()
    acc = tl.zeros([BM, BN, BK], tl.float32)
    acc_up = tl.zeros([BM, BN, BK], tl.float32)
    squares = tl.zeros([BM, 1, BK], tl.float32)
    for i in tl.static_range(PRE):
        w, up, g = early[i]
        acc, acc_up, squares = _accumulate(acc, acc_up, squares, w, up, tl.load(x_ptr + i * BK), g, GATED, NORM)
    if STAGES == 0:
        for k in tl.static_range(PRE * BK, FULL, BK):
            w, up, g = _weights(w_ptr, up_ptr, norm_ptr, w_at, k + rk, K, GATED, NORM, False)
            acc, acc_up, squares = _accumulate(acc, acc_up, squares, w, up, tl.load(x_ptr + k), g, GATED, NORM)
    else:
        for k in tl.range(PRE * BK, FULL, BK, num_stages=STAGES):
            w, up, g = _weights(w_ptr, up_ptr, norm_ptr, w_at, k + rk, K, GATED, NORM, False)
            acc, acc_up, squares = _accumulate(acc, acc_up, squares, w, up, tl.load(x_ptr + k), g, GATED, NORM)
    if FULL < K:
        w, up, g = _weights(w_ptr, up_ptr, norm_ptr, w_at, FULL + rk, K, GATED, NORM, True)
        x = tl.load(x_ptr + FULL, mask=FULL + rk < K, other=0.0)
        acc, acc_up, squares = _accumulate(acc, acc_up, squares, w, up, x, g, GATED, NORM)
    out = tl.sum(acc, 2)
    out_up = tl.sum(acc_up, 2)
    if NORM != _NO_NORM:
        rms = tl.rsqrt(tl.sum(squares, 2) / K + eps)
        out *= rms
        out_up *= rms
    inside = (rn < N)[None, :] & (rm < M)[:, None]
    _finish(
        out, out_up, y_ptr, scale_ptr, bias_ptr, residual_ptr, N, up_rows, residual_stride, n[None, :], rm[:, None],
        inside, ROW_STEP, GATED, ACT, SCALED, BIAS, RESIDUAL,
    )  # fmt: skip


@triton.jit
def _finish(out, out_up, y_ptr, scale_ptr, bias_ptr, residual_ptr, N, up_rows, residual_stride, n, m, inside,
            ROW_STEP: tl.constexpr, GATED: tl.constexpr, ACT: tl.constexpr, SCALED: tl.constexpr, BIAS: tl.constexpr,
            RESIDUAL: tl.constexpr):  # fmt: skip
    """What follows the product: scale, bias, gate, residual; stores outputs n of tokens m, those that are `inside`."""
    if SCALED:
        out *= tl.load(scale_ptr + n * ROW_STEP)
        if GATED:
            out_up *= tl.load(scale_ptr + n * ROW_STEP + up_rows)
    if BIAS:
        out += tl.load(bias_ptr + n * ROW_STEP).to(tl.float32)
        if GATED:
            out_up += tl.load(bias_ptr + n * ROW_STEP + up_rows).to(tl.float32)
    if GATED:
        out = activate(out, ACT) * out_up
    if RESIDUAL:
        at = residual_ptr + m.to(tl.int64) * residual_stride + n
        out += tl.load(at, mask=inside, other=0.0).to(tl.float32)
        tl.store(at, out.to(residual_ptr.dtype.element_ty), mask=inside)
    else:
        tl.store(y_ptr + m.to(tl.int64) * N + n, out.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["M"])
def mma_kernel(
    x_ptr, w_ptr, y_ptr, scale_ptr, bias_ptr, residual_ptr, M, N, x_stride, w_stride, up_rows, residual_stride,
    K: tl.constexpr, ROW_STEP: tl.constexpr, GATED: tl.constexpr, ACT: tl.constexpr, SCALED: tl.constexpr,
    BIAS: tl.constexpr, RESIDUAL: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, KS: tl.constexpr,
    STAGES: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """BN outputs of up to BM tokens a program; KS parts of K are multiplied side by side and summed at the end.

    The successor may start when the loop is done: before, it would take shared memory that the next program needs.
    """
    if PDL:
        gdc_wait()
    KC: tl.constexpr = K // KS
    rn = tl.program_id(0) * BN + tl.arange(0, BN)
    n = tl.minimum(rn, N - 1)
    rk = tl.arange(0, BK)
    rm = tl.arange(0, BM)
    ks = tl.arange(0, KS)
    x_at = x_ptr + (rm * x_stride)[None, :, None] + (ks * KC)[:, None, None] + rk[None, None, :]
    w_at = w_ptr + (n.to(tl.int64) * ROW_STEP * w_stride)[None, None, :] + (ks * KC)[:, None, None] + rk[None, :, None]
    acc = tl.zeros([KS, BM, BN], tl.float32)
    acc_up = tl.zeros([KS, BM, BN], tl.float32)
    for k in tl.range(0, KC, BK, num_stages=STAGES):
        w = tl.load(w_at + k, eviction_policy="evict_first")
        x = tl.load(x_at + k, mask=(rm < M)[None, :, None], other=0.0)
        acc = tl.dot(x, w.to(x.dtype), acc)
        if GATED:
            up = tl.load(w_at + up_rows * w_stride + k, eviction_policy="evict_first")
            acc_up = tl.dot(x, up.to(x.dtype), acc_up)
    if PDL:
        gdc_launch_dependents()
    inside = (rn < N)[None, :] & (rm < M)[:, None]
    _finish(
        tl.sum(acc, 0), tl.sum(acc_up, 0), y_ptr, scale_ptr, bias_ptr, residual_ptr, N, up_rows, residual_stride,
        n[None, :], rm[:, None], inside, ROW_STEP, GATED, ACT, SCALED, BIAS, RESIDUAL,
    )  # fmt: skip


@triton.jit(do_not_specialize=["M"])
def wide_kernel(
    x_ptr, w_ptr, y_ptr, scale_ptr, bias_ptr, residual_ptr, M, N, x_stride, w_stride, up_rows, residual_stride,
    K: tl.constexpr, ROW_STEP: tl.constexpr, GATED: tl.constexpr, ACT: tl.constexpr, SCALED: tl.constexpr,
    BIAS: tl.constexpr, RESIDUAL: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    STAGES: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """BN outputs of up to BM tokens a program, with the outputs in the rows of the tensor cores' tile."""
    if PDL:
        gdc_wait()
    rn = tl.program_id(0) * BN + tl.arange(0, BN)
    n = tl.minimum(rn, N - 1)
    rk = tl.arange(0, BK)
    rm = tl.arange(0, BM)
    x_at = x_ptr + (rm * x_stride)[None, :] + rk[:, None]
    w_at = w_ptr + (n.to(tl.int64) * ROW_STEP * w_stride)[:, None] + rk[None, :]
    acc = tl.zeros([BN, BM], tl.float32)
    acc_up = tl.zeros([BN, BM], tl.float32)
    for k in tl.range(0, K, BK, num_stages=STAGES):
        w = tl.load(w_at + k, eviction_policy="evict_first")
        x = tl.load(x_at + k, mask=(rm < M)[None, :], other=0.0)
        acc = tl.dot(w.to(x.dtype), x, acc)
        if GATED:
            up = tl.load(w_at + up_rows * w_stride + k, eviction_policy="evict_first")
            acc_up = tl.dot(up.to(x.dtype), x, acc_up)
    if PDL:
        gdc_launch_dependents()
    inside = (rn < N)[:, None] & (rm < M)[None, :]
    _finish(
        acc, acc_up, y_ptr, scale_ptr, bias_ptr, residual_ptr, N, up_rows, residual_stride, n[:, None], rm[None, :],
        inside, ROW_STEP, GATED, ACT, SCALED, BIAS, RESIDUAL,
    )  # fmt: skip


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    scale: Tensor | None = None,
    norm: Norm | None = None,
    gate: Gate | None = None,
    residual: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    tile: Tile | None = None,
) -> Tensor:
    """x [M, K] -> [M, N]: norm(x) @ weight^T + bias, gated, and added to the residual where there is one.

    Args:
        x: rows of K numbers side by side.
        weight: [N, K], or [2N, K] with a gate; of the dtype of x, or float8_e4m3fn.
        scale: float32, what each row of a weight of 8 bits is multiplied with.
        bias: one number for each row of the weight.
        residual: [M, N]; overwritten with the sum, and returned.
        out_dtype: of the result, where there is no residual; default: that of x.
        tile: in place of the one that `choose_tile` has for this size.
    """
    num_tokens, in_features = x.shape
    size = weight.shape[0] if gate is None else weight.shape[0] // 2
    assert weight.dtype is (x.dtype if scale is None else torch.float8_e4m3fn)
    assert weight.shape[1] == in_features
    assert x.stride(1) == weight.stride(1) == 1
    assert residual is None or (residual.shape == (num_tokens, size) and residual.stride(1) == 1)
    if tile is None:
        choose = choose_tile if scale is None else choose_fp8_tile
        tile = choose(gpu_family(x.device), x.dtype, num_tokens, size, in_features, gated=gate is not None)
    if tile is None:
        return _library(x, weight, bias, scale, norm, gate, residual, out_dtype or x.dtype)
    if norm is not None and not isinstance(tile, FmaTile):
        x, norm = _normed(x, norm), None
    if residual is None:
        y = torch.empty((num_tokens, size), dtype=out_dtype or x.dtype, device=x.device)
    else:
        y = residual
    _start(tile, x, weight, y, bias, scale, norm, gate, residual)
    return y


def _start(
    tile: Tile,
    x: Tensor,
    weight: Tensor,
    y: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    norm: Norm | None,
    gate: Gate | None,
    residual: Tensor | None,
) -> None:
    """The kernel of the tile."""
    num_tokens, size = y.shape
    interleaved = gate is not None and gate.interleaved
    sizes = (x.stride(0), weight.stride(0), 1 if interleaved else size, y.stride(0))
    fused = {
        "K": x.shape[1],
        "ROW_STEP": 2 if interleaved else 1,
        "GATED": gate is not None,
        "ACT": _ACTIVATIONS["" if gate is None else gate.activation],
        "SCALED": scale is not None,
        "BIAS": bias is not None,
        "RESIDUAL": residual is not None,
        "BN": tile.outputs,
        "BK": tile.columns,
        "STAGES": tile.stages,
        "num_warps": tile.warps,
    }
    grid = (triton.cdiv(size, tile.outputs),)
    after = (y if scale is None else scale, y if bias is None else bias, y)  # y stands for one that is not there
    if isinstance(tile, FmaTile):
        kind = _NO_NORM if norm is None else _GEMMA_RMS if norm.gemma else _RMS
        factors, eps = (y, 0.0) if norm is None else (norm.weight, norm.eps)
        early = min(tile.early, x.shape[1] // tile.columns)
        tokens = {"M": num_tokens, "BM": next_power_of_2(num_tokens)}
        launch_dependent(
            fma_kernel, grid, x, weight, y, factors, *after, size, *sizes, eps, NORM=kind, PRE=early, **tokens, **fused
        )
        return
    if isinstance(tile, MmaTile):
        kernel, constants = mma_kernel, {"BM": 16, "KS": tile.parts}
    else:
        kernel, constants = wide_kernel, {"BM": 16 if num_tokens <= 16 else 64}
    launch_dependent(kernel, grid, x, weight, y, *after, num_tokens, size, *sizes, **constants, **fused)


def _normed(x: Tensor, norm: Norm) -> Tensor:
    normalize = triton_layers.gemma_rms_norm if norm.gemma else triton_layers.rms_norm
    return normalize(x, norm.weight, norm.eps)


def _library(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    norm: Norm | None,
    gate: Gate | None,
    residual: Tensor | None,
    out_dtype: torch.dtype,
) -> Tensor:
    """The same by the library's product, with kernels of their own for what stands around it; or by `triton_gated`.

    The product is added to a residual before it is rounded, in the same launch, where nothing comes between.
    For tensors without memory the library is left alone: to tell a shape torch would load what traces programs, which
    takes longer than the rest of compiling ahead.
    """
    fused = (norm.weight, norm.eps) if scale is not None and norm is not None and not norm.gemma else None
    if norm is not None and fused is None:
        x = _normed(x, norm)
    plain = scale is None and bias is None and gate is None
    if plain and residual is not None:
        return residual if x.is_meta else residual.addmm_(x, weight.t())
    if plain and out_dtype == torch.float32 != x.dtype and x.is_cuda and torch.version.hip is None:
        return torch.mm(x, weight.t(), out_dtype=torch.float32)
    if gate is None:
        y = _multiplied(x, weight, bias, scale, fused)
    elif scale is None and bias is None and (tile := _gated_tile(x, weight, gate)) is not None:
        y = gated_linear(x, weight, _ACTIVATIONS[gate.activation], tile)
    else:
        y = _multiplied(x, weight, bias, scale, fused)
        if gate.interleaved:
            y = y.unflatten(1, (-1, 2)).transpose(1, 2).flatten(1)
        y = getattr(triton_layers, f"{gate.activation}_and_mul")(y)
    return y.to(out_dtype) if residual is None else residual.add_(y)


def _multiplied(
    x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor | None, norm: tuple[Tensor, float] | None
) -> Tensor:
    if scale is not None:
        return triton_fp8.scaled_linear(x, weight, scale, bias, norm=norm)
    return x.new_empty(x.shape[0], weight.shape[0]) if x.is_meta else F.linear(x, weight, bias)


def _gated_tile(x: Tensor, weight: Tensor, gate: Gate) -> GatedTile | None:
    if gate.interleaved or not takes(x, weight):
        return None
    processors = gpu_traits(x.device).num_processors
    return choose_gated_tile(gpu_family(x.device), processors, x.dtype, x.shape[0], weight.shape[0] // 2)
