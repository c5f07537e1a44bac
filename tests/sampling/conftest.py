"""A batch written down in one call: requests in slots, their histories, and one call of the sampler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from all_kernels import KERNELS
from torch import Tensor

from octavo.batch import GrammarBitmask, NewRequest
from octavo.sampling.sampler import History, Sampler, SamplerOutput
from octavo.sampling_params import SamplingParams

Sample = Callable[..., SamplerOutput]


def new_request(
    prompt: Sequence[int],
    output: Sequence[int] = (),
    *,
    seed: int = 0,
    stop: Sequence[int] = (),
    bad_words: Sequence[Sequence[int]] = (),
    **params: Any,
) -> NewRequest:
    params.setdefault("max_tokens", None)
    return NewRequest(
        request_id="r",
        token_ids=[*prompt, *output],
        num_prompt_tokens=len(prompt),
        params=SamplingParams(**params),
        seed=seed,
        stop_token_ids=list(stop),
        bad_words_token_ids=[list(word) for word in bad_words],
        block_ids=(),
        num_computed_tokens=0,
    )


def sample_requests(
    kernels: Any,
    logits: Tensor,
    requests: Sequence[NewRequest],
    slots: Sequence[int] | None = None,
    bitmask: GrammarBitmask | None = None,
) -> SamplerOutput:
    """Row i of `logits` is that of requests[i], which sits in slots[i]; unused history is full of token 1."""
    slots = list(range(len(requests))) if slots is None else slots
    sampler = Sampler(
        vocab_size=logits.shape[1], max_num_seqs=max(slots) + 1, device=torch.device("cpu"), kernels=kernels.sampling
    )
    longest = max(len(r.token_ids) for r in requests) + 3
    token_ids = torch.ones(max(slots) + 1, longest, dtype=torch.int32)
    for slot, request in zip(slots, requests, strict=True):
        sampler.add(slot, request)
        token_ids[slot, : len(request.token_ids)] = torch.tensor(request.token_ids, dtype=torch.int32)
    history = History(
        token_ids=token_ids,
        num_tokens=np.array([len(r.token_ids) for r in requests], dtype=np.int64),
        num_prompt_tokens=np.array([r.num_prompt_tokens for r in requests], dtype=np.int64),
    )
    output = sampler.sample(logits.clone(), np.array(slots), history, bitmask)  # it may change what it is given
    assert output.token_ids.shape == (len(requests),)
    assert output.token_ids.dtype == torch.int64
    return output


@pytest.fixture
def request_of() -> Callable[..., NewRequest]:
    return new_request


@pytest.fixture(params=KERNELS)
def kernels(request: pytest.FixtureRequest) -> Any:
    return KERNELS[request.param]


@pytest.fixture
def sample(kernels: Any) -> Sample:
    return partial(sample_requests, kernels)
