"""The kernels of the sampler in plain torch, for every device: the reference that faster twins are compared with.

`octavo.sampling.kernels` says what each has to do. min_p, top_k and top_p are each a lowest probability that is kept,
so tokens of equal probability stay or go together: what stays depends on the row alone, not on how it was sorted.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_CANDIDATES = (128, 1024)  # most likely tokens looked at before a row is sorted as a whole
_BLOCK = 256  # weights summed in one piece; a cumulative sum over whole rows in float64 costs 20 times as much
_ID_BITS = (1 << 29) - 1


def argmax(logits: Tensor) -> Tensor:
    """The lowest index of the largest of each row of logits [R, V] -> int64 [R]."""
    return logits.argmax(-1)


def draw(logits: Tensor, temperature: Tensor, min_p: Tensor, top_k: Tensor, top_p: Tensor, uniforms: Tensor) -> Tensor:
    """One token per row of logits [R, V], float32 -> int64 [R]; the parameters are columns [R] on the host."""
    token_ids = argmax(logits)
    rows = (temperature > 0).nonzero()[:, 0]
    at = rows.to(logits.device)
    probs = (logits[at] / temperature[rows, None].to(logits.device)).softmax(-1)
    truncate_(probs, min_p[rows], top_k[rows], top_p[rows])
    token_ids[at] = invert(probs, uniforms[rows].to(logits.device))
    return token_ids


# ---- truncation ----


def truncate_(probs: Tensor, min_p: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """Set the probabilities of the tokens that are cut off to 0, in place; rows are not normalised again.

    Args:
        probs: [R, V] float32, rows sum to 1.
        min_p: [R] float32 in [0, 1] on the host, relative to the row's most likely token; 0 is off.
        top_k: [R] int64 in [0, V) on the host; 0 is off. Ties with the k-th token are kept.
        top_p: [R] float64 in (0, 1] on the host; 1 is off. A share of what min_p and top_k left.

    Returns:
        probs.
    """
    device = probs.device
    if min_p.any():
        floor = probs.amax(-1, keepdim=True) * min_p[:, None].to(device)
        probs.masked_fill_(probs < floor, 0.0)
    with_top_k, only_top_p = top_k > 0, (top_k == 0) & (top_p < 1)
    for chosen, is_top_k in ((with_top_k, True), (only_top_p, False)):
        if not chosen.any():
            continue
        everyone = bool(chosen.all())
        rows = chosen.nonzero()[:, 0].to(device)
        part = probs if everyone else probs[rows]
        shares = top_p[chosen, None].to(device)
        floor = _top_k_floor(part, top_k[chosen, None], shares) if is_top_k else _top_p_floor(part, shares)
        part.masked_fill_(part < floor, 0.0)
        if not everyone:
            probs[rows] = part
    return probs


def _top_k_floor(probs: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """[N, 1]: the lowest probability among the `top_k` most likely tokens, of which `top_p` are kept."""
    values = probs.topk(int(top_k.max())).values
    cumulative = values.double().cumsum(-1)
    mass = cumulative.gather(1, top_k.to(probs.device) - 1)
    num_before = (cumulative < top_p * mass).sum(-1, keepdim=True)
    return values.gather(1, num_before)


def _top_p_floor(probs: Tensor, top_p: Tensor) -> Tensor:
    """[N, 1]: the lowest probability in the smallest set of most likely tokens that holds `top_p` of the mass.

    On a CPU the few most likely tokens are tried first: a sort takes 8 times as long, and only rows that need it get
    it. Other devices sort at once, as they would have to be waited for to know which rows are done.
    """
    target = top_p * _block_sums(probs)[1][:, -1:]
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


# ---- the random choice ----


def _block_sums(weights: Tensor) -> tuple[Tensor, Tensor]:
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


def invert(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Draw one index per row, each with a probability proportional to its weight: the inverse of the running sum.

    Args:
        weights: [R, V] float32 of 0 or more; need not sum to 1.
        uniforms: [R] float64 in [0, 1).

    Returns:
        [R] int64 in [0, V). A row of weights that hold a NaN gets any index in that range.
    """
    blocks, cumulative = _block_sums(weights)
    targets = uniforms[:, None] * cumulative[:, -1:]
    block = _first_above(cumulative, targets)
    before = torch.where(block > 0, cumulative.gather(1, (block - 1).clamp(min=0)), 0.0)
    inside = blocks[torch.arange(blocks.shape[0], device=blocks.device), block[:, 0]].double().cumsum(-1)
    index = block * _BLOCK + _first_above(inside, targets - before)
    return index[:, 0].clamp(max=weights.shape[1] - 1)


# ---- penalties ----


def apply_bitmask_(logits: Tensor, rows: Tensor, words: Tensor) -> None:
    """Set the logits of tokens whose bit in `words` [M, W] is not set to -inf, in the rows [M] of logits [R, V]."""
    device = logits.device
    bits = words.to(device)[:, :, None] >> torch.arange(32, dtype=torch.int32, device=device)
    forbidden = (bits & 1).flatten(1)[:, : logits.shape[1]] == 0
    at = rows.to(device)
    logits[at] = logits[at].masked_fill_(forbidden, -torch.inf)


def penalize_(
    logits: Tensor,
    rows: Tensor,
    slots: Tensor,
    token_ids: Tensor,
    num_tokens: Tensor,
    num_prompt_tokens: Tensor,
    repetition: Tensor,
    frequency: Tensor,
    presence: Tensor,
) -> None:
    """Change P rows of logits [R, V] in place by their histories in `token_ids`; the other arguments are columns [P].

    Only the logits of tokens that a history holds change, so they are gathered, changed and put back.
    """
    device = logits.device

    def column(values: Tensor) -> Tensor:
        return values[:, None].to(device)

    longest = int(num_tokens.max())
    row = column(rows)
    tokens = token_ids[:, :longest][slots.to(device)].long()
    positions = torch.arange(longest, device=device)
    inside = positions < column(num_tokens)
    # Beyond a row's end stands its first token again: a token met twice is written twice, with the same value.
    tokens = torch.where(inside, tokens, tokens[:, :1])
    values = logits[row, tokens]
    if (repetition != 1).any():
        factor = column(repetition)
        values = torch.where(values > 0, values / factor, values * factor)
    if frequency.any() or presence.any():
        in_output = inside & (positions >= column(num_prompt_tokens))
        counts = logits.new_zeros(len(rows), logits.shape[1])
        counts = counts.scatter_add_(1, tokens, in_output.to(logits.dtype)).gather(1, tokens)
        values = values - column(frequency) * counts - column(presence) * (counts > 0)
    logits[row, tokens] = values


# ---- log probabilities ----


def logprobs(logits: Tensor, entries: Tensor, num_top: Tensor) -> tuple[Tensor, Tensor]:
    """Fill in the most likely tokens of `entries` [R, K + 1]; their log probabilities, and ranks [R] of the first."""
    rows = (num_top >= 0).nonzero()[:, 0]
    at, most = rows.to(logits.device), int(num_top.max())
    scores = logits[at].log_softmax(-1)
    listed = entries[at]
    if most > 0:
        wanted = torch.arange(most) < num_top[rows, None]
        listed[:, 1 : 1 + most] = torch.where(
            wanted.to(logits.device), _top_tokens(scores, most), listed[:, 1 : 1 + most]
        )
        entries[at] = listed
    values = scores.gather(1, listed)
    ranks = (scores > values[:, :1]).sum(-1) + 1
    return (
        values.new_zeros(entries.shape).index_copy_(0, at, values),
        ranks.new_zeros(len(entries)).index_copy_(0, at, ranks),
    )


def _top_tokens(logprobs: Tensor, num: int) -> Tensor:
    """[N, num] int64: the ids of the most likely tokens of each row [N, V] float32, lower ids first among equals.

    A float32 widened to float64 leaves 29 bits of 0 at the end, and there goes the id: of two equal numbers below 0 the
    one with the lower id is then the greater. The order is total, so the list does not depend on `num`, which is the
    largest of a batch.
    """
    keys = logprobs.clamp(min=torch.finfo(torch.float32).min).double()
    keys.view(torch.int64).bitwise_or_(torch.arange(logprobs.shape[1], device=logprobs.device))
    return keys.topk(num).values.view(torch.int64) & _ID_BITS
