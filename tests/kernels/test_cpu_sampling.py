"""CPUSampling against plain torch and against the definitions in float64; its independence of threads and rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from all_kernels import CPP_KERNELS, needs_cpp_kernels
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from octavo.kernels import torch_sampling
from octavo.kernels.cpu import CPUKernels
from octavo.kernels.cpu_sampling import CPUSampling

pytestmark = needs_cpp_kernels
SAMPLING = {isa: kernels.sampling for isa, kernels in CPP_KERNELS.items()}
every_isa = pytest.mark.parametrize("sampling", SAMPLING.values(), ids=SAMPLING)
WIDTHS = (1, 7, 15, 16, 17, 33, 257, 1000)
NAN, INF = float("nan"), float("inf")


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    torch.manual_seed(0)


def columns(num: int, **params: Any) -> dict[str, Tensor]:
    """The parameters of `draw`: one for all rows, or one for each."""
    defaults = {"temperature": 1.0, "min_p": 0.0, "top_k": 0, "top_p": 1.0, "uniforms": 0.5} | params
    dtypes = {"top_k": torch.int64, "top_p": torch.float64, "uniforms": torch.float64}
    return {
        name: torch.as_tensor(value).to(dtypes.get(name, torch.float32)).expand(num).contiguous()
        for name, value in defaults.items()
    }


def some_columns(num: int, vocab_size: int, seed: int = 0) -> dict[str, Tensor]:
    rng = np.random.default_rng(seed)
    return columns(
        num,
        temperature=rng.choice([0.0, 0.1, 0.7, 1.0, 3.0], num),
        min_p=np.where(rng.random(num) < 0.3, rng.choice([1e-4, 0.05, 0.5, 1.0], num), 0.0),
        top_k=np.where(rng.random(num) < 0.5, rng.integers(0, vocab_size, num), 0),
        top_p=np.where(rng.random(num) < 0.5, rng.choice([1e-9, 0.3, 0.9, 0.999], num), 1.0),
        uniforms=rng.random(num),
    )


def kept_weights(logits: NDArray[np.float64], temperature: float, min_p: float, top_k: int, top_p: float) -> Any:
    """After the definitions, in float64: what is left of each token's weight; 1 is the most likely token's."""
    weights = np.exp((logits - logits.max()) / temperature)
    weights[weights < min_p * (1 - 1e-6)] = 0
    order = np.sort(weights)[::-1][: top_k or None]
    last = order[np.argmax(order.cumsum() >= top_p * order.sum() * (1 - 1e-12))] if top_p < 1 else order[-1]
    return np.where(weights >= last, weights, 0)


def check_draws(logits: Tensor, drawn: Tensor, given: dict[str, Tensor]) -> None:
    """Each token holds its uniform number between the shares up to it and with it, but for rounding."""
    for row, token, temperature, min_p, top_k, top_p, uniform in zip(
        logits.double().numpy(), drawn.tolist(), *(given[name].tolist() for name in given), strict=True
    ):
        if temperature == 0:
            assert token == row.argmax()
            continue
        weights = kept_weights(row, temperature, min_p, top_k, top_p)
        shares = weights.cumsum() / weights.sum()
        assert weights[token] > 0
        assert shares[token] - weights[token] / weights.sum() - 1e-5 <= uniform <= shares[token] + 1e-5


# ---- argmax ----


@every_isa
@pytest.mark.parametrize("width", [*WIDTHS, 100])
def test_argmax(sampling: CPUSampling, width: int) -> None:
    x = torch.randn(7, width)
    assert torch.equal(sampling.argmax(x), torch_sampling.argmax(x))
    x = torch.randn(5, width + 9)[:, 3 : 3 + width]
    assert torch.equal(sampling.argmax(x), torch_sampling.argmax(x))


@every_isa
@pytest.mark.parametrize("width", [2, 16, 37, 80])
def test_argmax_at_every_place_and_the_first_of_equals(sampling: CPUSampling, width: int) -> None:
    x = torch.full((width, width), -3.0)
    x.fill_diagonal_(-1.0)
    assert sampling.argmax(x).tolist() == list(range(width))
    x = torch.triu(torch.ones(width, width))
    assert sampling.argmax(x).tolist() == list(range(width))
    assert sampling.argmax(torch.zeros(1, width)).tolist() == [0]


@every_isa
@pytest.mark.parametrize("width", [5, 16, 37])
def test_argmax_of_nan_and_infinity(sampling: CPUSampling, width: int) -> None:
    x = torch.full((6, width), -INF)
    x[1, width - 1] = -1e30
    x[2] = NAN
    x[3] = NAN
    x[3, 3] = -5.0
    x[4, 1:3] = torch.tensor([2.0, NAN])
    x[5, 2:4] = INF
    assert sampling.argmax(x).tolist() == [0, width - 1, 0, 3, 1, 2]


# ---- draw ----


@every_isa
@pytest.mark.parametrize("scale", [0.1, 2.0, 10.0])
@pytest.mark.parametrize("width", WIDTHS)
def test_draws_are_those_of_the_definitions(sampling: CPUSampling, width: int, scale: float) -> None:
    logits = (torch.randn(80, width + 5) * scale)[:, 2 : 2 + width]
    given = some_columns(80, width)
    check_draws(logits, sampling.draw(logits, **given), given)


@every_isa
@pytest.mark.parametrize("width", [49152, 151936])
def test_draws_from_large_vocabularies(sampling: CPUSampling, width: int) -> None:
    logits = torch.randn(6, width) * torch.tensor([0.5, 2.0, 8.0]).repeat(2)[:, None]
    given = columns(
        6,
        top_k=[0, 0, 50, 50, 3000, 3000],
        top_p=[0.9, 0.9, 0.95, 1.0, 0.5, 1.0],
        min_p=[0.0, 0.0, 0.05, 0.0, 0.0, 0.0],
        uniforms=torch.rand(6),
    )
    check_draws(logits, sampling.draw(logits, **given), given)


@every_isa
def test_draws_are_those_of_plain_torch(sampling: CPUSampling) -> None:
    logits = torch.randn(500, 1000) * 3
    given = some_columns(500, 1000, seed=1)
    found, expected = sampling.draw(logits, **given), torch_sampling.draw(logits, **given)
    assert (found != expected).sum() <= 2  # a number at a border, which rounding lifts over it


@every_isa
@pytest.mark.parametrize("min_p", [0.0, 0.001])
def test_every_top_k_keeps_so_many(sampling: CPUSampling, min_p: float) -> None:
    """Equal weights would hide a miscount, so the last draw of all is to be the least likely token that is left."""
    width = 300
    logits = torch.linspace(0.0, 2.0, width).flip(0)[None].expand(width, width)  # less and less likely
    given = columns(width, top_k=torch.arange(width), uniforms=1 - 2.0**-53, min_p=min_p)
    assert sampling.draw(logits, **given).tolist() == [width - 1, *range(width - 1)]


@every_isa
def test_every_top_p_keeps_so_much(sampling: CPUSampling) -> None:
    logits = torch.linspace(0.0, 4.0, 700).flip(0)[None].expand(300, 700)
    shares = torch.linspace(1e-6, 1 - 1e-6, 300, dtype=torch.float64)
    last = sampling.draw(logits, **columns(300, top_p=shares, uniforms=1 - 2.0**-53))
    cumulative = logits[0].double().softmax(-1).cumsum(-1)
    expected = torch.searchsorted(cumulative, shares)
    assert ((last - expected).abs() <= 1).all()
    assert (last == expected).float().mean() > 0.98


@every_isa
@pytest.mark.parametrize("params", [{"top_k": 2}, {"top_p": 0.4}, {"min_p": 0.6}, {"top_k": 3, "top_p": 0.5}])
def test_equals_stay_together(sampling: CPUSampling, params: dict[str, float]) -> None:
    logits = torch.tensor([0.05, 0.2, 0.2, 0.05, 0.2, 0.3]).log()[None].expand(900, 6)
    drawn = sampling.draw(logits, **columns(900, uniforms=np.arange(900) / 900, **params))
    counts = drawn.bincount(minlength=6).tolist()
    assert counts == pytest.approx([0, 200, 200, 0, 200, 300], abs=1)


@every_isa
@pytest.mark.parametrize("top_k", [0, 7, 900, 1500])
@pytest.mark.parametrize("top_p", [0.5, 1.0])
def test_a_row_of_equals_stays_whole(sampling: CPUSampling, top_k: int, top_p: float) -> None:
    drawn = sampling.draw(
        torch.full((2000, 2000), -3.5),
        **columns(2000, top_k=top_k, top_p=top_p, uniforms=(np.arange(2000) + 0.5) / 2000),
    )
    assert drawn.tolist() == list(range(2000))


@every_isa
@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-53])
@pytest.mark.parametrize("only", [0, 255, 256, 998, 999])
def test_never_draws_what_is_masked(sampling: CPUSampling, uniform: float, only: int) -> None:
    logits = torch.full((1, 1000), -INF)
    logits[0, only] = -1e30
    for params in ({}, {"top_k": 3}, {"top_p": 0.9}, {"min_p": 0.1, "top_k": 500, "top_p": 0.1}):
        assert sampling.draw(logits, **columns(1, uniforms=uniform, **params)).tolist() == [only]


@every_isa
@pytest.mark.parametrize("temperature", [1e-40, 1e-30, 1e-3, 1.0, 1e30])
def test_extreme_temperatures_and_logits(sampling: CPUSampling, temperature: float) -> None:
    logits = torch.tensor([[-3e38, 3e38, 0.0, -INF]])
    for uniform in (0.0, 0.4, 0.99):
        for params in ({}, {"top_k": 2, "top_p": 0.9, "min_p": 0.5}):
            given = columns(1, temperature=temperature, uniforms=uniform, **params)
            assert sampling.draw(logits, **given).tolist() == [1]
    close = torch.tensor([[1.0, 2.0]])
    few = sampling.draw(close, **columns(1, temperature=temperature, uniforms=0.3)).item()
    assert few == (0 if temperature == 1e30 else 1)


@every_isa
@pytest.mark.parametrize("width", [5, 300, 1000])
def test_broken_rows_get_some_token_and_harm_no_other(sampling: CPUSampling, width: int) -> None:
    logits = torch.randn(60, width)
    given = some_columns(60, width, seed=2)
    healthy = sampling.draw(logits, **given)
    for value in (NAN, INF, -INF):
        broken = logits.clone()
        broken[1::3] = value
        broken[2::6, 3] = value
        drawn = sampling.draw(broken, **given)
        assert torch.equal(drawn[::3], healthy[::3])
        assert ((drawn >= 0) & (drawn < width)).all()


@every_isa
def test_draws_follow_the_distribution(sampling: CPUSampling) -> None:
    num, width = 50_000, 40
    row = torch.randn(width) * 2
    params = {"temperature": 1.3, "top_k": 25, "top_p": 0.97, "min_p": 0.005}
    given = columns(num, uniforms=np.random.default_rng(5).random(num), **params)
    counts = sampling.draw(row[None].expand(num, width), **given).bincount(minlength=width).numpy()
    weights = kept_weights(row.double().numpy(), **params)
    kept = weights > 0
    assert 5 < kept.sum() < 25
    assert counts[~kept].sum() == 0
    assert stats.chisquare(counts[kept], weights[kept] / weights.sum() * num).pvalue > 0.01


# ---- penalties ----


@every_isa
@pytest.mark.parametrize("width", WIDTHS)
def test_penalties(sampling: CPUSampling, width: int) -> None:
    rng = np.random.default_rng(width)
    logits = torch.randn(12, width + 3)[:, 1 : 1 + width]
    logits[3, 0] = -INF
    token_ids = torch.from_numpy(rng.integers(0, width, (9, 50), dtype=np.int32))
    num_tokens = torch.from_numpy(rng.integers(1, 51, 6))
    given = {
        "rows": torch.tensor([3, 0, 11, 5, 8, 1]),
        "slots": torch.from_numpy(rng.permutation(9)[:6].copy()),
        "token_ids": token_ids,
        "num_tokens": num_tokens,
        "num_prompt_tokens": (num_tokens * torch.rand(6)).long(),
        "repetition": torch.tensor([1.0, 0.7, 1.0, 1.9, 2.5, 1.0]),
        "frequency": torch.tensor([0.0, -0.4, 0.3, 0.0, 1.1, 2.0]),
        "presence": torch.tensor([0.0, 0.6, 0.0, -1.3, 0.2, 0.0]),
    }
    found, expected = logits.clone(), logits.clone()
    sampling.penalize_(found, **given)
    torch_sampling.penalize_(expected, **given)
    torch.testing.assert_close(found, expected)
    assert not torch.equal(found, logits)


# ---- bitmasks of grammars ----


@every_isa
@pytest.mark.parametrize("width", [*WIDTHS, 49152])
def test_bitmasks(sampling: CPUSampling, width: int) -> None:
    logits = torch.randn(7, width + 3)[:, 1 : 1 + width]
    rows = torch.tensor([5, 0, 3, 6])
    words = torch.randint(-(2**31), 2**31, (4, -(-width // 32)), dtype=torch.int32)
    words[1], words[2, ::2] = -1, 0
    found, expected = logits.clone(), logits.clone()
    sampling.apply_bitmask_(found, rows, words)
    torch_sampling.apply_bitmask_(expected, rows, words)
    assert torch.equal(found, expected)
    bits = np.unpackbits(words.numpy().view(np.uint8), axis=1, bitorder="little")[:, :width].astype(bool)
    by_hand = logits.clone()
    by_hand[rows] = torch.where(torch.from_numpy(bits), logits[rows], -INF)
    assert torch.equal(found, by_hand)


# ---- log probabilities ----


@every_isa
@pytest.mark.parametrize("few_values", [True, False])
@pytest.mark.parametrize("width", [*WIDTHS, 49152])
def test_logprobs(sampling: CPUSampling, width: int, few_values: bool) -> None:
    logits = (torch.randn(8, width + 3) * 4)[:, 1 : 1 + width]
    if few_values:  # equals everywhere
        logits = logits.round()
        logits[2, 1:] = -INF
    num_top = torch.tensor([0, 1, 5, 20, -1, 0, 600, width]).clamp(max=width)
    entries = torch.randint(0, width, (8, width + 1))
    expected_entries = entries.clone()
    found = sampling.logprobs(logits, entries, num_top)
    expected = torch_sampling.logprobs(logits, expected_entries, num_top)
    for i, num in enumerate(num_top.tolist()):
        if num < 0:
            continue
        torch.testing.assert_close(found[0][i], expected[0][i], rtol=1e-5, atol=1e-5)
        if few_values:  # far apart: equal whatever the rounding
            assert torch.equal(entries[i], expected_entries[i])
            assert found[1][i] == expected[1][i]
        assert found[1][i] == 1 + (logits[i] > logits[i, entries[i, 0]]).sum()
        top = found[0][i, 1 : 1 + num]
        assert (top[1:] <= top[:-1]).all()
        assert entries[i, 1 : 1 + num].unique().numel() == num


@every_isa
def test_equal_log_probabilities_of_unequal_logits_are_equals(sampling: CPUSampling) -> None:
    """Far from the highest logit neighbours in float32 round to one log probability."""
    logits = torch.full((1, 600), -30.0)
    logits[0, 500] = 1000.0
    logits[0, [7, 3]] = torch.tensor([1.0, 1.0 + 2.0**-20])
    entries = torch.tensor([[7, 0, 0, 0]])
    values, ranks = sampling.logprobs(logits, entries, torch.tensor([3]))
    assert entries.tolist() == [[7, 500, 3, 7]]
    assert values[0, 2] == values[0, 3]
    assert ranks.tolist() == [2]


@every_isa
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_rows_without_a_distribution(sampling: CPUSampling, value: float) -> None:
    logits = torch.randn(3, 500)
    expected = sampling.logprobs(logits, torch.zeros(3, 6, dtype=torch.int64), torch.full((3,), 5))
    logits[1] = value
    entries = torch.zeros(3, 6, dtype=torch.int64)
    values, ranks = sampling.logprobs(logits, entries, torch.full((3,), 5))
    assert values[1].isnan().all()
    assert torch.equal(values[::2], expected[0][::2])
    assert ranks.tolist() == [expected[1][0], 1, expected[1][2]]
    assert entries[1, 1:].tolist() == [0, 1, 2, 3, 4]
    logits[1] = 0.0
    logits[1, 3] = NAN
    assert sampling.logprobs(logits, entries, torch.full((3,), 5))[0][1].isnan().all()


# ---- independence ----


@every_isa
def test_results_do_not_depend_on_threads_or_rows(sampling: CPUSampling) -> None:
    num, width = 40, 3000
    logits = (torch.randn(num, width) * 3).mul(8).round().div(8)
    given = some_columns(num, width, seed=4)
    given["uniforms"][::2] = 1 - 2.0**-53  # the border itself
    entries = torch.randint(0, width, (num, 12))
    num_top = torch.randint(-1, 12, (num,))

    def everything(with_kernels: CPUSampling, rows: Tensor) -> list[Tensor]:
        listed = entries[rows]
        drawn = with_kernels.draw(logits[rows], **{name: values[rows] for name, values in given.items()})
        return [drawn, listed, *with_kernels.logprobs(logits[rows], listed, num_top[rows])]

    isa = next(name for name, each in SAMPLING.items() if each is sampling)
    extension = CPP_KERNELS[isa].extension
    expected = everything(sampling, torch.arange(num))
    for num_threads in (1, 3):
        found = everything(CPUKernels(extension, num_threads, isa).sampling, torch.arange(num))
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    order = torch.randperm(num)
    for rows in (order, *order[:, None]):
        found = everything(sampling, rows)
        assert all(torch.equal(a, b[rows]) for a, b in zip(found, expected, strict=True))
