"""Windows: sliding ones never let a burst through twice, calendar ones follow the calendar."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.values.window import CalendarWindow, SlidingWindow, parse_window


def ms(*parts: int) -> int:
    return int(datetime(*parts, tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize("text", ["30s", "5m", "1h", "1d", "1w", "daily", "monthly", "quarterly"])
def test_windows_read_back_as_written(text: str) -> None:
    assert str(parse_window(text)) == text


@pytest.mark.parametrize("text", ["", "1", "0s", "-1h", "1y", "400d", "500ms", "Monthly", "1h30m"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_window(text)


def test_unknown_zones_are_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        parse_window("daily", "Mars/Olympus")


@given(st.integers(1_000, 31 * 86_400_000), st.integers(0, 2**41), st.integers(0, 2**33))
def test_a_slot_counts_as_long_as_any_instant_of_it_is_in_the_window(
    length: int, now: int, later: int
) -> None:
    window = SlidingWindow(length)
    slot = window.slot(now)
    then = now + later
    counts = window.oldest_slot(window.slot(then)) <= slot
    if later < length:
        assert counts
    assert counts == (then < window.leaves_ms(slot))
    assert window.leaves_ms(slot) - now <= 61 * window.slot_ms


def test_F71_a_month_is_a_month() -> None:
    window = CalendarWindow("monthly")
    for now, start, end in (
        (ms(2026, 1, 31, 23, 59), ms(2026, 1, 1), ms(2026, 2, 1)),
        (ms(2026, 2, 1), ms(2026, 2, 1), ms(2026, 3, 1)),
        (ms(2028, 2, 29), ms(2028, 2, 1), ms(2028, 3, 1)),
        (ms(2026, 12, 31), ms(2026, 12, 1), ms(2027, 1, 1)),
    ):
        assert window.slot(now) == start
        assert window.slot_ends_ms(start) == end


def test_F71_days_weeks_and_quarters() -> None:
    now = ms(2026, 11, 23, 12)  # a Monday
    assert CalendarWindow("daily").slot(now) == ms(2026, 11, 23)
    assert CalendarWindow("weekly").slot(now) == ms(2026, 11, 23)
    assert CalendarWindow("weekly").slot(now - 86_400_000) == ms(2026, 11, 16)
    assert CalendarWindow("quarterly").slot(now) == ms(2026, 10, 1)
    assert CalendarWindow("quarterly").slot_ends_ms(ms(2026, 10, 1)) == ms(2027, 1, 1)


def test_F71_days_are_as_long_as_the_zone_says() -> None:
    window = CalendarWindow("daily", "Europe/Berlin")
    spring = window.slot(ms(2026, 3, 29, 12))
    autumn = window.slot(ms(2026, 10, 25, 12))
    assert window.slot_ends_ms(spring) - spring == 23 * 3_600_000
    assert window.slot_ends_ms(autumn) - autumn == 25 * 3_600_000


@given(
    st.sampled_from(["daily", "weekly", "monthly", "quarterly"]),
    st.sampled_from(["UTC", "Europe/Berlin", "America/St_Johns", "Asia/Kathmandu", "Pacific/Apia"]),
    st.integers(ms(2000, 1, 1), ms(2040, 1, 1)),
)
def test_F71_periods_are_without_gap_or_overlap(period: str, zone: str, now: int) -> None:
    window = CalendarWindow(period, zone)
    start = window.slot(now)
    end = window.slot_ends_ms(start)
    assert start <= now < end
    assert window.slot(start) == start
    assert window.slot(end) == end
    assert window.slot(end - 1) == start
