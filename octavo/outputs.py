"""What a user gets back: RequestOutput with its CompletionOutputs and Logprobs. Names and shapes are vLLM's."""

from __future__ import annotations

from collections.abc import Iterator, MutableSequence
from dataclasses import dataclass, field
from typing import Any, overload


@dataclass(slots=True)
class Logprob:
    """The log probability of one token at one position."""

    logprob: float
    rank: int | None = None  # in the vocabulary, 1 is the most likely
    decoded_token: str | None = None


class FlatLogprobs(MutableSequence[dict[int, Logprob] | None]):
    """A list of `dict[int, Logprob]` kept as flat arrays: far fewer objects for long outputs.

    Position i holds the entries `start_indices[i]` up to `end_indices[i]` of the arrays.
    """

    def __init__(self) -> None:
        self.start_indices: list[int] = []
        self.end_indices: list[int] = []
        self.token_ids: list[int] = []
        self.logprobs: list[float] = []
        self.ranks: list[int | None] = []
        self.decoded_tokens: list[str | None] = []

    def append(self, value: dict[int, Logprob] | None) -> None:
        self.start_indices.append(len(self.token_ids))
        for token_id, entry in (value or {}).items():
            self.token_ids.append(token_id)
            self.logprobs.append(entry.logprob)
            self.ranks.append(entry.rank)
            self.decoded_tokens.append(entry.decoded_token)
        self.end_indices.append(len(self.token_ids))

    def insert(self, index: int, value: dict[int, Logprob] | None) -> None:
        if index != len(self):
            raise TypeError("FlatLogprobs can only be appended to")
        self.append(value)

    def __len__(self) -> int:
        return len(self.start_indices)

    def _at(self, index: int) -> dict[int, Logprob]:
        return {
            self.token_ids[i]: Logprob(self.logprobs[i], self.ranks[i], self.decoded_tokens[i])
            for i in range(self.start_indices[index], self.end_indices[index])
        }

    @overload
    def __getitem__(self, index: int) -> dict[int, Logprob]: ...
    @overload
    def __getitem__(self, index: slice) -> FlatLogprobs: ...
    def __getitem__(self, index: int | slice) -> dict[int, Logprob] | FlatLogprobs:
        if isinstance(index, int):
            return self._at(index)
        part = FlatLogprobs()
        for i in range(*index.indices(len(self))):
            part.append(self._at(i))
        return part

    def __setitem__(self, index: Any, value: Any) -> None:
        raise TypeError("FlatLogprobs can only be appended to")

    def __delitem__(self, index: Any) -> None:
        raise TypeError("FlatLogprobs can only be appended to")

    def __iter__(self) -> Iterator[dict[int, Logprob]]:
        return (self._at(i) for i in range(len(self)))


PositionLogprobs = MutableSequence[dict[int, Logprob] | None]  # a list of dicts, or FlatLogprobs


@dataclass(slots=True, kw_only=True)
class CompletionOutput:
    """One completion of a prompt."""

    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None = None
    logprobs: PositionLogprobs | None = None
    finish_reason: str | None = None  # stop, length, abort, error; None while it runs
    stop_reason: int | str | None = None  # the stop token's id or the stop string; None for end-of-sequence

    def finished(self) -> bool:
        return self.finish_reason is not None


@dataclass(slots=True, kw_only=True)
class RequestMetrics:
    """When things happened to a request. `arrival_time` is wall-clock seconds, the others are monotonic seconds."""

    arrival_time: float
    queued_ts: float
    first_token_ts: float | None = None
    last_token_ts: float | None = None
    num_generation_tokens: int = 0

    @property
    def first_token_latency(self) -> float | None:
        """Seconds from the queue to the first token."""
        return None if self.first_token_ts is None else self.first_token_ts - self.queued_ts


@dataclass(slots=True, kw_only=True)
class RequestOutput:
    """A prompt with its completions so far."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    prompt_logprobs: PositionLogprobs | None = None  # position 0 is None: nothing predicts the first token
    outputs: list[CompletionOutput] = field(default_factory=list)
    finished: bool = False
    metrics: RequestMetrics | None = None
    num_cached_tokens: int | None = None
