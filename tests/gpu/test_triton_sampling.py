"""Sampling in Triton against the CPU's sampler and plain torch: tokens, truncation, penalties, log probabilities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from triton_device import DEVICE, INTERPRETED, every_dtype, poisoned, skip_without_gpu

skip_without_gpu()

from octavo.kernels import torch_sampling, triton_sampling  # noqa: E402
from octavo.kernels.triton_bitmask import apply_bitmask_  # noqa: E402
from octavo.kernels.triton_logprobs import gather_logprobs  # noqa: E402
from octavo.kernels.triton_penalties import apply_penalties_  # noqa: E402
from octavo.sampling import logprobs as cpu_logprobs  # noqa: E402

VOCABS = (1, 100, 4097) if INTERPRETED else (1, 2, 100, 4096, 4097, 32000, 151936)
NAN, INF = float("nan"), float("inf")


@pytest.fixture(autouse=True)
def _setup(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    poisoned(monkeypatch)


def logits_of(rows: int, vocab_size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Rows that do not lie side by side."""
    return (torch.randn(rows, vocab_size + 8) * 3).to(DEVICE, dtype)[:, 3 : 3 + vocab_size]


@every_dtype
@pytest.mark.parametrize("vocab_size", VOCABS)
def test_argmax(vocab_size: int, dtype: torch.dtype) -> None:
    for rows in (0, 1, 7):
        x = logits_of(rows, vocab_size, dtype)
        equal = x == x.amax(-1, keepdim=True)
        assert torch.equal(triton_sampling.argmax(x), equal.int().argmax(-1))


def test_argmax_of_equals_and_of_what_is_no_number() -> None:
    x = torch.full((7, 5000), -INF, device=DEVICE)
    x[1, 4999] = -1e30
    x[2] = NAN
    x[3], x[3, 3] = NAN, -5.0
    x[4, 1], x[4, 2] = 2.0, NAN
    x[5, 2:4500] = INF
    x[6], x[6, 4100] = -0.0, 0.0
    assert triton_sampling.argmax(x).tolist() == [0, 4999, 0, 3, 1, 2, 0]


class Params:
    """The parameters of some rows on the host, as the CPU's sampler takes them, and on the device."""

    def __init__(self, rows: int) -> None:
        random = np.random.default_rng(rows)
        self.temperature = np.full(rows, 0.8, np.float32)
        self.min_p = np.zeros(rows, np.float32)
        self.top_k = np.zeros(rows, np.int64)
        self.top_p = np.ones(rows, np.float64)
        self.uniforms = random.random(rows)

    def on_device(self) -> dict[str, Tensor]:
        columns = {
            "temperature": self.temperature,
            "min_p": self.min_p,
            "top_k": self.top_k,
            "top_p": self.top_p,
            "uniforms": self.uniforms,
        }
        return {name: torch.from_numpy(column).to(DEVICE) for name, column in columns.items()}

    def expected(self, logits: Tensor) -> Tensor:
        host = logits.cpu().double()
        warm = torch.from_numpy(np.where(self.temperature > 0, self.temperature, 1)).double()
        probs = (host / warm[:, None]).softmax(-1).float()
        torch_sampling.truncate_(probs, *(torch.from_numpy(each) for each in (self.min_p, self.top_k, self.top_p)))
        drawn = torch_sampling.invert(probs, torch.from_numpy(self.uniforms))
        return torch.where(torch.from_numpy(self.temperature > 0), drawn, host.argmax(-1))


def check(logits: Tensor, params: Params) -> None:
    """The same tokens as on the CPU, but for a row in a hundred where a sum is rounded the other way."""
    tokens = triton_sampling.sample(logits, **params.on_device()).cpu()
    different = (tokens != params.expected(logits)).sum().item()
    assert different <= len(tokens) // 100


ROWS = 6 if INTERPRETED else 400


@pytest.mark.parametrize("vocab_size", VOCABS)
def test_each_row_by_its_own_parameters(vocab_size: int) -> None:
    params, kinds = Params(ROWS), np.arange(ROWS)
    params.temperature[kinds % 6 == 5] = 0.0
    params.temperature[kinds % 5 == 4] = 1.7
    params.min_p[kinds % 4 == 1] = 0.05
    params.top_k[kinds % 3 == 1] = min(7, vocab_size - 1)
    params.top_p[kinds % 2 == 1] = 0.8
    check(logits_of(ROWS, vocab_size), params)


@pytest.mark.parametrize("top_p", [1e-6, 0.5, 0.999])
@pytest.mark.parametrize("top_k", [0, 1, 40, 4096])
def test_truncation(top_k: int, top_p: float) -> None:
    params = Params(ROWS)
    params.top_k[:], params.top_p[:] = top_k, top_p
    check(logits_of(ROWS, 4097 if INTERPRETED else 50000), params)


def test_equals_stay_together() -> None:
    """Logits of a few values only, so that floors lie within many equals."""
    params = Params(ROWS)
    params.top_k[::2], params.top_p[::3] = 5, 0.6
    check((torch.randint(0, 4, (ROWS, 300)) * 0.5 - 1).to(DEVICE), params)


def test_uniform_numbers_decide_as_on_the_cpu() -> None:
    """Over equal weights the token is the uniform number itself."""
    params = Params(ROWS)
    params.uniforms[:4] = 0.0, 0.5, 0.25, 1 - 2**-53
    tokens = triton_sampling.sample(torch.zeros(ROWS, 4096, device=DEVICE), **params.on_device())
    assert tokens.tolist() == (params.uniforms * 4096).astype(int).tolist()


def test_a_row_is_the_same_in_every_batch() -> None:
    logits, params = logits_of(ROWS, 5000), Params(ROWS)
    params.top_k[::2], params.top_p[::3] = 50, 0.9
    columns = params.on_device()
    together = triton_sampling.sample(logits, **columns)
    for row in (0, 1, 4, ROWS - 1):
        alone = {name: column[row : row + 1] for name, column in columns.items()}
        assert triton_sampling.sample(logits[row : row + 1], **alone).item() == together[row].item()
    without_both = Params(ROWS).on_device()
    every = triton_sampling.sample(logits, **without_both)
    assert torch.equal(triton_sampling.sample(logits, **without_both, any_top_k=False, any_top_p=False), every)


def test_rows_that_are_not_finite() -> None:
    logits = torch.randn(5, 4100, device=DEVICE)
    logits[0], logits[1], logits[2, ::2] = NAN, -INF, -INF
    logits[3, 77], logits[4, :4000] = INF, NAN
    params = Params(5)
    params.top_k[:], params.top_p[:] = 30, 0.9
    tokens = triton_sampling.sample(logits, **params.on_device()).tolist()
    assert all(0 <= token < 4100 for token in tokens)
    assert tokens[2] % 2 == 1
    assert tokens[3] == 77
    assert tokens[4] >= 4000


@pytest.mark.parametrize("vocab_size", VOCABS)
def test_bitmasks(vocab_size: int) -> None:
    logits = logits_of(7, vocab_size)
    rows = torch.tensor([5, 0, 3, 6])
    words = torch.randint(-(2**31), 2**31, (4, -(-vocab_size // 32)), dtype=torch.int32)
    expected = logits.cpu().clone()
    torch_sampling.apply_bitmask_(expected, rows, words)
    apply_bitmask_(logits, rows.to(DEVICE), words.to(DEVICE))
    assert torch.equal(logits.cpu(), expected)


@pytest.mark.parametrize("vocab_size", [50, 5000])
def test_penalties(vocab_size: int) -> None:
    rows, slots, longest = 6, 9, 2100
    token_ids = torch.randint(0, vocab_size, (slots, longest), dtype=torch.int32)
    num_tokens = np.array([1, 2100, 700, 1024, 1025, 30])
    num_prompt_tokens = np.array([1, 1000, 700, 10, 1024, 30])
    columns = {
        "repetition": np.array([1.5, 1.2, 1.0, 0.7, 1.0, 1.0], np.float32),
        "frequency": np.array([0.1, 0.0, 0.5, -0.3, 0.2, 0.0], np.float32),
        "presence": np.array([0.0, 0.4, 0.5, 0.2, 0.0, 0.0], np.float32),
    }
    at = np.array([8, 0, 3, 5, 1, 2])
    logits = logits_of(rows, vocab_size)
    expected = logits.cpu().clone()
    host = [torch.from_numpy(column) for column in (np.arange(rows), at, num_tokens, num_prompt_tokens)]
    torch_sampling.penalize_(expected, *host[:2], token_ids, *host[2:], *map(torch.from_numpy, columns.values()))
    untouched = logits[5].clone()
    counts = torch.zeros(8, vocab_size, dtype=torch.int32, device=DEVICE)
    apply_penalties_(
        logits,
        token_ids.to(DEVICE),
        *(torch.from_numpy(column).to(DEVICE) for column in (at, num_tokens, num_prompt_tokens)),
        **{name: torch.from_numpy(column).to(DEVICE) for name, column in columns.items()},
        counts=counts,
    )
    torch.testing.assert_close(logits.cpu(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(logits[5], untouched)
    assert not counts.any()


@pytest.mark.parametrize("vocab_size", VOCABS)
@pytest.mark.parametrize("num_top", [0, 1, 20])
def test_logprobs(vocab_size: int, num_top: int) -> None:
    num_top = min(num_top, vocab_size)
    logits = logits_of(5, vocab_size)
    logits[1] = logits[1].round()
    logits[2, 1::2] = -INF
    tokens = torch.randint(0, vocab_size, (5,), device=DEVICE)
    ids, logprobs, ranks = gather_logprobs(logits, tokens, num_top)
    expected = cpu_logprobs.gather_logprobs(torch_sampling, logits.cpu(), tokens.cpu(), np.full(5, num_top), {})
    assert expected is not None
    assert torch.equal(ranks.cpu(), expected.ranks)
    torch.testing.assert_close(logprobs.cpu(), expected.logprobs, rtol=1e-5, atol=1e-5)
    finite = expected.logprobs.isfinite()
    assert torch.equal(ids.cpu()[finite], expected.token_ids[finite])


@pytest.mark.skipif(INTERPRETED, reason="only a GPU has graphs")
def test_in_a_graph() -> None:
    logits, params = logits_of(8, 32000), Params(8)
    params.top_k[::2], params.top_p[::3] = 50, 0.9
    columns = params.on_device()
    expected = triton_sampling.sample(logits, **columns)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        tokens = triton_sampling.sample(logits, **columns)
    for _ in range(3):
        tokens.zero_()
        graph.replay()
        assert torch.equal(tokens, expected)
