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

NO_LOGPROBS = -1  # in a column of numbers of log probabilities: none, not even the chosen token's
_ID_BITS = (1 << 29) - 1
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
        """One entry per row, None for rows that did not ask."""
        token_ids, logprobs, ranks = self.token_ids, self.logprobs, self.ranks.tolist()
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


def _top_tokens(logprobs: Tensor, num: int) -> Tensor:
    """[N, num] int64: the ids of the most likely tokens of each row [N, V] float32, lower ids first among equals.

    A float32 widened to float64 leaves 29 bits of 0 at the end, and there goes the id: of two equal numbers below 0 the
    one with the lower id is then the greater. The order is total, so the list does not depend on `num`, which is the
    largest of a batch.
    """
    keys = logprobs.clamp(min=torch.finfo(torch.float32).min).double()
    keys.view(torch.int64).bitwise_or_(torch.arange(logprobs.shape[1], device=logprobs.device))
    return keys.topk(num).values.view(torch.int64) & _ID_BITS


def gather_logprobs(
    logits: Tensor, token_ids: Tensor, num_logprobs: NDArray[np.int64], ids_of_rows: Mapping[int, NDArray[np.int64]]
) -> LogprobTensors | None:
    """The log probabilities that rows ask for; None when none does.

    Args:
        logits: [R, V] as the model gave them; not changed.
        token_ids: [R] int64, the chosen tokens.
        num_logprobs: [R] in [0, V], or NO_LOGPROBS.
        ids_of_rows: for some rows the ids to score instead of the most likely; as many as their `num_logprobs`.
    """
    rows = np.flatnonzero(num_logprobs != NO_LOGPROBS)
    if not len(rows):
        return None
    device, everyone = logits.device, len(rows) == len(num_logprobs)
    at = torch.from_numpy(rows).to(device)
    logprobs = (logits if everyone else logits[at]).float().log_softmax(-1)
    chosen = (token_ids if everyone else token_ids[at])[:, None]
    entries = torch.cat([chosen, _entries(logprobs, rows, num_logprobs, ids_of_rows)], dim=1)
    values = logprobs.gather(1, entries)
    ranks = (logprobs > values[:, :1]).sum(-1) + 1
    if everyone:
        return LogprobTensors(entries, values, ranks, num_logprobs)
    num_rows, width = len(num_logprobs), entries.shape[1]
    return LogprobTensors(
        entries.new_zeros(num_rows, width).index_copy_(0, at, entries),
        values.new_zeros(num_rows, width).index_copy_(0, at, values),
        ranks.new_zeros(num_rows).index_copy_(0, at, ranks),
        num_logprobs,
    )


def _entries(
    logprobs: Tensor,
    rows: NDArray[np.int64],
    num_logprobs: NDArray[np.int64],
    ids_of_rows: Mapping[int, NDArray[np.int64]],
) -> Tensor:
    """[N, K] int64: the ids to score after the chosen token, zeros where a row has fewer than K."""
    given = [(i, ids_of_rows[row]) for i, row in enumerate(rows.tolist()) if row in ids_of_rows]
    num_top = max((num for row, num in zip(rows, num_logprobs[rows], strict=True) if row not in ids_of_rows), default=0)
    entries = torch.zeros(len(rows), int(num_logprobs[rows].max()), dtype=torch.int64, device=logprobs.device)
    if num_top:
        entries[:, :num_top] = _top_tokens(logprobs, int(num_top))
    if given:
        table = np.zeros((len(given), entries.shape[1]), dtype=np.int64)
        for line, (_, ids) in zip(table, given, strict=True):
            line[: len(ids)] = ids
        entries[[i for i, _ in given]] = torch.from_numpy(table).to(logprobs.device)
    return entries


def prompt_logprobs(
    logits: Tensor, targets: Tensor, num_logprobs: int, rows_of_ids: list[list[int]] | None = None
) -> list[TokenLogprobs]:
    """Log probabilities along a prompt.

    Args:
        logits: [T, V], row i predicts targets[i].
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
        part = logits[start : start + _PROMPT_ROWS]
        counts = np.full(part.shape[0], wanted, dtype=np.int64)
        ids: dict[int, NDArray[np.int64]] = {}
        if rows_of_ids is not None:
            for i, row in enumerate(rows_of_ids[start : start + _PROMPT_ROWS]):
                ids[i] = np.array([token_id for token_id in row if token_id != -1], dtype=np.int64)
                counts[i] = len(ids[i])
        tensors = gather_logprobs(part, targets[start : start + _PROMPT_ROWS], counts, ids)
        found += tensors.to_rows() if tensors is not None else []
    return [entry for entry in found if entry is not None]
