"""Sampler: one token for each row of logits, each row by its own request's parameters.

The order of the steps is vLLM's: what a grammar allows; log probabilities from the raw logits; constraints (allowed
tokens, bad words, min_tokens, bias); penalties; then argmax for greedy rows, and temperature, min_p, top_k, top_p and a
draw for others.
Knows slots, not requests' names: the worker decides which request has which slot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from octavo.batch import GrammarBitmask, NewRequest
from octavo.sampling.constraints import Constraints
from octavo.sampling.history import History
from octavo.sampling.kernels import SamplingKernels
from octavo.sampling.logprobs import NO_LOGPROBS, LogprobTensors, gather_logprobs, to_host
from octavo.sampling.random_numbers import uniforms

__all__ = ["Draw", "History", "LogprobTensors", "Sampler", "SamplerOutput"]

_FLOAT32 = np.finfo(np.float32)


@dataclass(slots=True)
class SamplerOutput:
    """One sampled token per row."""

    token_ids: Tensor  # [R] int64 on the device
    logprobs: LogprobTensors | None  # when any row asked for them

    def to_host(self) -> SamplerOutput:
        """The same on the host, once the device has come to it."""
        return SamplerOutput(to_host(self.token_ids), None if self.logprobs is None else self.logprobs.to_host())


@dataclass(slots=True)
class Draw:
    """How R rows choose a token each from their logits: columns on the host, [R]."""

    temperature: NDArray[np.float32]  # 0 is greedy
    min_p: NDArray[np.float32]
    top_k: NDArray[np.int64]  # 0 is off
    top_p: NDArray[np.float64]
    uniforms: NDArray[np.float64]

    @property
    def greedy(self) -> bool:
        return not self.temperature.any()

    def columns(self) -> tuple[NDArray[Any], ...]:
        return self.temperature, self.min_p, self.top_k, self.top_p, self.uniforms


class _Columns:
    """The parameters of all requests as columns on the host, indexed by slot; written once, gathered per step."""

    def __init__(self, size: int) -> None:
        self.temperature = np.zeros(size, dtype=np.float32)  # 0 is greedy
        self.min_p = np.zeros(size, dtype=np.float32)
        self.top_k = np.zeros(size, dtype=np.int64)  # 0 is off
        self.top_p = np.ones(size, dtype=np.float64)
        self.seed = np.zeros(size, dtype=np.uint64)
        self.repetition = np.ones(size, dtype=np.float32)
        self.frequency = np.zeros(size, dtype=np.float32)
        self.presence = np.zeros(size, dtype=np.float32)
        self.penalised = np.zeros(size, dtype=np.bool_)
        self.num_logprobs = np.full(size, NO_LOGPROBS, dtype=np.int64)

    def write(self, slot: int, request: NewRequest, vocab_size: int) -> None:
        params = request.params
        # With one token to choose from there is nothing to draw, and argmax settles ties as well.
        self.temperature[slot] = 0.0 if params.top_k == 1 else params.temperature
        self.min_p[slot] = params.min_p
        self.top_k[slot] = params.top_k if params.top_k < vocab_size else 0
        self.top_p[slot] = params.top_p
        self.seed[slot] = request.seed & 0xFFFF_FFFF_FFFF_FFFF
        # Any number above 0 is allowed; one that float32 rounds to 0 or infinity would turn logits into NaN.
        self.repetition[slot] = np.clip(params.repetition_penalty, _FLOAT32.tiny, _FLOAT32.max)
        self.frequency[slot] = params.frequency_penalty
        self.presence[slot] = params.presence_penalty
        self.penalised[slot] = (
            params.repetition_penalty != 1 or params.frequency_penalty != 0 or params.presence_penalty != 0
        )
        if params.logprob_token_ids is not None:
            self.num_logprobs[slot] = len(params.logprob_token_ids)
        elif params.logprobs is None:
            self.num_logprobs[slot] = NO_LOGPROBS
        else:
            self.num_logprobs[slot] = vocab_size if params.logprobs == -1 else min(params.logprobs, vocab_size)


class Sampler:
    """Samples tokens for up to `max_num_seqs` requests, each in a slot of its own.

    A request's tokens depend on its logits, its parameters, its seed and its history, not on the other rows, nor on
    its slot: random numbers come from the seed and the index of the output token. `kernels` are the platform's.
    """

    def __init__(self, *, vocab_size: int, max_num_seqs: int, device: torch.device, kernels: SamplingKernels) -> None:
        self.kernels = kernels
        self._vocab_size = vocab_size
        self._device = device
        self._columns = _Columns(max_num_seqs)
        self._constraints = Constraints(vocab_size=vocab_size)
        self._logprob_token_ids: dict[int, NDArray[np.int64]] = {}

    def add(self, slot: int, request: NewRequest) -> None:
        """Give a free `slot` (0 <= slot < max_num_seqs) to a request. Its token ids are below vocab_size."""
        self._columns.write(slot, request, self._vocab_size)
        self._constraints.add(slot, request)
        if request.params.logprob_token_ids is not None:
            self._logprob_token_ids[slot] = np.array(request.params.logprob_token_ids, dtype=np.int64)

    def remove(self, slot: int) -> None:
        """Free a slot."""
        self._constraints.remove(slot)
        self._logprob_token_ids.pop(slot, None)

    def sample(
        self,
        logits: Tensor,
        slots: Tensor | NDArray[np.integer],
        history: History,
        bitmask: GrammarBitmask | None = None,
    ) -> SamplerOutput:
        """Choose the next token of R rows.

        Args:
            logits: [R, vocab_size] in any floating dtype, contiguous; given away: those in float32 are edited in place.
                A row that holds NaN, or that is masked as a whole, gets some id in [0, vocab_size) and does no harm to
                others; one with a bitmask whose constraints leave nothing of it gets an id that the bitmask forbids.
            slots: [R] integers; a tensor is best on the host.
            history: of the same R rows.
            bitmask: the tokens that some rows may get. Log probabilities are those among these tokens.
        """
        host_slots = (slots.cpu().numpy() if isinstance(slots, Tensor) else slots).astype(np.int64)
        logits = logits.float()
        if bitmask is not None:
            self.kernels.apply_bitmask_(logits, torch.from_numpy(bitmask.rows), torch.from_numpy(bitmask.words))
        edits = self._constraints.collect(host_slots, history)
        penalised = np.flatnonzero(self._columns.penalised[host_slots])
        num_logprobs = self._columns.num_logprobs[host_slots]
        raw = logits
        if (edits is not None or len(penalised)) and (num_logprobs != NO_LOGPROBS).any():
            raw = logits.clone()
        if edits is not None:
            edits.apply_(logits, history)
        if len(penalised):
            self._penalize_(logits, penalised, host_slots[penalised], history)
        stuck = logits.amax(-1) == -torch.inf if bitmask is not None and edits is not None else None
        token_ids = self._choose(logits, host_slots, history)
        if bitmask is not None and stuck is not None:
            token_ids = _forbidden_where(stuck, token_ids, bitmask, self._vocab_size)
        ids_of_rows = self._ids_of_rows(host_slots)
        return SamplerOutput(token_ids, gather_logprobs(self.kernels, raw, token_ids, num_logprobs, ids_of_rows))

    def _penalize_(self, logits: Tensor, rows: NDArray[np.int64], slots: NDArray[np.int64], history: History) -> None:
        columns = self._columns
        self.kernels.penalize_(
            logits,
            torch.from_numpy(rows),
            torch.from_numpy(slots),
            history.token_ids,
            torch.from_numpy(history.num_tokens[rows]),
            torch.from_numpy(history.num_prompt_tokens[rows]),
            repetition=torch.from_numpy(columns.repetition[slots]),
            frequency=torch.from_numpy(columns.frequency[slots]),
            presence=torch.from_numpy(columns.presence[slots]),
        )

    def draw_alone(self, slots: NDArray[np.int64], history: History) -> Draw | None:
        """How rows in these slots [R] choose, if all that is to be done is to choose.

        None: of some the logits are edited first, or log probabilities are wanted.
        """
        columns = self._columns
        if (
            columns.penalised[slots].any()
            or (columns.num_logprobs[slots] != NO_LOGPROBS).any()
            or self._constraints.collect(slots, history) is not None
        ):
            return None
        return self._draw(slots, history)

    def _draw(self, slots: NDArray[np.int64], history: History) -> Draw:
        columns = self._columns
        return Draw(
            columns.temperature[slots],
            columns.min_p[slots],
            columns.top_k[slots],
            columns.top_p[slots],
            uniforms(columns.seed[slots], history.num_output_tokens),
        )

    def _choose(self, logits: Tensor, slots: NDArray[np.int64], history: History) -> Tensor:
        if not self._columns.temperature[slots].any():
            return self.kernels.argmax(logits)
        return self.kernels.draw(logits, *map(torch.from_numpy, self._draw(slots, history).columns()))

    def _ids_of_rows(self, slots: NDArray[np.int64]) -> dict[int, NDArray[np.int64]]:
        """The ids to score, of the rows whose requests name them."""
        if not self._logprob_token_ids:
            return {}
        chosen = ((row, self._logprob_token_ids.get(slot)) for row, slot in enumerate(slots.tolist()))
        return {row: ids for row, ids in chosen if ids is not None}


def _forbidden_where(stuck: Tensor, token_ids: Tensor, bitmask: GrammarBitmask, vocab_size: int) -> Tensor:
    """`token_ids` [R], but in the `stuck` [R] rows of the bitmask the lowest id that it forbids.

    Whoever follows the grammar then sees that the output can't go on. A bitmask that allows all ids changes nothing.
    """
    forbidden = ~bitmask.words.view(np.uint32)
    words = (forbidden != 0).argmax(1)
    bits = forbidden[np.arange(len(words)), words]
    lowest = np.log2((bits & -bits).clip(1)).astype(np.int64)  # of one bit, so exact
    ids = words * 32 + lowest
    chosen = np.full(len(token_ids), -1, np.int64)
    chosen[bitmask.rows] = np.where((bits != 0) & (ids < vocab_size), ids, -1)
    instead = torch.from_numpy(chosen).to(token_ids.device)
    return torch.where(stuck & (instead >= 0), instead, token_ids)
