"""Random prompts and arrival times."""

from __future__ import annotations

import math
from itertools import islice
from typing import Any

import numpy as np
import pytest

from octavo.bench.workload import Workload, arrivals
from octavo.errors import ConfigError


def test_random_prompts_have_their_length_and_repeat_with_the_seed() -> None:
    prompts = list(islice(Workload(random_input_len=20, vocab_size=500, seed=3).prompts(), 50))
    assert {len(prompt) for prompt in prompts} == {20}
    ids = [token_id for prompt in prompts for token_id in prompt]
    assert 250 <= min(ids) < 260
    assert 490 < max(ids) < 500
    assert len({tuple(prompt) for prompt in prompts}) == 50
    assert prompts == list(islice(Workload(random_input_len=20, vocab_size=500, seed=3).prompts(), 50))
    assert prompts[0] != next(Workload(random_input_len=20, vocab_size=500, seed=4).prompts())


def test_prompts_share_prefixes_in_turn() -> None:
    workload = Workload(dataset="prefix", random_input_len=5, prefix_len=30, num_prefixes=3)
    prompts = list(islice(workload.prompts(), 9))
    assert {len(prompt) for prompt in prompts} == {35}
    prefixes = [tuple(prompt[:30]) for prompt in prompts]
    assert len(set(prefixes)) == 3
    assert prefixes[:3] == prefixes[3:6] == prefixes[6:]
    assert len({tuple(prompt[30:]) for prompt in prompts}) == 9


def test_arrivals_are_a_poisson_process() -> None:
    times = np.array(list(islice(arrivals(50.0, seed=1), 20_001)))
    gaps = np.diff(times)
    assert times[0] == 0
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.03)
    assert gaps.std() == pytest.approx(1 / 50, rel=0.05)  # exponential: as wide as its mean
    assert list(islice(arrivals(math.inf, seed=1), 3)) == [0, 0, 0]


@pytest.mark.parametrize("rate", [0, -1, math.nan])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(ConfigError, match="request_rate must be above 0"):
        arrivals(rate, 0)


@pytest.mark.parametrize(
    "wrong", [{"dataset": "sonnet"}, {"random_input_len": 0}, {"num_prefixes": 0}, {"vocab_size": 1}]
)
def test_wrong_workloads_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Workload(**wrong)
