"""Log probabilities of chosen and of most likely tokens, and their ranks.

They are those of the model, taken from logits that no parameter has changed. The rank of a token is 1 plus the number
of tokens with a strictly greater log probability: equals share the better rank. Among equals in a list of the most
likely tokens the lower id comes first, as with argmax.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from octavo.request import TokenLogprobs
from octavo.sampling.kernels import SamplingKernels

NO_LOGPROBS = -1  # in a column of numbers of log probabilities: none, not even the chosen token's
_PROMPT_ROWS = 64  # positions of a prompt at a time: bounds the memory for ordering whole vocabularies


@dataclass(slots=True)
class LogprobTensors:
    """Log probabilities of R rows: the chosen token at column 0, then up to K others."""

    token_ids: Tensor  # [R, K + 1] int64
    logprobs: Tensor  # [R, K + 1] float32
    ranks: Tensor  # [R] int64, of the chosen tokens
    num_logprobs: NDArray[np.int64]  # [R] on the host: how many of the K are the row's; NO_LOGPROBS for none at all

    def to_host(self) -> LogprobTensors:
        """The same on the host, once the device has come to it."""
        return LogprobTensors(
            to_host(self.token_ids), to_host(self.logprobs), to_host(self.ranks), num_logprobs=self.num_logprobs
        )

    def to_rows(self) -> list[TokenLogprobs | None]:
        """One entry per row, None for rows that did not ask. Waits, where the tensors are a device's."""
        token_ids, logprobs, ranks = self.token_ids.cpu(), self.logprobs.cpu(), self.ranks.tolist()
        return [
            None
            if num == NO_LOGPROBS
            else TokenLogprobs(token_ids[i, : num + 1].tolist(), logprobs[i, : num + 1].tolist(), ranks[i])
            for i, num in enumerate(self.num_logprobs.tolist())
        ]


def to_host(tensor: Tensor) -> Tensor:
    """A copy of a GPU's tensor in memory that the GPU writes by itself; a host's tensor as it is."""
    if not tensor.is_cuda:
        return tensor
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)


def gather_logprobs(
    kernels: SamplingKernels,
    logits: Tensor,
    token_ids: Tensor,
    num_logprobs: NDArray[np.int64],
    ids_of_rows: Mapping[int, NDArray[np.int64]],
) -> LogprobTensors | None:
    """The log probabilities that rows ask for; None when none does.

    Args:
        logits: [R, V] float32, as the model gave them; not changed.
        token_ids: [R] int64, the chosen tokens.
        num_logprobs: [R] in [0, V], or NO_LOGPROBS.
        ids_of_rows: for some rows the ids to score instead of the most likely; as many as their `num_logprobs`.
    """
    most = int(num_logprobs.max())
    if most == NO_LOGPROBS:
        return None
    table = np.zeros((len(num_logprobs), most), dtype=np.int64)
    num_top = num_logprobs.copy()
    for row, ids in ids_of_rows.items():
        table[row, : len(ids)] = ids
        num_top[row] = 0
    entries = torch.cat([token_ids[:, None], torch.from_numpy(table).to(logits.device)], dim=1)
    logprobs, ranks = kernels.logprobs(logits, entries, torch.from_numpy(num_top))
    return LogprobTensors(entries, logprobs, ranks, num_logprobs)


def prompt_logprobs(
    kernels: SamplingKernels,
    logits: Tensor,
    targets: Tensor,
    num_logprobs: int,
    rows_of_ids: list[list[int]] | None = None,
) -> list[TokenLogprobs]:
    """Log probabilities along a prompt.

    Args:
        kernels: the platform's.
        logits: [T, V] in any floating dtype, row i predicts targets[i].
        targets: [T] int64.
        num_logprobs: the most likely tokens listed after each target; -1 is the whole vocabulary.
        rows_of_ids: T rows of ids to list instead; -1 pads a row and is left out.

    Returns:
        T entries, the target first.
    """
    vocab_size = logits.shape[1]
    wanted = vocab_size if num_logprobs == -1 else min(num_logprobs, vocab_size)
    found: list[TokenLogprobs | None] = []
    for start in range(0, logits.shape[0], _PROMPT_ROWS):
        part = logits[start : start + _PROMPT_ROWS].float()
        counts = np.full(part.shape[0], wanted, dtype=np.int64)
        ids: dict[int, NDArray[np.int64]] = {}
        if rows_of_ids is not None:
            for i, row in enumerate(rows_of_ids[start : start + _PROMPT_ROWS]):
                ids[i] = np.array([token_id for token_id in row if token_id != -1], dtype=np.int64)
                counts[i] = len(ids[i])
        tensors = gather_logprobs(kernels, part, targets[start : start + _PROMPT_ROWS], counts, ids)
        found += tensors.to_rows() if tensors is not None else []
    return [entry for entry in found if entry is not None]
