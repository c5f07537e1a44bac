"""Penalties, bias, masks and bad words against numpy and transformers' processors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import (
    MinNewTokensLengthLogitsProcessor,
    NoBadWordsLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
)

from octavo.sampling.constraints import Constraints
from octavo.sampling.history import History

V = 60


def history_of(requests):
    longest = max(len(r.token_ids) for r in requests) + 2
    token_ids = torch.full((len(requests), longest), 3, dtype=torch.int32)
    for row, request in zip(token_ids, requests, strict=True):
        row[: len(request.token_ids)] = torch.tensor(request.token_ids)
    return History(
        token_ids,
        np.array([len(r.token_ids) for r in requests]),
        np.array([r.num_prompt_tokens for r in requests]),
    )


def penalised(kernels, logits, requests):
    rows = torch.arange(len(requests))
    history = history_of(requests)
    logits = logits.clone()
    kernels.sampling.penalize_(
        logits,
        rows,
        rows,
        history.token_ids,
        torch.from_numpy(history.num_tokens),
        torch.from_numpy(history.num_prompt_tokens),
        repetition=torch.tensor([r.params.repetition_penalty for r in requests]),
        frequency=torch.tensor([r.params.frequency_penalty for r in requests]),
        presence=torch.tensor([r.params.presence_penalty for r in requests]),
    )
    return logits


def constrained(logits, requests):
    constraints = Constraints(vocab_size=logits.shape[1])
    for slot, request in enumerate(requests):
        constraints.add(slot, request)
    history = history_of(requests)
    edits = constraints.collect(np.arange(len(requests)), history)
    logits = logits.clone()
    if edits is not None:
        edits.apply_(logits, history)
    return logits


def random_logits(num, seed=0):
    return torch.randn(num, V, generator=torch.Generator().manual_seed(seed)) * 3


def test_repetition_penalty_is_that_of_transformers(kernels, request_of):
    rng = np.random.default_rng(0)
    values = [0.5, 1.0, 1.3, 4.0]
    requests = [
        request_of(rng.integers(0, V, 5 + i).tolist(), rng.integers(0, V, 3 * i).tolist(), repetition_penalty=value)
        for i, value in enumerate(values)
    ]
    logits = random_logits(4)
    found = penalised(kernels, logits, requests)
    for i, request in enumerate(requests):
        processor = RepetitionPenaltyLogitsProcessor(penalty=values[i])
        expected = processor(torch.tensor([request.token_ids]), logits[i : i + 1].clone())
        torch.testing.assert_close(found[i], expected[0])


def test_all_penalties_against_numpy(kernels, request_of):
    rng = np.random.default_rng(1)
    requests = [
        request_of(
            rng.integers(0, V, rng.integers(1, 20)).tolist(),
            rng.integers(0, 8, rng.integers(0, 40)).tolist(),
            repetition_penalty=float(rng.choice([1.0, 1.2, 0.7])),
            frequency_penalty=float(rng.choice([0.0, 0.5, -1.5])),
            presence_penalty=float(rng.choice([0.0, 0.25, -2.0])),
        )
        for _ in range(30)
    ]
    logits = random_logits(30, seed=1)
    found = penalised(kernels, logits, requests)
    for i, request in enumerate(requests):
        params, expected = request.params, logits[i].double().numpy().copy()
        for token_id in set(request.token_ids):
            value = expected[token_id]
            value = value / params.repetition_penalty if value > 0 else value * params.repetition_penalty
            count = request.token_ids[request.num_prompt_tokens :].count(token_id)
            expected[token_id] = value - params.frequency_penalty * count - params.presence_penalty * (count > 0)
        np.testing.assert_allclose(found[i].numpy(), expected, rtol=1e-5, atol=1e-5)


def test_penalties_reach_the_choice_only_of_the_rows_that_ask(sample, request_of):
    logits = torch.zeros(4, V)
    logits[:, 5], logits[:, 6] = 2.0, 1.5
    output = sample(
        logits,
        [
            request_of([1, 5], temperature=0),
            request_of([1, 5], temperature=0, repetition_penalty=2.0),
            request_of([1, 5], temperature=0, frequency_penalty=2.0),  # in the prompt: not counted
            request_of([1], [5, 5], temperature=0, frequency_penalty=0.3),
        ],
        slots=[4, 0, 2, 1],
    )
    assert output.token_ids.tolist() == [5, 6, 5, 6]


@pytest.mark.parametrize("penalty", [1e-300, 1e300])
def test_extreme_repetition_penalty_gives_no_nan(sample, request_of, penalty):
    logits = torch.zeros(2, V)
    logits[:, 7] = 1.0
    requests = [request_of([7, 8], temperature=t, repetition_penalty=penalty) for t in (0, 1)]
    greedy, drawn = sample(logits, requests).token_ids.tolist()
    assert greedy == 7
    assert drawn == 7 if penalty < 1 else 0 <= drawn < V


def test_bad_words_are_those_of_transformers(request_of):
    words = [[4], [1, 2], [5, 1, 2], [9, 9, 9, 9], [7, 2], [3, 8]]
    histories = [[1], [5, 1], [0, 7], [9, 9, 9], [9, 9], [2, 3], [6, 6, 3], [1, 2, 3, 4, 5, 6, 7]]
    logits = random_logits(len(histories))
    found = constrained(logits, [request_of(h, bad_words=words) for h in histories])
    processor = NoBadWordsLogitsProcessor(words, eos_token_id=V - 1)
    for i, tokens in enumerate(histories):
        torch.testing.assert_close(found[i], processor(torch.tensor([tokens]), logits[i : i + 1])[0])
    assert {len(r.isneginf().nonzero()) for r in found} == {1, 2}


def test_bad_words_of_different_requests_do_not_mix(request_of):
    requests = [
        request_of([1], [2, 3], bad_words=[[2, 3, 10], [3, 11]]),
        request_of([1, 2, 3]),
        request_of([3], bad_words=[[2, 3, 10], [3, 11], [11]]),
        request_of([1, 2, 3], bad_words=[[8, 10], [3, 10]]),  # the same last token: one of them matches
    ]
    found = constrained(torch.zeros(4, V), requests)
    assert [row.isneginf().nonzero()[:, 0].tolist() for row in found] == [[10, 11], [], [11], [10]]


def test_min_tokens_is_that_of_transformers(request_of):
    logits = random_logits(4)
    requests = [request_of([1, 2, 3], [4] * n, min_tokens=2, stop=[0, 50]) for n in range(4)]
    found = constrained(logits, requests)
    processor = MinNewTokensLengthLogitsProcessor(3, 2, [0, 50])
    for i, request in enumerate(requests):
        torch.testing.assert_close(found[i], processor(torch.tensor([request.token_ids]), logits[i : i + 1])[0])
    assert found[:2, [0, 50]].isneginf().all()
    assert torch.equal(found[2:], logits[2:])


def test_allowed_tokens_bias_and_their_order(request_of):
    logits = random_logits(4)
    requests = [
        request_of([1], allowed_token_ids=[3, 40, 41]),
        request_of([1], logit_bias={5: 100, 6: -1.5}),
        request_of([1], allowed_token_ids=[3, 4], bad_words=[[3]], logit_bias={3: 100, 9: 100, 4: 1}),
        request_of([1], min_tokens=1, stop=[7], logit_bias={7: 100}),
    ]
    found = constrained(logits, requests)
    expected = logits.clone()
    expected[0, [i for i in range(V) if i not in (3, 40, 41)]] = -torch.inf
    expected[1, 5] += 100
    expected[1, 6] -= 1.5
    expected[2] = -torch.inf
    expected[2, 4] = logits[2, 4] + 1
    expected[3, 7] = -torch.inf
    torch.testing.assert_close(found, expected)


def test_nothing_is_kept_of_a_removed_request(request_of):
    constraints = Constraints(vocab_size=V)
    constraints.add(2, request_of([1], allowed_token_ids=[3]))
    history = history_of([request_of([1])])
    assert constraints.collect(np.array([2]), history) is not None
    assert constraints.collect(np.array([1]), history) is None
    constraints.remove(2)
    assert constraints.collect(np.array([2]), history) is None
