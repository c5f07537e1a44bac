"""act(x @ gates^T) * (x @ ups^T) for many tokens in Triton, where the tensor cores are the limit.

The library's product writes gates and ups, which a kernel of its own then reads: three times the bytes of the result,
and of the order of a third of the product's time where K is short. Here a tile of both meets in the registers of one
program, and the result alone is written. As fast as the library's product alone: one instruction multiplies with gates
and ups together, which a tensor descriptor of three dimensions brings side by side, and the programs stay, so that
the first tiles of the next result are read while the last one is written.

Needs the copy engine of Hopper. Which sizes it pays for is for `triton_tiles` to say.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait
from triton.tools.tensor_descriptor import TensorDescriptor

from octavo.kernels.triton_launch import gpu_traits, launch_dependent
from octavo.kernels.triton_layers import activate
from octavo.kernels.triton_tiles import GatedTile


@triton.jit(do_not_specialize=["M"])
def gated_kernel(
    x_tiles, w_tiles, y_tiles, M, N, K: tl.constexpr, ACT: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    BK: tl.constexpr, GROUP: tl.constexpr, STAGES: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Results [BM, BN], by turns with the other programs; GROUP rows of tiles go through all columns together.

    x_tiles of [M, K], w_tiles of [2, N, K] and y_tiles of [M, N] are descriptors: what is beyond the edges reads as 0,
    and is not written.
    """
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    num_m = tl.cdiv(M, BM)
    num_n = tl.cdiv(N, BN)
    for tile in tl.range(tl.program_id(0), num_m * num_n, tl.num_programs(0), flatten=True):
        first = tile // (GROUP * num_n) * GROUP
        rows = tl.minimum(num_m - first, GROUP)
        m = (first + tile % (GROUP * num_n) % rows) * BM
        n = tile % (GROUP * num_n) // rows * BN
        acc = tl.zeros([BM, 2 * BN], tl.float32)
        for k in tl.range(0, K, BK, num_stages=STAGES):
            x = x_tiles.load([m, k])
            w = w_tiles.load([0, n, k]).reshape(2 * BN, BK)
            acc = tl.dot(x, w.T, acc)
        gate, up = tl.split(acc.reshape(BM, 2, BN).permute(0, 2, 1))
        y_tiles.store([m, n], (activate(gate, ACT) * up).to(y_tiles.dtype))


def takes(x: Tensor, weight: Tensor) -> bool:
    """Whether descriptors can be made of x [M, K] and weight [2N, K]: rows begin at multiples of 16 bytes."""
    rows = (x.stride(0), weight.stride(0), weight.shape[0] // 2)
    return all(numbers % 8 == 0 for numbers in rows) and x.data_ptr() % 16 == weight.data_ptr() % 16 == 0


def gated_linear(x: Tensor, weight: Tensor, activation: tl.constexpr, tile: GatedTile) -> Tensor:
    """x [M, K], weight [2N, K] with the gates first -> [M, N], all of one dtype of 16 bits.

    `activation` is one of the constants of triton_layers.
    """
    (num_tokens, k), size = x.shape, weight.shape[0] // 2
    y = torch.empty((num_tokens, size), dtype=x.dtype, device=x.device)
    num_tiles = triton.cdiv(num_tokens, tile.tokens) * triton.cdiv(size, tile.outputs)
    launch_dependent(
        gated_kernel,
        (min(num_tiles, gpu_traits(x.device).num_processors),),
        TensorDescriptor.from_tensor(x, [tile.tokens, tile.columns]),
        TensorDescriptor.from_tensor(weight.unflatten(0, (2, size)), [2, tile.outputs, tile.columns]),
        TensorDescriptor.from_tensor(y, [tile.tokens, tile.outputs]),
        num_tokens,
        size,
        K=k,
        ACT=activation,
        BM=tile.tokens,
        BN=tile.outputs,
        BK=tile.columns,
        GROUP=tile.group,
        STAGES=tile.stages,
        num_warps=tile.warps,
    )
    return y
