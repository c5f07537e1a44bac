"""OutputState: where one output is, in its reasoning or in its structure, and what may come next.

    opening ──> reasoning ──> ending ──> structure
       └──────────────────────────────────^

It depends on the output's tokens alone, so a preempted request goes on with the same one.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from octavo.structured.matcher import Matcher
from octavo.structured_params import ReasoningMarkers

_ALL = np.int32(-1)
Row = NDArray[np.int32]


class Verdict(enum.Enum):
    """What a token did to an output."""

    GOES_ON = "goes on"
    COMPLETE = "complete"  # the structure can only end here
    REFUSED = "refused"  # the token is not allowed: the output must end without it


class _Phase(enum.Enum):
    OPENING = "opening"  # the first tokens decide whether there is reasoning
    REASONING = "reasoning"
    ENDING = "ending"  # the budget is used up: the end of the reasoning is being written
    STRUCTURE = "structure"


class OutputState:
    """The state of one output.

    Args:
        matcher: of the structure, None for free text.
        markers: of the reasoning, None where there is none.
        budget: most tokens of reasoning, None for no bound.
        eos_token_ids: the tokens that end an output.
        ignore_eos: these do not end it, and are not written.
    """

    def __init__(
        self,
        matcher: Matcher | None,
        *,
        markers: ReasoningMarkers | None = None,
        budget: int | None = None,
        eos_token_ids: Sequence[int],
        ignore_eos: bool = False,
    ) -> None:
        self._matcher = matcher
        self._markers = markers
        self._budget = budget
        self._eos_token_ids = eos_token_ids
        self._ignore_eos = ignore_eos
        self._recent: list[int] = []  # as many tokens of the reasoning as its end has
        self._num_reasoning = 0
        self._index = 0  # in the tokens that open the reasoning, or that end it
        if markers is None:
            self._phase = _Phase.STRUCTURE
        elif markers.start_token_ids:
            self._phase = _Phase.OPENING
        else:
            self._begin_reasoning()

    @property
    def is_free(self) -> bool:
        """Whether from here on every token may come, to the end."""
        return self._phase is _Phase.STRUCTURE and self._matcher is None

    # ---- what may come ----

    def fill(self, row: Row) -> bool:
        """Write which tokens may come next, bit i % 32 of word i // 32 for token i. False: all may, nothing written."""
        markers = self._markers
        match self._phase:
            case _Phase.STRUCTURE:
                return self._fill_structure(row)
            case _Phase.ENDING:
                assert markers is not None
                _allow_only(row, markers.forced_end_token_ids[self._index])
                return True
            case _Phase.OPENING if self._index or self._matcher is not None:
                assert markers is not None
                if self._index == 0:
                    self._fill_structure(row)
                    _allow(row, markers.start_token_ids[0])
                else:
                    _allow_only(row, markers.start_token_ids[self._index])
                return True
            case _Phase.REASONING if self._matcher is not None:
                row[:] = _ALL
                _forbid(row, self._eos_token_ids)
                return True
        return False

    def _fill_structure(self, row: Row) -> bool:
        if self._matcher is None:
            return False
        self._matcher.fill(row)
        if self._ignore_eos:
            _forbid(row, self._eos_token_ids)
        return True

    # ---- what came ----

    def advance(self, token_id: int) -> Verdict:
        """Take in the next token."""
        match self._phase:
            case _Phase.OPENING:
                return self._open(token_id)
            case _Phase.REASONING:
                self._reason(token_id)
            case _Phase.ENDING:
                assert self._markers is not None
                self._index += 1
                if self._index == len(self._markers.forced_end_token_ids):
                    self._phase = _Phase.STRUCTURE
            case _Phase.STRUCTURE:
                return self._match(token_id)
        return Verdict.GOES_ON

    def _open(self, token_id: int) -> Verdict:
        assert self._markers is not None
        start = self._markers.start_token_ids
        if token_id == start[self._index]:
            self._index += 1
            if self._index == len(start):
                self._begin_reasoning()
            return Verdict.GOES_ON
        self._phase = _Phase.STRUCTURE
        return self._match(token_id)

    def _begin_reasoning(self) -> None:
        self._phase = _Phase.REASONING
        self._check_budget()

    def _reason(self, token_id: int) -> None:
        assert self._markers is not None
        end = self._markers.end_token_ids
        self._recent = [*self._recent, token_id][-len(end) :]
        self._num_reasoning += 1
        if self._recent == end:
            self._phase = _Phase.STRUCTURE
        else:
            self._check_budget()

    def _check_budget(self) -> None:
        if self._budget is not None and self._num_reasoning >= self._budget:
            self._phase, self._index = _Phase.ENDING, 0

    def _match(self, token_id: int) -> Verdict:
        matcher = self._matcher
        if matcher is None:
            return Verdict.GOES_ON
        if not matcher.consume(token_id):
            return Verdict.REFUSED
        return Verdict.COMPLETE if matcher.finished else Verdict.GOES_ON


def _bit(token_id: int) -> np.int32:
    bit = 1 << (token_id % 32)
    return np.int32(bit if bit < 2**31 else bit - 2**32)


def _allow(row: Row, token_id: int) -> None:
    row[token_id // 32] |= _bit(token_id)


def _allow_only(row: Row, token_id: int) -> None:
    row[:] = 0
    _allow(row, token_id)


def _forbid(row: Row, token_ids: Sequence[int]) -> None:
    for token_id in token_ids:
        row[token_id // 32] &= ~_bit(token_id)
