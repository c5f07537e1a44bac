"""What a request forbids or favours: allowed_token_ids, bad_words, min_tokens and logit_bias.

Few requests ask for these, so they sit in dictionaries by slot and a step without them costs one look-up per row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from octavo.batch import NewRequest
from octavo.sampling.history import History

_Ids = NDArray[np.int64]
_ANY = -1  # stands before a prefix shorter than the longest: matches every token


@dataclass(slots=True)
class _BadWords:
    """The bad words of one request. One of k tokens forbids its last token after the other k - 1."""

    single_ids: _Ids
    prefixes: _Ids  # [W, longest], right-aligned, _ANY before
    last_ids: _Ids  # [W]

    @classmethod
    def of(cls, words: Sequence[Sequence[int]]) -> _BadWords:
        several = [word for word in words if len(word) > 1]
        longest = max((len(word) - 1 for word in several), default=0)
        prefixes = np.full((len(several), longest), _ANY, dtype=np.int64)
        for i, word in enumerate(several):
            prefixes[i, longest - len(word) + 1 :] = word[:-1]
        return cls(
            np.array([word[0] for word in words if len(word) == 1], dtype=np.int64),
            prefixes,
            np.array([word[-1] for word in several], dtype=np.int64),
        )


@dataclass(slots=True)
class _Request:
    """The constraints of one request, None or 0 where it has none."""

    allowed_ids: _Ids | None
    bad_words: _BadWords | None
    min_tokens: int
    stop_ids: _Ids  # masked until min_tokens
    bias: tuple[_Ids, NDArray[np.float32]] | None


@dataclass(slots=True)
class LogitEdits:
    """What the constraints do to one step's logits. `row` counts the step's rows, `at` is row * vocab_size + id."""

    allowed_rows: list[int]
    allowed_at: list[_Ids]
    masked_at: list[_Ids]
    bias_at: list[_Ids]
    bias: list[NDArray[np.float32]]
    bad_words: list[tuple[int, int, _BadWords]]  # row, slot, words of several tokens

    def apply_(self, logits: Tensor, history: History) -> None:
        """Change `logits` [R, V] (float32, contiguous) in place; a masked logit is -inf and stays so."""
        device, flat = logits.device, logits.view(-1)

        def on_device(parts: Sequence[NDArray[np.generic]]) -> Tensor:
            return torch.from_numpy(np.concatenate(parts)).to(device)

        if self.allowed_rows:
            at = on_device(self.allowed_at)
            kept = flat[at]
            logits[torch.tensor(self.allowed_rows, device=device)] = -torch.inf
            flat[at] = kept
        if self.bad_words:
            self._mask_bad_words(logits, history)
        if self.masked_at:
            flat.index_fill_(0, on_device(self.masked_at), -torch.inf)
        if self.bias_at:
            flat.index_add_(0, on_device(self.bias_at), on_device(self.bias))

    def _mask_bad_words(self, logits: Tensor, history: History) -> None:
        """Compare the end of each history with the prefixes, for all words of all rows at once."""
        device, vocab_size = logits.device, logits.shape[1]
        longest = max(words.prefixes.shape[1] for _, _, words in self.bad_words)
        counts = [len(words.last_ids) for _, _, words in self.bad_words]
        aligned = [
            np.pad(words.prefixes, ((0, 0), (longest - words.prefixes.shape[1], 0)), constant_values=_ANY)
            for _, _, words in self.bad_words
        ]
        rows = np.repeat([row for row, _, _ in self.bad_words], counts)
        slots = np.repeat([slot for _, slot, _ in self.bad_words], counts)
        last_ids = np.concatenate([words.last_ids for _, _, words in self.bad_words])
        positions = torch.from_numpy(history.num_tokens[rows, None] + np.arange(-longest, 0)).to(device)
        prefixes = torch.from_numpy(np.concatenate(aligned)).to(device)
        tails = history.token_ids[torch.from_numpy(slots).to(device)[:, None], positions.clamp(min=0)]
        matches = ((prefixes == _ANY) | ((tails == prefixes) & (positions >= 0))).all(-1)
        # amin: two words may end with the same token, and only one of them match.
        limits = torch.where(matches, -torch.inf, torch.inf)
        at = torch.from_numpy(rows * vocab_size + last_ids).to(device)
        logits.view(-1).scatter_reduce_(0, at, limits, "amin")


class Constraints:
    """The constraints of all requests that the sampler holds, by slot."""

    def __init__(self, *, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._requests: dict[int, _Request] = {}

    def add(self, slot: int, request: NewRequest) -> None:
        params, words = request.params, request.bad_words_token_ids
        allowed, bias = params.allowed_token_ids, params.logit_bias
        min_tokens = params.min_tokens if request.stop_token_ids else 0
        if allowed is None and not bias and not words and not min_tokens:
            return
        self._requests[slot] = _Request(
            allowed_ids=None if allowed is None else np.array(allowed, dtype=np.int64),
            bad_words=_BadWords.of(words) if words else None,
            min_tokens=min_tokens,
            stop_ids=np.array(request.stop_token_ids, dtype=np.int64),
            bias=(np.array(list(bias), dtype=np.int64), np.array(list(bias.values()), np.float32)) if bias else None,
        )

    def remove(self, slot: int) -> None:
        self._requests.pop(slot, None)

    def collect(self, slots: NDArray[np.int64], history: History) -> LogitEdits | None:
        """What is to be done to the logits of rows in these slots [R]; None for nothing."""
        if not self._requests:
            return None
        edits = LogitEdits([], [], [], [], [], [])
        found = False
        for row, slot in enumerate(slots.tolist()):
            request = self._requests.get(slot)
            if request is not None:
                found |= self._collect_row(edits, request, row, slot, int(history.num_output_tokens[row]))
        return edits if found else None

    def _collect_row(self, edits: LogitEdits, request: _Request, row: int, slot: int, num_output_tokens: int) -> bool:
        start = row * self._vocab_size
        found = False
        if request.allowed_ids is not None:
            edits.allowed_rows.append(row)
            edits.allowed_at.append(start + request.allowed_ids)
            found = True
        if request.bad_words is not None:
            edits.masked_at.append(start + request.bad_words.single_ids)
            if len(request.bad_words.last_ids):
                edits.bad_words.append((row, slot, request.bad_words))
            found = True
        if num_output_tokens < request.min_tokens:
            edits.masked_at.append(start + request.stop_ids)
            found = True
        if request.bias is not None:
            edits.bias_at.append(start + request.bias[0])
            edits.bias.append(request.bias[1])
            found = True
        return found
