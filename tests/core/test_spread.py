"""Quantiles in fixed memory: never too low, at most a fifth too high, and they follow changes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from extproc.core.spread import BUCKETS, FORGET_AT, Spread

VALUES = st.lists(st.integers(0, 2**44), min_size=1, max_size=200)


def spread(values: list[int]) -> Spread:
    made = Spread()
    for value in values:
        made.add(value)
    return made


@given(VALUES, st.integers(1, 100))
def test_a_quantile_is_never_too_low_and_a_fifth_too_high_at_most(
    values: list[int], pct: int
) -> None:
    exact = sorted(values)[-(-len(values) * pct // 100) - 1]
    assert exact <= spread(values).at_pct(pct) <= exact + exact // 4


def test_without_samples_everything_is_nothing() -> None:
    assert Spread().at_pct(95) == 0


def test_small_counts_are_exact() -> None:
    for value in range(8):
        assert spread([value] * 3).at_pct(95) == value


def test_absurd_values_fill_the_last_bucket_only() -> None:
    made = spread([2**80, 2**200])
    assert made.samples == 2
    assert made.at_pct(50) > 2**44
    assert len(made._counts) == BUCKETS


def test_a_change_is_followed_within_some_hundreds_of_samples() -> None:
    made = spread([10] * 5_000)
    assert made.at_pct(95) == 11
    for _ in range(FORGET_AT):
        made.add(1_000)
    assert made.at_pct(95) >= 1_000
    assert made.samples < FORGET_AT
