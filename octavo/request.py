"""Request: one sequence on its way through the scheduler, and RequestUpdate: what a step adds to it.

A request knows token ids only; text, templates and streaming belong to `engine/inputs.py` and `engine/outputs.py`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from octavo.sampling_params import SamplingParams


class RequestStatus(enum.IntEnum):
    WAITING = 0
    RUNNING = 1
    PREEMPTED = 2  # lost its blocks, waits to be computed again
    FINISHED = 3


class FinishReason(str, enum.Enum):
    STOP = "stop"  # end-of-sequence, a stop token or a stop string
    LENGTH = "length"  # max_tokens or the end of the context
    ABORT = "abort"  # the caller gave it up
    ERROR = "error"  # the engine failed while it ran

    def __str__(self) -> str:
        return self.value


@dataclass(slots=True)
class TokenLogprobs:
    """Log probabilities at one position: the chosen token first, then the asked ones, most likely first."""

    token_ids: list[int]
    logprobs: list[float]
    rank: int  # of the chosen token in the vocabulary, 1 is the most likely


@dataclass(slots=True, kw_only=True)
class Request:
    """One sequence: its tokens, its parameters and the scheduler's account of it.

    There is no prefill and no decode phase: `num_computed_tokens` of `num_tokens` have their keys and values in the
    cache or in a step that is under way; the rest is wanted.
    """

    request_id: str
    prompt_token_ids: list[int]
    params: SamplingParams
    arrival_time: float = 0.0
    priority: int = 0  # lower goes first
    lora: str | None = None
    cache_salt: str | None = None
    eos_token_ids: tuple[int, ...] = ()  # empty when ignore_eos
    bad_words_token_ids: list[list[int]] = field(default_factory=list)
    max_tokens: int = 1  # resolved: never None, never beyond the context
    seed: int = 0  # resolved: params.seed or drawn by the engine

    # The scheduler's account.
    status: RequestStatus = RequestStatus.WAITING
    output_token_ids: list[int] = field(default_factory=list)
    spec_token_ids: list[int] = field(default_factory=list)
    num_computed_tokens: int = 0
    num_cached_tokens: int = -1  # prompt tokens found in the prefix cache; -1 until first scheduled
    scheduled_ts: float = 0.0  # monotonic seconds of the first step that it is part of
    num_in_flight: int = 0  # tokens being sampled by steps whose output is not read yet
    block_ids: tuple[list[int], ...] = ()  # per KV-cache group; -1 where a window's block was freed
    block_hashes: list[bytes] = field(default_factory=list)
    num_settled_tokens: int = 0  # up to so many computed tokens the block tables stay as they are
    num_preemptions: int = 0
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.prompt_token_ids)

    @property
    def num_tokens(self) -> int:
        """Tokens known to the host."""
        return len(self.prompt_token_ids) + len(self.output_token_ids)

    @property
    def num_tokens_in_flight(self) -> int:
        """Tokens known, and those that steps under way will have sampled."""
        return len(self.prompt_token_ids) + len(self.output_token_ids) + self.num_in_flight

    @property
    def all_token_ids(self) -> list[int]:
        return self.prompt_token_ids + self.output_token_ids

    def tokens_between(self, start: int, end: int) -> list[int]:
        """Tokens `start` up to `end` of `all_token_ids`, at a cost that depends on their number alone."""
        num_prompt = len(self.prompt_token_ids)
        if start >= num_prompt:
            return self.output_token_ids[start - num_prompt : end - num_prompt]
        return self.prompt_token_ids[start:end] + self.output_token_ids[: max(0, end - num_prompt)]

    @property
    def is_finished(self) -> bool:
        return self.status is RequestStatus.FINISHED


@dataclass(slots=True, kw_only=True)
class RequestUpdate:
    """What one step did to one request, from the engine to whoever turns tokens into text."""

    request_id: str
    new_token_ids: list[int]
    logprobs: list[TokenLogprobs] | None = None  # one per new token, when asked for
    prompt_logprobs: list[TokenLogprobs | None] | None = None  # the whole prompt, once
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    completes_structure: bool = False  # with the reason STOP: the last token is part of the text, not what ended it
    num_cached_tokens: int = 0
    scheduled_ts: float = 0.0  # monotonic seconds of the request's first step
