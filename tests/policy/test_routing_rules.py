"""Hours of the day: in their zone, over midnight, on the days on which they begin."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from extproc.policy.routing_rules import Hours

EVERY_DAY = frozenset(range(7))


def ms(text: str, zone: str = "UTC") -> int:
    local = datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone))
    return int(local.astimezone(UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("at", "within"),
    [("08:59:59", False), ("09:00", True), ("16:59:59", True), ("17:00", False)],
)
def test_hours_begin_and_end_to_the_minute_in_their_zone(at: str, within: bool) -> None:
    hours = Hours(540, 1_020, "Europe/Berlin", EVERY_DAY)
    for day in ("2026-01-15", "2026-07-15"):  # an hour and two hours ahead
        assert hours.hold(ms(f"{day}T{at}", "Europe/Berlin")) is within


def test_only_the_named_days_count() -> None:
    working = Hours(0, 1_440, "UTC", frozenset(range(5)))
    assert [working.hold(ms(f"2026-11-{day}T12:00")) for day in range(23, 30)] == [True] * 5 + [
        False
    ] * 2  # from a Monday


def test_a_night_belongs_to_the_day_on_which_it_began() -> None:
    friday_night = Hours(1_320, 360, "UTC", frozenset({4}))
    assert friday_night.hold(ms("2026-11-27T22:00"))
    assert friday_night.hold(ms("2026-11-28T05:59"))
    assert not friday_night.hold(ms("2026-11-28T06:00"))
    assert not friday_night.hold(ms("2026-11-28T22:00"))
    assert not friday_night.hold(ms("2026-11-27T05:00"))
