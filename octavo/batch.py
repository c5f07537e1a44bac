"""The messages between the scheduler, which decides, and the worker, which computes. Plain data, no tensors.

The scheduler sends a ScheduledBatch per step; the worker answers with a StepOutput.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from octavo.request import TokenLogprobs
from octavo.sampling_params import SamplingParams

NO_TOKEN = -1  # in place of a sampled token: what the request asks for forbids them all


@dataclass(slots=True, kw_only=True)
class NewRequest:
    """A request that the worker does not hold: a new one, or one that comes back after preemption."""

    request_id: str
    token_ids: list[int]  # all that the host knows: the prompt, and outputs when it comes back
    num_prompt_tokens: int
    params: SamplingParams
    seed: int
    stop_token_ids: list[int]  # end-of-sequence and stop tokens, masked until min_tokens
    bad_words_token_ids: list[list[int]]
    block_ids: tuple[list[int], ...]
    num_computed_tokens: int


@dataclass(slots=True, kw_only=True)
class CachedRequests:
    """Requests that the worker holds already, in columns of equal length."""

    request_ids: list[str] = field(default_factory=list)
    new_block_ids: list[tuple[list[int], ...]] = field(default_factory=list)  # per KV-cache group
    num_computed_tokens: list[int] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class GrammarBitmask:
    """Which tokens some of a step's sampled requests may get: bit i % 32 of word i // 32 for token i."""

    rows: NDArray[np.int64]  # [M], places in `sampled_request_ids`, each once
    words: NDArray[np.int32]  # [M, ceil(vocab_size / 32)]


@dataclass(slots=True, kw_only=True)
class ScheduledBatch:
    """One step's work: for each request how many tokens to compute, and where their keys and values go."""

    step_id: int
    new_requests: list[NewRequest]
    cached: CachedRequests
    num_scheduled_tokens: dict[str, int]  # in the order of the rows of the batch
    total_num_scheduled_tokens: int
    sampled_request_ids: list[str]  # those whose last wanted token is computed: a token is sampled
    spec_token_ids: dict[str, list[int]] = field(default_factory=dict)
    released_request_ids: list[str] = field(default_factory=list)  # finished or preempted since the last step
    awaits_bitmask: bool = False  # sampling waits for a GrammarBitmask, which follows when the step before is known


@dataclass(slots=True, kw_only=True)
class StepOutput:
    """What a step computed. Lists run parallel to `request_ids`, the batch's sampled requests in their order."""

    step_id: int
    request_ids: list[str]
    token_ids: list[list[int]]  # NO_TOKEN where none could be sampled
    logprobs: dict[str, list[TokenLogprobs]] = field(default_factory=dict)  # one per token of that request
    # The chunk of the prompt that the step computed: how many positions came before it, and those of the chunk.
    prompt_logprobs: dict[str, tuple[int, list[TokenLogprobs]]] = field(default_factory=dict)
    draft_token_ids: dict[str, list[int]] = field(default_factory=dict)
