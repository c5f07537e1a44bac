"""The random choice: inverse-CDF sampling of one index per row. Knows weights and uniform numbers, nothing else."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_BLOCK = 256  # weights summed in one piece; a cumulative sum over whole rows in float64 costs 20 times as much


def block_sums(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Cut rows [R, V] into blocks [R, B, 256], zeros at the end, and sum these: [R, B] float64, running along B.

    The order of the additions does not depend on R, so a row has the same sums in any batch.
    """
    blocks = functional.pad(weights, (0, -weights.shape[1] % _BLOCK)).view(weights.shape[0], -1, _BLOCK)
    return blocks, blocks.sum(-1).double().cumsum(-1)


def _first_above(cumulative: Tensor, targets: Tensor) -> Tensor:
    """[R, 1]: the first index of each row whose value is above the row's target [R, 1].

    Rounding can lift a target to the row's total, where no index is left; it is kept below. An index that is found
    has a weight above 0, as the running sum grows there.
    """
    last = cumulative[:, -1:]
    below = torch.minimum(targets, torch.nextafter(last, torch.zeros_like(last)))
    return torch.searchsorted(cumulative, below, right=True).clamp(max=cumulative.shape[1] - 1)


def draw(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Draw one index per row, each with a probability proportional to its weight.

    Args:
        weights: [R, V] float32 of 0 or more; need not sum to 1.
        uniforms: [R] float64 in [0, 1).

    Returns:
        [R] int64 in [0, V). A row of weights that hold a NaN gets any index in that range.
    """
    blocks, cumulative = block_sums(weights)
    targets = uniforms[:, None] * cumulative[:, -1:]
    block = _first_above(cumulative, targets)
    before = torch.where(block > 0, cumulative.gather(1, (block - 1).clamp(min=0)), 0.0)
    inside = blocks[torch.arange(blocks.shape[0], device=blocks.device), block[:, 0]].double().cumsum(-1)
    index = block * _BLOCK + _first_above(inside, targets - before)
    return index[:, 0].clamp(max=weights.shape[1] - 1)
