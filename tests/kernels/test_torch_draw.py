"""The inverse-CDF draw against numpy's cumulative sum, and at its edges."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from octavo.kernels.torch_sampling import invert


@pytest.mark.parametrize("vocab_size", [1, 7, 255, 256, 257, 1000, 5000])
def test_equals_the_inverse_of_a_cumulative_sum(vocab_size):
    rng = np.random.default_rng(vocab_size)
    weights = (rng.random((50, vocab_size)) ** 4).astype(np.float32)
    weights[:, rng.random(vocab_size) < 0.3] = 0
    weights[:, rng.integers(vocab_size)] = 1
    numbers = rng.random(50)
    cumulative = weights.astype(np.float64).cumsum(-1)
    expected = [np.searchsorted(c, u * c[-1], side="right") for c, u in zip(cumulative, numbers, strict=True)]
    assert invert(torch.from_numpy(weights), torch.from_numpy(numbers)).tolist() == expected


@pytest.mark.parametrize("number", [0.0, 0.5, 1 - 2**-53])
@pytest.mark.parametrize("only", [0, 255, 256, 998])
def test_never_draws_a_weight_of_zero(number, only):
    weights = torch.zeros(1, 1000)
    weights[0, only] = 1e-30
    assert invert(weights, torch.tensor([number], dtype=torch.float64)).tolist() == [only]


def test_largest_number_finds_the_last_weight_above_zero():
    weights = torch.rand(200, 3000, generator=torch.Generator().manual_seed(0))
    weights[:, 2900:] = 0
    found = invert(weights, torch.full((200,), 1 - 2**-53, dtype=torch.float64))
    assert (found < 2900).all()
    assert (found > 2600).all()


def test_rows_of_nan_stay_in_range_and_leave_others_alone():
    weights = torch.ones(3, 300)
    weights[1] = torch.nan
    found = invert(weights, torch.full((3,), 0.5, dtype=torch.float64)).tolist()
    assert found[0] == found[2] == 150
    assert 0 <= found[1] < 300
