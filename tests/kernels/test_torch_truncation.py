"""min_p, top_k and top_p against transformers' processors and against float64 numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from octavo.kernels import torch_sampling
from octavo.kernels.torch_sampling import truncate_


def kept(probs, min_p=0.0, top_k=0, top_p=1.0):
    num = len(probs)

    def column(value, dtype):
        return torch.as_tensor(value).to(dtype).expand(num)

    return (
        truncate_(probs.clone(), column(min_p, torch.float32), column(top_k, torch.int64), column(top_p, torch.float64))
        > 0
    )


def reference(probs, min_p, top_k, top_p):
    """One row after the definitions, in float64: what min_p, then top_k, then top_p keep; equals stay together."""
    p = probs.double().numpy().copy()
    p[p < np.float64(np.float32(min_p)) * p.max()] = 0
    order = np.sort(p)[::-1][: top_k or None]
    cumulative = order.cumsum()
    last = order[np.argmax(cumulative >= top_p * cumulative[-1])] if top_p < 1 else order[-1]
    return (p >= last) & (p > 0)


def distributions(num, vocab_size, scale, seed=0):
    return (torch.randn(num, vocab_size, generator=torch.Generator().manual_seed(seed)) * scale).softmax(-1)


@pytest.mark.parametrize("scale", [0.1, 1.0, 4.0])
@pytest.mark.parametrize(
    ("ours", "warper"),
    [
        ({"top_k": 1}, TopKLogitsWarper(1)),
        ({"top_k": 40}, TopKLogitsWarper(40)),
        ({"top_k": 2999}, TopKLogitsWarper(2999)),
        ({"min_p": 0.05}, MinPLogitsWarper(0.05)),
        ({"min_p": 0.9}, MinPLogitsWarper(0.9)),
        ({"top_p": 0.3}, TopPLogitsWarper(0.3)),
        ({"top_p": 0.95}, TopPLogitsWarper(0.95)),
        ({"top_p": 1e-6}, TopPLogitsWarper(1e-6)),
    ],
)
def test_one_alone_keeps_what_transformers_keeps(scale, ours, warper):
    probs = distributions(20, 3000, scale)
    expected = warper(torch.zeros(20, 1, dtype=torch.long), probs.log()) > -torch.inf
    found = kept(probs, **ours)
    # Where a sum of float32 stands at the border of top_p, rounding may decide on a token.
    slack = 1 if ours.get("top_p", 0) > 0.1 else 0
    assert ((found != expected).sum(-1) <= slack).all()


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_mixed_rows_match_the_definitions(scale):
    rng = np.random.default_rng(1)
    num = 48
    probs = distributions(num, 3000, scale, seed=2)
    min_p = np.where(rng.random(num) < 0.4, rng.choice([0.001, 0.02, 0.3], num), 0.0)
    top_k = np.where(rng.random(num) < 0.5, rng.choice([2, 10, 200, 1500], num), 0)
    top_p = np.where(rng.random(num) < 0.6, rng.choice([0.1, 0.7, 0.99], num), 1.0)
    found = kept(probs, min_p, top_k, top_p).numpy()
    for i in range(num):
        differ = found[i] != reference(probs[i], min_p[i], top_k[i], top_p[i])
        assert differ.sum() <= (1 if top_p[i] < 1 else 0), (i, min_p[i], top_k[i], top_p[i])


def test_top_p_does_not_depend_on_how_far_it_had_to_look(monkeypatch):
    probs = torch.cat([distributions(5, 4000, 5.0), distributions(5, 4000, 2.0), distributions(5, 4000, 0.1)])
    tried = kept(probs, top_p=0.9)
    sizes = tried.sum(-1)
    assert sizes.min() < 128
    assert ((sizes > 128) & (sizes < 1024)).any()
    assert sizes.max() > 1024
    monkeypatch.setattr(torch_sampling, "_CANDIDATES", ())
    assert torch.equal(tried, kept(probs, top_p=0.9))


def test_equals_stay_together():
    probs = torch.tensor([[0.05, 0.2, 0.2, 0.05, 0.2, 0.3]])
    assert kept(probs, top_k=2).tolist() == [[False, True, True, False, True, True]]
    assert kept(probs, top_p=0.4).tolist() == [[False, True, True, False, True, True]]
    assert kept(torch.full((1, 2000), 1 / 2000), top_p=0.5).all()


def test_the_most_likely_token_always_stays():
    probs = distributions(10, 500, 1.0)
    for given in ({"top_p": 1e-12}, {"min_p": 1.0}, {"top_k": 1}, {"top_p": 1e-12, "min_p": 1.0, "top_k": 3}):
        found = kept(probs, **given)
        assert (found.sum(-1) == 1).all()
        assert torch.equal(found.int().argmax(-1), probs.argmax(-1))


def test_top_p_keeps_everything_it_needs_when_the_mass_is_spread_evenly():
    probs = (torch.arange(1, 3001, dtype=torch.float64) / 3000).softmax(-1).float()[None]
    expected = reference(probs[0], 0, 0, 0.999999)
    assert (kept(probs, top_p=0.999999)[0].numpy() != expected).sum() <= 1
