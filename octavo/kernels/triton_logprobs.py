"""Log probabilities in Triton: of chosen tokens with their ranks, and of the few most likely ones. No sort, no wait.

Like sampling: a program for each block of 4096 logits of a row, then one for each row that puts blocks together.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo.kernels.triton_launch import launch_dependent, next_power_of_2
from octavo.kernels.triton_layers import overlap
from octavo.kernels.triton_sampling import BLOCK, column_of, key_value, load_block, num_blocks, order_key, ranked

_BEFORE_ALL = tl.constexpr(-(2**63))


@triton.jit
def block_logprobs_kernel(
    x_ptr, token_ptr, largest_ptr, sum_ptr, greater_ptr, top_ptr, stride, V: tl.constexpr, NB: tl.constexpr,
    N: tl.constexpr, B: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Of a block: its largest logit, the sum of exp(x - that), how many exceed the chosen one's, and its N greatest."""
    overlap(PDL)
    row, block = tl.program_id(0), tl.program_id(1)
    column, exists, x = load_block(x_ptr, row, block, stride, V, B)
    x = tl.where(x == x, x, float("-inf"))
    chosen = tl.load(x_ptr + row.to(tl.int64) * stride + tl.load(token_ptr + row)).to(tl.float32)
    largest = tl.max(x, 0)
    at = row * NB + block
    tl.store(largest_ptr + at, largest)
    tl.store(sum_ptr + at, tl.sum(tl.where(exists, tl.exp(tl.where(x == largest, 0.0, x - largest)), 0.0), 0))
    tl.store(greater_ptr + at, tl.sum((exists & (x > chosen)).to(tl.int32), 0))
    rank = tl.where(exists, ranked(order_key(x), column), _BEFORE_ALL)
    for i in tl.range(N):
        best = tl.max(rank, 0)
        rank = tl.where(rank == best, _BEFORE_ALL, rank)
        tl.store(top_ptr + at * N + i, best)


@triton.jit
def logprobs_kernel(
    x_ptr, token_ptr, largest_ptr, sum_ptr, greater_ptr, top_ptr, id_ptr, logprob_ptr, rank_ptr, stride,
    NB: tl.constexpr, BNB: tl.constexpr, N: tl.constexpr, BTOP: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One row: the chosen token at column 0, the N most likely after it."""
    overlap(PDL)
    row = tl.program_id(0)
    b = tl.arange(0, BNB)
    largest = tl.load(largest_ptr + row * NB + b, mask=b < NB, other=float("-inf"))
    top = tl.max(largest, 0)
    scaled = tl.exp(tl.where(largest == top, 0.0, largest - top))
    normalizer = top + tl.log(tl.sum(tl.load(sum_ptr + row * NB + b, mask=b < NB, other=0.0) * scaled, 0))
    token = tl.load(token_ptr + row).to(tl.int64)
    tl.store(id_ptr + row * (N + 1), token)
    chosen = tl.load(x_ptr + row.to(tl.int64) * stride + token).to(tl.float32)
    tl.store(logprob_ptr + row * (N + 1), chosen - normalizer)
    tl.store(rank_ptr + row, tl.sum(tl.load(greater_ptr + row * NB + b, mask=b < NB, other=0), 0).to(tl.int64) + 1)
    c = tl.arange(0, BTOP)
    rank = tl.load(top_ptr + row * NB * N + c, mask=c < NB * N, other=_BEFORE_ALL)
    for i in tl.range(N):
        best = tl.max(rank, 0)
        rank = tl.where(rank == best, _BEFORE_ALL, rank)
        tl.store(id_ptr + row * (N + 1) + 1 + i, column_of(best))
        tl.store(logprob_ptr + row * (N + 1) + 1 + i, key_value((best >> 32).to(tl.int32)) - normalizer)


def gather_logprobs(logits: Tensor, token_ids: Tensor, num_top: int) -> tuple[Tensor, Tensor, Tensor]:
    """Log probabilities of the chosen and of the most likely tokens of each row.

    Args:
        logits: [R, V] of any float dtype, numbers of a row side by side. A NaN counts as -inf.
        token_ids: [R] int64 in [0, V).
        num_top: how many of the most likely tokens, in [0, V]; work grows with it, so it is for some dozens.

    Returns:
        ids [R, num_top + 1] int64: the chosen one, then the most likely, of equals the lower id first;
        logprobs [R, num_top + 1] float32; ranks [R] int64 of the chosen tokens: 1 plus the number of greater logits.
    """
    (rows, vocab_size), device = logits.shape, logits.device
    assert logits.stride(1) == 1
    blocks = num_blocks(vocab_size)
    largest, sums = torch.empty((2, rows, blocks), dtype=torch.float32, device=device)
    greater = torch.empty((rows, blocks), dtype=torch.int32, device=device)
    tops = torch.empty((rows, blocks, max(num_top, 1)), dtype=torch.int64, device=device)
    ids = torch.empty((rows, num_top + 1), dtype=torch.int64, device=device)
    logprobs = torch.empty((rows, num_top + 1), dtype=torch.float32, device=device)
    ranks = torch.empty((rows,), dtype=torch.int64, device=device)
    args = (token_ids, largest, sums, greater, tops)
    stride = logits.stride(0)
    grid = (rows, blocks)
    launch_dependent(
        block_logprobs_kernel, grid, logits, *args, stride, V=vocab_size, NB=blocks, N=num_top, B=BLOCK, num_warps=8
    )
    widths = {
        "NB": blocks,
        "BNB": next_power_of_2(blocks),
        "N": num_top,
        "BTOP": next_power_of_2(blocks * max(num_top, 1)),
    }
    launch_dependent(logprobs_kernel, (rows,), logits, *args, ids, logprobs, ranks, stride, **widths)
    return ids, logprobs, ranks
