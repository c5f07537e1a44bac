"""Log probabilities and ranks against torch.log_softmax and a stable sort."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from octavo.sampling.logprobs import _PROMPT_ROWS, prompt_logprobs

V = 500


def logits_of(num, dtype=torch.float32, seed=0):
    return (torch.randn(num, V, generator=torch.Generator().manual_seed(seed)) * 3).to(dtype)


def check(entry, logits_row, token_id, others):
    expected = torch.log_softmax(logits_row.double(), -1)
    assert entry.token_ids == [token_id, *others]
    np.testing.assert_allclose(entry.logprobs, expected[entry.token_ids].numpy(), atol=1e-5)
    assert entry.rank == 1 + int((logits_row > logits_row[token_id]).sum())


def most_likely(logits_row, num):
    return logits_row.float().sort(descending=True, stable=True).indices[:num].tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_row_gets_what_it_asks_for(sample, request_of, dtype):
    logits = logits_of(6, dtype)
    output = sample(
        logits,
        [
            request_of([1], temperature=0, logprobs=5),
            request_of([1], temperature=1.5, seed=3, logprobs=2),
            request_of([1], temperature=1.0),
            request_of([1], temperature=0, logprobs=0),
            request_of([1], temperature=1.5, seed=4, logprob_token_ids=[9, 3, 400]),
            request_of([1], temperature=1.5, seed=4, logprobs=-1),
        ],
        slots=[3, 1, 0, 7, 5, 6],
    )
    tokens = output.token_ids.tolist()
    rows = output.logprobs.to_rows()
    assert rows[2] is None
    for i, num in ((0, 5), (1, 2), (3, 0), (5, V)):
        check(rows[i], logits[i], tokens[i], most_likely(logits[i], num))
    check(rows[4], logits[4], tokens[4], [9, 3, 400])
    assert rows[0].rank == 1
    assert output.logprobs.token_ids.shape == output.logprobs.logprobs.shape == (6, V + 1)
    assert output.logprobs.ranks.shape == (6,)


def test_none_when_nobody_asks(sample, request_of):
    assert sample(logits_of(2), [request_of([1]), request_of([1], temperature=0)]).logprobs is None


def test_are_those_of_the_raw_logits(sample, request_of):
    logits = logits_of(1)
    request = request_of(
        [1, 2], [3], temperature=0.3, top_k=2, logprobs=3, repetition_penalty=1.5, presence_penalty=1.0,
        logit_bias={77: 100}, allowed_token_ids=[77, 78],
    )  # fmt: skip
    output = sample(logits, [request])
    assert output.token_ids.tolist() == [77]
    check(output.logprobs.to_rows()[0], logits[0], 77, most_likely(logits[0], 3))


def test_equals_share_the_better_rank_and_lower_ids_come_first(sample, request_of):
    logits = torch.zeros(2, V)
    logits[:, [30, 20, 10]] = 1.0
    logits[:, 40] = 2.0
    requests = [request_of([1], temperature=0, logprobs=num, logit_bias={30: 50}) for num in (3, 6)]
    rows = sample(logits, requests).logprobs.to_rows()
    assert [row.rank for row in rows] == [2, 2]
    assert rows[0].token_ids == [30, 40, 10, 20]
    assert rows[1].token_ids == [30, 40, 10, 20, 30, 0, 1]


def test_masked_tokens_are_minus_infinity_and_come_last(sample, request_of):
    logits = torch.full((1, V), -torch.inf)
    logits[0, [5, 9]] = torch.tensor([1.0, 2.0])
    (row,) = sample(logits, [request_of([1], temperature=0, logprobs=4)]).logprobs.to_rows()
    assert row.token_ids == [9, 9, 5, 0, 1]
    assert row.logprobs[3:] == [-np.inf, -np.inf]
    assert row.rank == 1


def test_more_than_the_vocabulary_is_the_vocabulary(sample, request_of):
    logits = torch.randn(1, 8, generator=torch.Generator().manual_seed(0))
    (row,) = sample(logits, [request_of([1], temperature=0, logprobs=50)]).logprobs.to_rows()
    assert row.token_ids[1:] == most_likely(logits[0], 8)


@pytest.mark.parametrize("num", [0, 4, -1])
def test_prompt_logprobs(kernels, num):
    length = _PROMPT_ROWS + 10
    logits = logits_of(length, torch.bfloat16)
    targets = torch.randint(0, V, (length,), generator=torch.Generator().manual_seed(1))
    found = prompt_logprobs(kernels.sampling, logits, targets, num)
    assert len(found) == length
    for entry, row, target in zip(found, logits, targets.tolist(), strict=True):
        check(entry, row, target, most_likely(row, V if num == -1 else num))


def test_prompt_logprobs_of_given_ids(kernels):
    logits, targets = logits_of(4), torch.tensor([1, 2, 3, 4])
    found = prompt_logprobs(kernels.sampling, logits, targets, 0, [[7, 8], [-1, -1], [9, -1], []])
    for entry, row, target, ids in zip(found, logits, [1, 2, 3, 4], [[7, 8], [], [9], []], strict=True):
        check(entry, row, target, ids)
