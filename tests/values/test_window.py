"""Windows: sliding ones never let a burst through twice, calendar ones follow the calendar."""

from __future__ import annotations

from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.values.window import CalendarWindow, SlidingWindow, parse_window

HOUR_MS = 3_600_000


def ms(*parts: int) -> int:
    return int(datetime(*parts, tzinfo=UTC).timestamp() * 1000)


def local_ms(zone: str, *parts: int) -> int:
    return int(datetime(*parts, tzinfo=ZoneInfo(zone)).timestamp() * 1000)


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


def test_F71_a_day_whose_midnight_does_not_exist_begins_when_it_does() -> None:
    # Santiago goes from 24:00 to 01:00: the 6th of September 2026 has no midnight.
    window = CalendarWindow("daily", "America/Santiago")
    start = window.slot(ms(2026, 9, 6, 12))
    assert start == ms(2026, 9, 6, 4)  # 01:00 at -3, and 24:00 of the 5th at -4
    assert window.slot_ends_ms(start) - start == 23 * HOUR_MS
    assert window.slot(start - 1) == ms(2026, 9, 5, 4)


def test_F71_a_day_whose_last_hour_comes_twice_is_one_day() -> None:
    # And back from 24:00 to 23:00 on the 4th of April 2026.
    window = CalendarWindow("daily", "America/Santiago")
    start = window.slot(ms(2026, 4, 4, 12))
    assert start == ms(2026, 4, 4, 3)
    assert window.slot_ends_ms(start) - start == 25 * HOUR_MS


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Australia/Lord_Howe", (2026, 10, 4), 23.5),
        ("Australia/Lord_Howe", (2026, 4, 5), 24.5),
        ("Asia/Kathmandu", (2026, 3, 29), 24),
        ("America/New_York", (2026, 3, 8), 23),
        ("Africa/Cairo", (2026, 4, 24), 23),
        ("America/St_Johns", (2026, 11, 1), 25),
    ],
)
def test_F71_a_day_is_as_long_as_the_zone_says(
    zone: str, day: tuple[int, int, int], hours: float
) -> None:
    window = CalendarWindow("daily", zone)
    start = window.slot(local_ms(zone, *day, 12))
    assert datetime.fromtimestamp(start // 1000, ZoneInfo(zone)).date() == date(*day)
    assert window.slot_ends_ms(start) - start == hours * HOUR_MS


def test_F71_a_day_that_a_zone_skipped_belongs_to_nobody() -> None:
    # Samoa had no 30th of December 2011.
    window = CalendarWindow("daily", "Pacific/Apia")
    thursday = window.slot(local_ms("Pacific/Apia", 2011, 12, 29, 12))
    saturday = window.slot_ends_ms(thursday)
    assert window.slot(saturday) == saturday == local_ms("Pacific/Apia", 2011, 12, 31)
    assert window.slot(saturday - 1) == thursday


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kathmandu", "Australia/Lord_Howe", "Asia/Tokyo"])
def test_F71_a_month_and_a_quarter_begin_at_local_midnight(zone: str) -> None:
    month, quarter = CalendarWindow("monthly", zone), CalendarWindow("quarterly", zone)
    for year, number, days in ((2026, 1, 31), (2026, 2, 28), (2028, 2, 29), (2026, 12, 31)):
        last = local_ms(zone, year, number, days, 23, 59)
        following = (year, number + 1, 1) if number < 12 else (year + 1, 1, 1)
        assert month.slot(last) == local_ms(zone, year, number, 1)
        assert month.slot_ends_ms(month.slot(last)) == local_ms(zone, *following)
    assert quarter.slot(local_ms(zone, 2026, 3, 31, 23, 59)) == local_ms(zone, 2026, 1, 1)
    assert quarter.slot(local_ms(zone, 2026, 4, 1)) == local_ms(zone, 2026, 4, 1)


ZONES = [
    "UTC", "Europe/Berlin", "America/St_Johns", "Asia/Kathmandu", "Pacific/Apia",
    "Australia/Lord_Howe", "America/Santiago", "Africa/Cairo", "Asia/Gaza", "Africa/Casablanca",
    "America/Sao_Paulo", "Asia/Tehran", "Antarctica/Troll", "Pacific/Kiritimati", "Asia/Beirut",
    "America/Havana", "Atlantic/Azores", "Asia/Amman",
]  # fmt: skip


@settings(max_examples=300)
@given(
    st.sampled_from(["daily", "weekly", "monthly", "quarterly"]),
    st.sampled_from(ZONES),
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


@pytest.mark.parametrize("zone", ZONES)
def test_F71_every_half_hour_of_a_year_is_in_its_local_day(zone: str) -> None:
    window, tz = CalendarWindow("daily", zone), ZoneInfo(zone)
    now, end = ms(2026, 1, 1), ms(2027, 1, 1)
    start = window.slot(now)
    while start < end:
        following = window.slot_ends_ms(start)
        day = datetime.fromtimestamp(start / 1000, tz).date()
        for instant in range(start, following, HOUR_MS // 2):
            assert window.slot(instant) == start
            assert datetime.fromtimestamp(instant / 1000, tz).date() == day
        assert window.slot(following - 1) == start
        start = following
