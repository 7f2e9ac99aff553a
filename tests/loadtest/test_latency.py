from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.latency import percentiles


def test_percentiles_are_nearest_rank() -> None:
    figures = percentiles([n * 1_000_000 for n in range(100, 0, -1)])
    assert (figures.p50_ms, figures.p90_ms, figures.p99_ms, figures.max_ms) == (50, 90, 99, 100)
    assert figures.count == 100


def test_no_samples_are_no_zero() -> None:
    with pytest.raises(ValueError, match="no samples"):
        percentiles([])


@given(st.lists(st.integers(0, 10**12), min_size=1))
def test_every_percentile_was_measured_and_they_are_ordered(samples: list[int]) -> None:
    figures = percentiles(samples)
    values = [figures.p50_ms, figures.p90_ms, figures.p99_ms, figures.max_ms]
    assert values == sorted(values)
    assert set(values) <= {sample / 1e6 for sample in samples}
