"""When a limit runs out: the rate of a trailing span, and no forecast without one."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from policies import budget, limits, rule

from extproc.core.forecast import MIN_SPAN_MS, POINTS_PER_SPAN, Trail, span_ms
from extproc.values.limit import Limit

HOUR = 3_600_000
MINUTE = 60_000
MIDNIGHT = int(datetime(2026, 11, 25, tzinfo=UTC).timestamp()) * 1000
DAILY: Limit = limits(b=budget("{id: a, ceiling_usd: 24, window: daily}"))["a/usd"]
MONTHLY: Limit = limits(b=budget("{id: a, ceiling_usd: 720, window: monthly}"))["a/usd"]
HOURLY: Limit = limits(r=rule("{id: r, limit: {requests: 1000, window: 1h}}"))["r/requests"]


@pytest.mark.parametrize(
    ("limit", "forecast_ms", "span"),
    [
        (DAILY, 6 * HOUR, 2 * HOUR),
        (DAILY, HOUR, HOUR),
        (DAILY, MINUTE, MIN_SPAN_MS),
        (MONTHLY, 6 * HOUR, 6 * HOUR),
        (MONTHLY, 30 * 24 * HOUR, 60 * HOUR),
        (HOURLY, 10 * MINUTE, MIN_SPAN_MS),
    ],
)
def test_the_span_is_as_long_as_one_looks_ahead_within_bounds(
    limit: Limit, forecast_ms: int, span: int
) -> None:
    assert span_ms(limit, forecast_ms, MIDNIGHT) == span


def test_a_steady_day_runs_out_when_it_should() -> None:
    # $2 an hour of $24: at 12:00, whenever one looks.
    span = 2 * HOUR
    trail = Trail(MIDNIGHT)
    for minute in range(0, 660, 5):
        now_ms, settled = MIDNIGHT + minute * MINUTE, minute * 2_000_000 // 60
        at_ms = trail.runs_out_at_ms(DAILY, settled, now_ms, span)
        trail.add(now_ms, settled, span)
        if minute >= 30:  # a quarter of the span
            assert at_ms is not None
            assert abs(at_ms - (MIDNIGHT + 12 * HOUR)) < MINUTE
        else:
            assert at_ms is None


def test_what_happened_before_the_span_is_forgotten() -> None:
    span = HOUR
    trail = Trail(MIDNIGHT)
    settled = 0
    for minute in range(12 * 60):
        settled += 10_000 if minute < 600 else 100_000  # from 10:00 on ten times as fast
        trail.add(MIDNIGHT + minute * MINUTE, settled, span)
    now_ms = MIDNIGHT + 719 * MINUTE
    at_ms = trail.runs_out_at_ms(DAILY, settled, now_ms, span)
    left_minutes = (DAILY.ceiling - settled) / 100_000
    assert at_ms is not None
    assert at_ms - now_ms == pytest.approx(left_minutes * MINUTE, rel=0.01)


def test_nothing_is_foretold_that_the_window_ends_before() -> None:
    trail = Trail(MIDNIGHT)
    now_ms = MIDNIGHT + 12 * HOUR
    trail.add(now_ms - HOUR, 11_000_000, HOUR)
    assert trail.runs_out_at_ms(DAILY, 12_000_000, now_ms, HOUR) is None  # at 24:00
    assert trail.runs_out_at_ms(DAILY, 12_100_000, now_ms, HOUR) is not None


def test_no_use_a_correction_and_a_full_limit_foretell_nothing() -> None:
    now_ms = MIDNIGHT + 12 * HOUR
    for settled in (5_000_000, 4_000_000, 24_000_000, 25_000_000):
        trail = Trail(MIDNIGHT)
        trail.add(now_ms - 2 * HOUR, 5_000_000, 2 * HOUR)
        assert trail.runs_out_at_ms(DAILY, settled, now_ms, 2 * HOUR) is None


def test_after_a_restart_the_average_of_the_window_stands_in_and_then_the_rate_again() -> None:
    noon = MIDNIGHT + 12 * HOUR
    trail = Trail(MIDNIGHT)
    at_ms = trail.runs_out_at_ms(DAILY, 18_000_000, noon, 2 * HOUR)
    assert at_ms == MIDNIGHT + 16 * HOUR  # $18 in twelve hours
    trail.add(noon, 18_000_000, 2 * HOUR)
    now_ms = noon + 30 * MINUTE
    # Seen for a quarter of the span: $2 in half an hour, $4 left.
    assert trail.runs_out_at_ms(DAILY, 20_000_000, now_ms, 2 * HOUR) == now_ms + HOUR


def test_a_sliding_window_needs_to_be_watched_before_it_is_foretold() -> None:
    trail = Trail(0)
    assert trail.runs_out_at_ms(HOURLY, 500, MIDNIGHT, MIN_SPAN_MS) is None
    trail.add(MIDNIGHT, 500, MIN_SPAN_MS)
    now_ms = MIDNIGHT + MIN_SPAN_MS
    assert trail.runs_out_at_ms(HOURLY, 600, now_ms, MIN_SPAN_MS) == now_ms + 4 * MIN_SPAN_MS
    # Slower than a window's length: it will stand still before.
    assert trail.runs_out_at_ms(HOURLY, 510, now_ms, MIN_SPAN_MS) is None


@given(st.lists(st.tuples(st.integers(1, 10 * MINUTE), st.integers(0, 10_000)), max_size=200))
def test_a_trail_is_short_whatever_is_added(steps: list[tuple[int, int]]) -> None:
    trail, now_ms, settled = Trail(MIDNIGHT), MIDNIGHT, 0
    for passed_ms, more in steps:
        now_ms, settled = now_ms + passed_ms, settled + more
        at_ms = trail.runs_out_at_ms(DAILY, settled, now_ms, HOUR)
        trail.add(now_ms, settled, HOUR)
        assert at_ms is None or at_ms >= now_ms
    assert len(trail._points) <= POINTS_PER_SPAN + 2
