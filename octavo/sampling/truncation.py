"""min_p, top_k and top_p: cut the unlikely tokens off a distribution, each in this order on what the last one left.

Each is a lowest probability that is kept, so tokens of equal probability stay or go together. What stays therefore
depends on the row alone, not on how a batch's rows happened to be sorted.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from octavo.sampling.draw import block_sums

_CANDIDATES = (128, 1024)  # most likely tokens looked at before a row is sorted as a whole


def _column(values: NDArray[np.generic], device: torch.device) -> Tensor:
    return torch.from_numpy(values).to(device)[:, None]


def _top_k_floor(probs: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """[N, 1]: the lowest probability among the `top_k` most likely tokens, of which `top_p` are kept."""
    values = probs.topk(int(top_k.max())).values
    cumulative = values.double().cumsum(-1)
    mass = cumulative.gather(1, top_k.to(probs.device) - 1)
    num_before = (cumulative < top_p.to(probs.device) * mass).sum(-1, keepdim=True)
    return values.gather(1, num_before)


def _top_p_floor(probs: Tensor, top_p: Tensor) -> Tensor:
    """[N, 1]: the lowest probability in the smallest set of most likely tokens that holds `top_p` of the mass.

    On a CPU the few most likely tokens are tried first: a sort takes 8 times as long, and only rows that need it get
    it. Other devices sort at once, as they would have to be waited for to know which rows are done.
    """
    target = top_p * block_sums(probs)[1][:, -1:]
    num_rows, vocab_size = probs.shape
    floor = torch.empty(num_rows, 1, dtype=probs.dtype, device=probs.device)
    left = torch.arange(num_rows, device=probs.device)
    for size in (*_CANDIDATES, vocab_size) if probs.is_cpu else (vocab_size,):
        num_candidates = min(size, vocab_size)
        rows, goal = (probs, target) if left.numel() == num_rows else (probs[left], target[left])
        whole = num_candidates == vocab_size
        values = rows.sort(-1, descending=True).values if whole else rows.topk(num_candidates).values
        cumulative = values.double().cumsum(-1)
        num_before = (cumulative < goal).sum(-1, keepdim=True).clamp(max=num_candidates - 1)
        floor[left] = values.gather(1, num_before)
        if whole:
            break
        left = left[(~(cumulative[:, -1:] >= goal))[:, 0]]
        if left.numel() == 0:
            break
    return floor


def truncate_(
    probs: Tensor, min_p: NDArray[np.float32], top_k: NDArray[np.int64], top_p: NDArray[np.float64]
) -> Tensor:
    """Set the probabilities of the tokens that are cut off to 0, in place; rows are not normalised again.

    Args:
        probs: [R, V] float32, rows sum to 1.
        min_p: [R] in [0, 1], relative to the row's most likely token; 0 is off.
        top_k: [R] in [0, V); 0 is off. Ties with the k-th token are kept.
        top_p: [R] in (0, 1]; 1 is off. A share of what min_p and top_k left.

    Returns:
        probs.
    """
    device = probs.device
    if min_p.any():
        floor = probs.amax(-1, keepdim=True) * _column(min_p, device)
        probs.masked_fill_(probs < floor, 0.0)
    with_top_k, only_top_p = top_k > 0, (top_k == 0) & (top_p < 1)
    for chosen, is_top_k in ((with_top_k, True), (only_top_p, False)):
        if not chosen.any():
            continue
        everyone = bool(chosen.all())
        rows = torch.from_numpy(np.flatnonzero(chosen)).to(device)
        part = probs if everyone else probs[rows]
        shares = _column(top_p[chosen], device)
        if is_top_k:
            floor = _top_k_floor(part, torch.from_numpy(top_k[chosen])[:, None], shares)
        else:
            floor = _top_p_floor(part, shares)
        part.masked_fill_(part < floor, 0.0)
        if not everyone:
            probs[rows] = part
    return probs
