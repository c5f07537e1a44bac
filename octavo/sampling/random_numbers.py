"""Uniform random numbers that depend on a seed and an index alone: no state, so nothing to save on preemption.

The generator is SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014,
figure 16, with the constants of Stafford's variant 13). Its n-th output is a mix of `seed + (n + 1) * gamma`, so any
output is computed without those before it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_GAMMA = np.uint64(0x9E3779B97F4A7C15)  # 2**64 divided by the golden ratio, odd
_MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))
_ONE = np.uint64(1)


def splitmix64(seeds: NDArray[np.uint64], indices: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Output number `indices` (from 0) of the SplitMix64 generators seeded with `seeds`, both [R] uint64."""
    z: NDArray[np.uint64] = seeds + (indices + _ONE) * _GAMMA
    z = (z ^ (z >> _SHIFTS[0])) * _MULTIPLIERS[0]
    z = (z ^ (z >> _SHIFTS[1])) * _MULTIPLIERS[1]
    z ^= z >> _SHIFTS[2]
    return z


def uniforms(seeds: NDArray[np.uint64], indices: NDArray[np.int64]) -> NDArray[np.float64]:
    """[R] float64 in [0, 1), multiples of 2**-53: one for each seed and index (of 0 or more).

    The seed goes through the generator once itself: seeds that lie a multiple of gamma apart would otherwise
    give the same numbers, shifted.
    """
    keys = splitmix64(seeds, np.zeros_like(seeds))
    numbers: NDArray[np.float64] = (splitmix64(keys, indices.astype(np.uint64)) >> np.uint64(11)).astype(np.float64)
    numbers *= 2.0**-53
    return numbers
