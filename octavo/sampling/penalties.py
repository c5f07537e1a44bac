"""Repetition, frequency and presence penalties. Knows logits and histories; keeps nothing between steps.

Only the logits of tokens that a history holds change, so they are gathered, changed and put back; the vocabulary is
not walked over. Repetition is CTRL's (Keskar et al. 2019, section 4.1), the other two are OpenAI's.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from octavo.sampling.history import History


def apply_penalties_(
    logits: Tensor,
    rows: NDArray[np.int64],
    slots: NDArray[np.int64],
    history: History,
    *,
    repetition: NDArray[np.float32],
    frequency: NDArray[np.float32],
    presence: NDArray[np.float32],
) -> None:
    """Change the logits of P rows in place.

    Args:
        logits: [R, V] float32.
        rows: [P], the rows that have penalties.
        slots: [P], their rows in `history.token_ids`.
        history: of all R rows.
        repetition: [P] above 0; divides the positive logits of prompt and output tokens, multiplies the others.
        frequency: [P]; times a token's count in the output, taken off its logit.
        presence: [P]; taken off the logit of each token in the output.
    """
    device = logits.device

    def column(values: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(values).to(device)[:, None]

    num_tokens = history.num_tokens[rows]
    longest = int(num_tokens.max())
    row = column(rows)
    tokens = history.token_ids[:, :longest][column(slots)[:, 0]].long()
    positions = torch.arange(longest, device=device)
    inside = positions < column(num_tokens)
    # Beyond a row's end stands its first token again: a token met twice is written twice, with the same value.
    tokens = torch.where(inside, tokens, tokens[:, :1])
    values = logits[row, tokens]
    if (repetition != 1).any():
        factor = column(repetition)
        values = torch.where(values > 0, values / factor, values * factor)
    if frequency.any() or presence.any():
        in_output = inside & (positions >= column(history.num_prompt_tokens[rows]))
        counts = logits.new_zeros(len(rows), logits.shape[1])
        counts = counts.scatter_add_(1, tokens, in_output.to(logits.dtype)).gather(1, tokens)
        values = values - column(frequency) * counts - column(presence) * (counts > 0)
    logits[row, tokens] = values
