"""The sampler as a whole: distributions of the draw, independence of the batch, and edges."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from octavo.batch import NO_TOKEN, GrammarBitmask
from octavo.sampling.sampler import History, Sampler

V = 300


def expected_probs(logits, temperature=1.0, min_p=0.0, top_k=0, top_p=1.0):
    """float64 numpy after the definitions; the logits have no equals."""
    scaled = logits.double().numpy() / temperature
    probs = np.exp(scaled - scaled.max())
    probs /= probs.sum()
    probs[probs < min_p * probs.max()] = 0
    order = np.argsort(-probs)
    if top_k:
        probs[order[top_k:]] = 0
    if top_p < 1:
        cumulative = probs[order].cumsum() / probs.sum()
        probs[order[1:][cumulative[:-1] >= top_p]] = 0
    return probs / probs.sum()


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 2.0},
        {"top_p": 0.8},
        {"top_p": 0.3},
        {"top_k": 12},
        {"min_p": 0.1},
        {"temperature": 1.3, "top_k": 40, "top_p": 0.9, "min_p": 0.02},
    ],
)
def test_draws_follow_the_distribution(sample, request_of, params):
    logits = torch.randn(1, V, generator=torch.Generator().manual_seed(7)) * 2
    num = 6000
    requests = [request_of([1], [1] * (i % 3), seed=i, **params) for i in range(num)]
    tokens = sample(logits.expand(num, V).clone(), requests).token_ids
    counts = np.bincount(tokens.numpy(), minlength=V)
    probs = expected_probs(logits[0], **params)
    assert counts[probs == 0].sum() == 0
    common = probs * num >= 5
    observed, expected = counts[common].tolist(), (probs[common] * num).tolist()
    if expected and num - sum(expected) > 5:  # the rare ones together
        observed.append(num - sum(observed))
        expected.append(num - sum(expected))
    assert len(observed) > 1
    expected = np.array(expected) * (sum(observed) / sum(expected))
    assert stats.chisquare(observed, expected).pvalue > 0.01


def mixed_requests(request_of, num=24):
    kinds = [
        {},
        {"temperature": 0},
        {"top_p": 0.9},
        {"top_k": 5},
        {"top_k": 100, "top_p": 0.7},
        {"min_p": 0.05},
        {"repetition_penalty": 1.4, "presence_penalty": 0.5},
        {"logit_bias": {3: 4.0}, "temperature": 0.7},
        {"bad_words": [[2], [4, 5]], "logprobs": 3},
        {"min_tokens": 40, "stop": [9], "min_p": 0.01, "top_p": 0.95},
        {"allowed_token_ids": list(range(0, V, 3))},
        {"temperature": 1.7, "logprobs": 8},
    ]
    return [request_of(range(i + 1), range(i % 5), seed=1000 + i - 12, **kinds[i % len(kinds)]) for i in range(num)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_request_alone_and_in_any_batch_and_slot_gets_the_same(sample, request_of, dtype):
    requests = mixed_requests(request_of)
    num = len(requests)
    # Few distinct values: equals are everywhere, and must not be told apart by the batch.
    logits = (torch.randn(num, V, generator=torch.Generator().manual_seed(0)) * 4).round().div(2).to(dtype)
    together = sample(logits, requests)
    rows = together.logprobs.to_rows()
    order = np.random.default_rng(0).permutation(num)
    shuffled = sample(logits[order], [requests[i] for i in order], slots=(order * 3 % 73).tolist())
    assert torch.equal(shuffled.token_ids, together.token_ids[order])
    for i in range(num):
        alone = sample(logits[i : i + 1], [requests[i]], slots=[i])
        assert alone.token_ids.tolist() == together.token_ids[i : i + 1].tolist()
        assert (alone.logprobs.to_rows()[0] if alone.logprobs else None) == rows[i]


def test_seeds_and_positions_give_different_tokens_and_a_seed_the_same(sample, request_of):
    logits = torch.zeros(1, V)

    def token(seed, index):
        return sample(logits, [request_of([1, 2], [3] * index, seed=seed)]).token_ids.item()

    assert len({token(1, i) for i in range(30)}) > 20
    assert len({token(s, 0) for s in range(-15, 15)}) > 20
    assert token(-5, 3) == token(-5, 3)
    # The prompt's length has no part in it.
    assert sample(logits, [request_of([1] * 9, [3] * 4, seed=8)]).token_ids.item() == token(8, 4)


def test_generation_continues_alike_after_a_preemption(kernels, request_of):
    """Twelve steps in one go, and with the request taken out after five and put back into another slot."""
    logits = torch.randn(12, V, generator=torch.Generator().manual_seed(3))
    params = {"seed": 11, "temperature": 1.2, "frequency_penalty": 1.0, "top_p": 0.95}

    def generate(moved):
        sampler = Sampler(vocab_size=V, max_num_seqs=4, device=torch.device("cpu"), kernels=kernels.sampling)
        token_ids = torch.zeros(4, 32, dtype=torch.int32)
        tokens, slot = [5, 6], 1
        token_ids[slot, :2] = torch.tensor(tokens)
        sampler.add(slot, request_of(tokens, **params))
        for step in range(12):
            if moved and step == 5:
                sampler.remove(slot)
                slot = 3
                sampler.add(slot, request_of(tokens[:2], tokens[2:], **params))
                token_ids[slot, : len(tokens)] = torch.tensor(tokens)
            history = History(token_ids, np.array([len(tokens)]), np.array([2]))
            slots = torch.tensor([slot])
            tokens.append(sampler.sample(logits[step : step + 1].clone(), slots, history).token_ids.item())
            token_ids[slot, len(tokens) - 1] = tokens[-1]
        return tokens

    assert generate(moved=True) == generate(moved=False)


def test_a_slot_forgets_its_last_request(kernels, request_of):
    sampler = Sampler(vocab_size=V, max_num_seqs=1, device=torch.device("cpu"), kernels=kernels.sampling)
    history = History(torch.ones(1, 8, dtype=torch.int32), np.array([2]), np.array([1]))
    logits = torch.arange(V, dtype=torch.float32)[None]
    loud = request_of(
        [1], [1], temperature=0, logit_bias={4: 100}, allowed_token_ids=[4, 5], bad_words=[[V - 1]], min_tokens=9,
        stop=[V - 1], logprob_token_ids=[1, 2], repetition_penalty=3.0,
    )  # fmt: skip
    sampler.add(0, loud)
    first = sampler.sample(logits.clone(), np.array([0]), history)
    assert first.logprobs.to_rows()[0].token_ids == [4, 1, 2]
    sampler.remove(0)
    sampler.add(0, request_of([1], [1], temperature=0, logprobs=1))
    second = sampler.sample(logits.clone(), np.array([0]), history)
    assert second.token_ids.tolist() == [V - 1]
    assert second.logprobs.to_rows()[0].token_ids == [V - 1, V - 1]


def test_greedy_takes_the_first_of_equals_and_so_does_top_k_1(sample, request_of):
    logits = torch.zeros(2, V)
    logits[:, [200, 17, 90]] = 3.0
    requests = [request_of([1], temperature=0), request_of([1], top_k=1, seed=99)]
    assert sample(logits, requests).token_ids.tolist() == [17, 17]


@pytest.mark.parametrize(
    "params",
    [{"top_p": 1e-9}, {"min_p": 1.0}, {"top_k": 1}, {"temperature": 0.01}, {"allowed_token_ids": [42]}],
)
def test_settings_that_leave_one_token(sample, request_of, params):
    logits = torch.linspace(0, 10, V).roll(43)[None].expand(20, V).clone()
    assert logits[0].argmax() == 42
    tokens = sample(logits, [request_of([1], seed=s, **params) for s in range(20)]).token_ids
    assert tokens.tolist() == [42] * 20


def test_top_k_beyond_the_vocabulary_is_off(sample, request_of):
    logits = torch.randn(40, V, generator=torch.Generator().manual_seed(0))
    found = [
        sample(logits, [request_of([1], seed=s, top_k=k) for s in range(40)]).token_ids.tolist()
        for k in (0, V, V + 1, 10**9)
    ]
    assert found[0] == found[1] == found[2] == found[3]


@pytest.mark.parametrize("temperature", [0.0, 0.01, 1.0])
def test_huge_bias_and_masked_logits(sample, request_of, temperature):
    logits = torch.full((2, V), -torch.inf)
    logits[0, 7] = 3.0
    logits[1] = 0.0
    requests = [
        request_of([1], temperature=temperature),
        request_of([1], temperature=temperature, logit_bias={50: 1e9}),
    ]
    assert sample(logits, requests).token_ids.tolist() == [7, 50]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_broken_rows_get_some_token_and_harm_no_other(sample, request_of, value):
    requests = mixed_requests(request_of)
    logits = torch.randn(len(requests), V, generator=torch.Generator().manual_seed(5))
    healthy = sample(logits, requests).token_ids
    broken = torch.arange(len(requests)) % 3 == 1
    logits[broken] = value
    logits[4, 10] = value
    broken[4] = True
    output = sample(logits, requests)
    assert torch.equal(output.token_ids[~broken], healthy[~broken])
    assert ((output.token_ids >= 0) & (output.token_ids < V)).all()
    assert len(output.logprobs.to_rows()) == len(requests)


def test_a_row_without_any_token_is_told(sample, request_of):
    """On the device it has some id, since the next step may read that before the host does."""
    common = {"allowed_token_ids": [3], "top_p": 0.9}
    requests = [request_of([1], temperature=t, bad_words=[word], **common) for t in (0, 1) for word in ([3], [4])]
    requests.append(request_of([1], temperature=1, logprobs=2))
    output = sample(torch.zeros(5, V), requests)
    assert ((output.token_ids >= 0) & (output.token_ids < V)).all()
    assert output.to_host().token_ids.tolist() == [NO_TOKEN, 3, NO_TOKEN, 3, output.token_ids[4]]


def test_history_on_the_device_alone_counts(kernels, request_of):
    """The token ids of a request as added are not read: the newest tokens stand in the history only."""
    sampler = Sampler(vocab_size=V, max_num_seqs=2, device=torch.device("cpu"), kernels=kernels.sampling)
    sampler.add(1, request_of([1], temperature=0, presence_penalty=2.0, bad_words=[[30, 31]]))
    logits = torch.zeros(1, V)
    logits[0, [30, 31, 32]] = torch.tensor([3.0, 2.5, 2.0])
    token_ids = torch.zeros(2, 10, dtype=torch.int32)
    token_ids[1, 0] = 1
    chosen = []
    for num in (1, 2):
        output = sampler.sample(logits.clone(), np.array([1]), History(token_ids, np.array([num]), np.array([1])))
        token_ids[1, num] = output.token_ids[0]
        chosen.append(output.token_ids.item())
    assert chosen == [30, 32]


@pytest.mark.parametrize("temperature", [0, 1.5])
def test_what_a_grammar_and_constraints_leave_nothing_of_is_told(sample, request_of, temperature):
    """Whatever id such a row gets, which by chance may be one that the grammar allows and the request does not."""
    allowed = [[37], [8, 37], [37, 4], *[[37]] * 37]
    words = np.full((40, -(-V // 32)), -1, np.int32)
    words[:, 1] = ~(1 << 5)  # all ids but 37
    words[1] = 0
    words[1, 0] = 1 << 8  # 8 alone
    bitmask = GrammarBitmask(rows=np.arange(40), words=words)
    requests = [
        request_of([1], seed=i, temperature=temperature, allowed_token_ids=ids) for i, ids in enumerate([*allowed, [6]])
    ]
    output = sample(torch.zeros(41, V), requests, bitmask=bitmask)
    assert ((output.token_ids >= 0) & (output.token_ids < V)).all()
    assert output.to_host().token_ids.tolist() == [NO_TOKEN, 8, 4, *[NO_TOKEN] * 37, 6]
