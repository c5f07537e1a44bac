"""Sampling in Triton: argmax, truncation, the draw. Rows of logits and of parameters in, tokens out; never a wait.

A row is cut into blocks of 4096 logits. A program looks at one block of one row, and what blocks found is put together
by the next kernel in the order of the blocks, so a row's token is a function of its logits and parameters
alone, and the size of the batch only says how many programs there are. All launches are known before the data is, as
CUDA graphs need it.

top_k and top_p need no sort: each is a lowest logit that is kept, and that is found digit by digit. Logits become
integers of the same order (the bits of a float, with those of negative numbers turned round); every one of eight
passes counts, or weighs, what lies above 16 candidates, and so settles four bits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo.kernels.triton_launch import gpu_traits, launch_dependent, next_power_of_2
from octavo.kernels.triton_layers import overlap

BLOCK = 4096  # logits of one program
_SMALL_BLOCK = 1024  # where rows are so few that larger blocks would leave processors without one
_LOWEST = tl.constexpr(-(2**31))
_DIGITS, _PASSES = tl.constexpr(16), 8
_BEFORE_ALL = tl.constexpr(-(2**63))


@triton.jit
def order_key(x):
    """int32 of float32, in the same order; -0.0 as 0.0, NaN as minus infinity."""
    bits = tl.where(x == x, x + 0.0, float("-inf")).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def key_value(key):
    """The float32 of an `order_key`."""
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def ranked(key, column):
    """int64 of a key and its column: greater for greater keys, and for the lower column among equals."""
    return (key.to(tl.int64) << 32) | (0x7FFFFFFF - column).to(tl.int64)


@triton.jit
def column_of(rank):
    return 0x7FFFFFFF - (rank & 0xFFFFFFFF)


@triton.jit
def load_block(x_ptr, row, block, stride, V: tl.constexpr, B: tl.constexpr):
    """Columns, which of them exist, and float32 logits of a block; -inf beyond the end."""
    column = block * B + tl.arange(0, B)
    x = tl.load(x_ptr + row.to(tl.int64) * stride + column, mask=column < V, other=float("-inf")).to(tl.float32)
    return column, column < V, x


@triton.jit
def best_of_blocks(best_ptr, row, NB: tl.constexpr, BNB: tl.constexpr):
    """The rank of the row's largest logit."""
    b = tl.arange(0, BNB)
    return tl.max(tl.load(best_ptr + row * NB + b, mask=b < NB, other=_BEFORE_ALL), 0)


# ---- argmax ----


@triton.jit
def block_best_kernel(x_ptr, best_ptr, stride, V: tl.constexpr, NB: tl.constexpr, B: tl.constexpr, PDL: tl.constexpr):
    overlap(PDL)
    row, block = tl.program_id(0), tl.program_id(1)
    column, exists, x = load_block(x_ptr, row, block, stride, V, B)
    tl.store(best_ptr + row * NB + block, tl.max(tl.where(exists, ranked(order_key(x), column), _BEFORE_ALL), 0))


@triton.jit
def best_kernel(best_ptr, token_ptr, NB: tl.constexpr, BNB: tl.constexpr, PDL: tl.constexpr):
    overlap(PDL)
    row = tl.program_id(0)
    tl.store(token_ptr + row, column_of(best_of_blocks(best_ptr, row, NB, BNB)))


def num_blocks(vocab_size: int, block: int = BLOCK) -> int:
    return triton.cdiv(vocab_size, block)


def _block_best(logits: Tensor, block: int) -> Tensor:
    """[R, blocks] int64: the rank of the largest logit of each block."""
    assert logits.stride(1) == 1
    (rows, vocab_size), blocks = logits.shape, num_blocks(logits.shape[1], block)
    best = torch.empty((rows, blocks), dtype=torch.int64, device=logits.device)
    grid = (rows, blocks)
    launch_dependent(
        *(block_best_kernel, grid, logits, best, logits.stride(0)),
        V=vocab_size,
        NB=blocks,
        B=block,
        num_warps=max(4, block // 512),
    )
    return best


def argmax(x: Tensor) -> Tensor:
    """The lowest index of the largest of each row of x [R, V], of any float dtype -> int64 [R]. A NaN is never it."""
    rows, vocab_size = x.shape
    few = rows * num_blocks(vocab_size) < gpu_traits(x.device).num_processors
    best = _block_best(x, _SMALL_BLOCK if few else BLOCK)
    tokens = torch.empty((rows,), dtype=torch.int64, device=x.device)
    blocks = best.shape[1]
    launch_dependent(best_kernel, (rows,), best, tokens, NB=blocks, BNB=next_power_of_2(blocks), num_warps=1)
    return tokens


# ---- top_k and top_p ----


@triton.jit
def weights_of(x, exists, largest, temperature, min_p):
    """exp((x - largest) / temperature), 1 for the largest and 0 for what `min_p` cuts off."""
    w = tl.exp(tl.where(x == largest, 0.0, (x - largest) / temperature))
    return tl.where(exists & (x == x) & (w >= min_p), w, 0.0)


@triton.jit
def settled(sums_ptr, row, lo, step, goal, NB: tl.constexpr, BNB: tl.constexpr):
    """What a pass found: the greatest of lo + j * step above which the blocks have `goal` or more together."""
    b = tl.arange(0, BNB)[:, None]
    j = tl.arange(0, _DIGITS)
    sums = tl.load(sums_ptr + (row * NB + b) * _DIGITS + j[None, :], mask=b < NB, other=0.0)
    enough = (tl.sum(sums.to(tl.float64), 0) >= goal) & (j > 0)
    return (lo.to(tl.int64) + tl.sum(enough.to(tl.int64), 0) * step).to(tl.int32)


@triton.jit
def top_p_goal(
    sums_ptr, counts_ptr, row, top_k, top_p, above, largest, temperature, NB: tl.constexpr, BNB: tl.constexpr
):
    """The weight that top_p wants: its share of that of the `top_k` tokens; of equals of the last, some."""
    b = tl.arange(0, BNB)
    weight = tl.sum(tl.load(sums_ptr + (row * NB + b) * _DIGITS, mask=b < NB, other=0.0).to(tl.float64), 0)
    count = tl.sum(tl.load(counts_ptr + row * NB + b, mask=b < NB, other=0.0), 0)
    of_last = tl.exp((key_value(above) - largest) / temperature)
    weight += tl.where(above == _LOWEST, 0.0, (top_k - count) * of_last)
    return top_p.to(tl.float64) * weight


@triton.jit(
    do_not_specialize=["number"],  # else each pass, and each row of what they leave, would be compiled anew
    do_not_specialize_on_alignment=["last_sums_ptr", "sums_ptr", "last_state_ptr", "state_ptr"],
)
def narrow_kernel(
    x_ptr, best_ptr, temperature_ptr, min_p_ptr, top_k_ptr, top_p_ptr, above_ptr, last_sums_ptr, sums_ptr, counts_ptr,
    last_state_ptr, state_ptr, goal_ptr, stride, number, TOP_K: tl.constexpr,
    V: tl.constexpr, NB: tl.constexpr, BNB: tl.constexpr, B: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Pass `number` of the search for the lowest key kept by top_k (TOP_K) or top_p, over one block of one row.

    It settles the digit of the pass before, and weighs what is at or above lo + j * 16**(7 - number): sums [R, NB, 16],
    states [R] are lo. `above` [R] is the key that top_k found: what lies below it does not count for top_p. Sum 0 of
    pass 0 is the weight of what is above it, and `counts` [R, NB] the number of tokens there. Pass 8 settles only.
    """
    overlap(PDL)
    row, block = tl.program_id(0), tl.program_id(1)
    temperature = tl.load(temperature_ptr + row)
    top_k = tl.load(top_k_ptr + row)
    top_p = tl.load(top_p_ptr + row)
    if TOP_K:
        wanted = (temperature > 0) & (top_k > 0) & (top_k < V)
    else:
        wanted = (temperature > 0) & (top_p < 1)
    if wanted:
        largest = key_value((best_of_blocks(best_ptr, row, NB, BNB) >> 32).to(tl.int32))
        above = tl.load(above_ptr + row)
        lo = tl.full([], _LOWEST, tl.int32)
        if number > 0:
            if TOP_K:
                goal = top_k.to(tl.float64)
            elif number == 1:
                goal = top_p_goal(last_sums_ptr, counts_ptr, row, top_k, top_p, above, largest, temperature, NB, BNB)
                if block == 0:
                    tl.store(goal_ptr + row, goal)
            else:
                goal = tl.load(goal_ptr + row)
            lo = settled(
                last_sums_ptr,
                row,
                tl.load(last_state_ptr + row),
                tl.full([], 1, tl.int64) << (32 - 4 * number),
                goal,
                NB,
                BNB,
            )
        if block == 0:
            tl.store(state_ptr + row, lo)
        if number < 8:
            _, exists, x = load_block(x_ptr, row, block, stride, V, B)
            key = order_key(x)
            value = weights_of(x, exists, largest, temperature, tl.load(min_p_ptr + row))
            value = tl.where(key >= above, value, 0.0)
            if number == 0:
                tl.store(counts_ptr + row * NB + block, tl.sum(tl.where((value > 0) & (key > above), 1.0, 0.0), 0))
            if TOP_K:
                value = tl.where(value > 0, 1.0, 0.0)
            at = sums_ptr + (row * NB + block) * _DIGITS
            tl.store(at, tl.sum(tl.where(key > above, value, 0.0), 0))
            for j in tl.static_range(1, 16):
                candidate = lo.to(tl.int64) + (tl.full([], j, tl.int64) << (28 - 4 * number))
                tl.store(at + j, tl.sum(tl.where(key >= candidate, value, 0.0), 0))
    elif block == 0:
        tl.store(state_ptr + row, _LOWEST)


# ---- the draw ----


@triton.jit
def kept_weights(x_ptr, floor_k_ptr, floor_p_ptr, temperature_ptr, min_p_ptr, row, block, largest, stride,
                 V: tl.constexpr, B: tl.constexpr):  # fmt: skip
    """Columns of a block, and the weights of those that nothing cuts off."""
    column, exists, x = load_block(x_ptr, row, block, stride, V, B)
    w = weights_of(x, exists, largest, tl.load(temperature_ptr + row), tl.load(min_p_ptr + row))
    floor = tl.maximum(tl.load(floor_k_ptr + row), tl.load(floor_p_ptr + row))
    return column, tl.where(order_key(x) >= floor, w, 0.0)


@triton.jit
def block_weight_kernel(
    x_ptr, best_ptr, floor_k_ptr, floor_p_ptr, temperature_ptr, min_p_ptr, sums_ptr, stride,
    V: tl.constexpr, NB: tl.constexpr, BNB: tl.constexpr, B: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """The weight of what is kept of each block; of greedy rows nothing is computed."""
    overlap(PDL)
    row, block = tl.program_id(0), tl.program_id(1)
    if tl.load(temperature_ptr + row) > 0:
        largest = key_value((best_of_blocks(best_ptr, row, NB, BNB) >> 32).to(tl.int32))
        _, w = kept_weights(
            x_ptr, floor_k_ptr, floor_p_ptr, temperature_ptr, min_p_ptr, row, block, largest, stride, V, B
        )  # fmt: skip
        tl.store(sums_ptr + row * NB + block, tl.sum(w, 0))


@triton.jit
def draw_kernel(
    x_ptr, best_ptr, floor_k_ptr, floor_p_ptr, temperature_ptr, min_p_ptr, sums_ptr, uniform_ptr, token_ptr,
    stride, V: tl.constexpr, NB: tl.constexpr, BNB: tl.constexpr, B: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """The first token at which the weights, summed from column 0 on, exceed a random share of them all."""
    overlap(PDL)
    row = tl.program_id(0)
    best = best_of_blocks(best_ptr, row, NB, BNB)
    token = column_of(best)
    if tl.load(temperature_ptr + row) > 0:
        b = tl.arange(0, BNB)
        sums = tl.load(sums_ptr + row * NB + b, mask=b < NB, other=0.0).to(tl.float64)
        up_to = tl.cumsum(sums, 0)
        target = tl.load(uniform_ptr + row) * tl.max(up_to, 0)
        # Where rounding leaves nothing above the target, the last that has a weight is taken.
        block = tl.minimum(tl.sum((up_to <= target).to(tl.int32), 0), tl.max(tl.where(sums > 0, b, 0), 0))
        column, w = kept_weights(
            x_ptr, floor_k_ptr, floor_p_ptr, temperature_ptr, min_p_ptr, row, block,
            key_value((best >> 32).to(tl.int32)), stride, V, B,
        )  # fmt: skip
        inside = target - tl.sum(tl.where(b < block, sums, 0.0), 0)
        first = block * B + tl.sum((tl.cumsum(w.to(tl.float64), 0) <= inside).to(tl.int32), 0)
        drawn = tl.minimum(first, tl.max(tl.where(w > 0, column, -1), 0))
        token = tl.where(drawn >= 0, drawn, token)
    tl.store(token_ptr + row, token)


def _floors(
    logits: Tensor, best: Tensor, params: tuple[Tensor, Tensor, Tensor, Tensor], above: Tensor, *, top_k: bool
) -> Tensor:
    """[R] int32: the lowest key that top_k, or top_p of what is not below `above`, keeps."""
    (rows, vocab_size), blocks = logits.shape, best.shape[1]
    device = logits.device
    sums = torch.empty((2, rows, blocks, _DIGITS.value), dtype=torch.float32, device=device)
    counts = torch.empty((rows, blocks), dtype=torch.float32, device=device)
    states = torch.empty((_PASSES + 1, rows), dtype=torch.int32, device=device)
    goals = torch.empty((rows,), dtype=torch.float64, device=device)
    for i in range(_PASSES + 1):
        launch_dependent(
            narrow_kernel,
            (rows, blocks if i < _PASSES else 1),
            logits,
            best,
            *params,
            above,
            sums[(i + 1) % 2],
            sums[i % 2],
            counts,
            states[max(i - 1, 0)],
            states[i],
            goals,
            logits.stride(0),
            i,
            TOP_K=top_k,
            V=vocab_size,
            NB=blocks,
            BNB=next_power_of_2(blocks),
            B=BLOCK,
            num_warps=8,
        )
    return states[_PASSES]


def sample(
    logits: Tensor,
    temperature: Tensor,
    min_p: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    uniforms: Tensor,
    *,
    any_top_k: bool = True,
    any_top_p: bool = True,
) -> Tensor:
    """One token for each row, each by its own parameters.

    Greedy rows get the argmax. For the others, in this order: temperature; min_p; top_k, where all tokens as likely as
    the k-th stay; top_p, the smallest set of most likely tokens with that share of what is left, where equals stay
    together as well; then a draw by the inverse of the cumulative distribution.

    Args:
        logits: [R, V] of any float dtype, numbers of a row side by side; not changed.
        temperature: [R] float32; 0 is greedy.
        min_p: [R] float32 in [0, 1], relative to the most likely token; 0 is off.
        top_k: [R] int32 or int64; 0, or V and above, is off.
        top_p: [R] float32 or float64 in (0, 1]; 1 is off.
        uniforms: [R] float64 in [0, 1).
        any_top_k: False when top_k is off in all rows, which saves its nine launches; `any_top_p` likewise.

    Returns:
        [R] int64 in [0, V). A NaN has no chance; a row of nothing but NaN or -inf gets some token.
    """
    (rows, vocab_size), device = logits.shape, logits.device
    best = _block_best(logits, BLOCK)
    blocks = best.shape[1]
    params = (temperature, min_p, top_k, top_p)
    nothing = torch.full((rows,), _LOWEST.value, dtype=torch.int32, device=device)
    floor_k = _floors(logits, best, params, nothing, top_k=True) if any_top_k else nothing
    floor_p = _floors(logits, best, params, floor_k, top_k=False) if any_top_p else nothing
    sums = torch.empty((rows, blocks), dtype=torch.float32, device=device)
    tokens = torch.empty((rows,), dtype=torch.int64, device=device)
    sizes = {"V": vocab_size, "NB": blocks, "BNB": next_power_of_2(blocks), "B": BLOCK, "num_warps": 8}
    args = (best, floor_k, floor_p, temperature, min_p, sums)
    launch_dependent(block_weight_kernel, (rows, blocks), logits, *args, logits.stride(0), **sizes)
    launch_dependent(draw_kernel, (rows,), logits, *args, uniforms, tokens, logits.stride(0), **sizes)
    return tokens
