"""The random numbers against SplitMix64 in Python integers and its published outputs, and for uniformity."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from octavo.sampling.random_numbers import splitmix64, uniforms

MASK = 2**64 - 1


def reference(seed: int, num: int) -> list[int]:
    """The generator as the paper has it: a state that gamma is added to, and a mix."""
    state, found = seed, []
    for _ in range(num):
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        found.append(z ^ (z >> 31))
    return found


def test_published_outputs_of_seed_0():
    numbers = splitmix64(np.zeros(3, dtype=np.uint64), np.arange(3, dtype=np.uint64))
    assert [hex(n) for n in numbers] == ["0xe220a8397b1dcdaf", "0x6e789e6aa1b965f4", "0x6c45d188009454f"]


@given(st.integers(0, MASK), st.integers(1, 40))
def test_any_output_equals_the_sequential_generator(seed, num):
    numbers = splitmix64(np.full(num, seed, dtype=np.uint64), np.arange(num, dtype=np.uint64))
    assert numbers.tolist() == reference(seed, num)


@given(st.integers(0, MASK), st.integers(0, 2**40))
def test_uniform_is_the_top_53_bits_of_a_generator_seeded_by_a_generator(seed, index):
    (number,) = uniforms(np.array([seed], dtype=np.uint64), np.array([index]))
    key = reference(seed, 1)[0]
    (expected,) = splitmix64(np.array([key], dtype=np.uint64), np.array([index], dtype=np.uint64))
    assert number == (int(expected) >> 11) / 2**53
    assert 0 <= number < 1


def test_uniform_along_indices_and_along_neighbouring_seeds():
    along = np.arange(20_000)
    by_index = uniforms(np.full(20_000, 5, dtype=np.uint64), along)
    by_seed = uniforms(along.astype(np.uint64), np.zeros(20_000, dtype=np.int64))
    for numbers in (by_index, by_seed):
        assert stats.kstest(numbers, "uniform").pvalue > 0.01
        assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.02
    assert abs(np.corrcoef(by_index, by_seed)[0, 1]) < 0.02
