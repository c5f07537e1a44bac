"""Means and percentiles against numpy's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.bench.statistics import Summary, percentile

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50)


@given(VALUES, st.floats(0, 100))
def test_percentiles_are_numpys(values: list[float], percent: float) -> None:
    assert percentile(values, percent) == pytest.approx(float(np.percentile(values, percent)), abs=1e-6)


@given(VALUES)
def test_summaries_are_numpys(values: list[float]) -> None:
    summary = Summary.of(values)
    expected = (np.mean(values), np.median(values), np.percentile(values, 99))
    assert (summary.mean, summary.median, summary.p99) == pytest.approx(tuple(map(float, expected)), abs=1e-6)


def test_no_values_have_no_numbers() -> None:
    summary = Summary.of([])
    assert all(math.isnan(value) for value in (summary.mean, summary.median, summary.p99))
