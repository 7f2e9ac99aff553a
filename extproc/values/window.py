"""Windows: the half-open stretch of time that a counter sums over. No clock inside.

A window cuts time into slots. A counter keeps one amount per slot and drops a slot when no instant
of it can be inside the window any more.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

SLOTS_PER_WINDOW = 60
"""A sliding window is as coarse as its slot: capacity returns a sixtieth late, never early."""
MIN_LENGTH_MS = 1_000
MAX_LENGTH_MS = 31 * 86_400_000
"""Longer periods are budgets, and budgets are counted by the calendar."""

_LENGTH = re.compile(r"([1-9][0-9]{0,5})([smhdw])")
_UNIT_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
PERIODS = ("daily", "weekly", "monthly", "quarterly")


@dataclass(frozen=True, slots=True)
class SlidingWindow:
    """The last ``length_ms``, at every instant: no double burst at an edge."""

    length_ms: int

    @property
    def slot_ms(self) -> int:
        """Length of a slot, rounded up so that the slots cover the window."""
        return -(-self.length_ms // SLOTS_PER_WINDOW)

    def slot(self, now_ms: int) -> int:
        """The slot of an instant; grows with time."""
        return now_ms // self.slot_ms

    def slot_ends_ms(self, slot: int) -> int:
        """The first instant after the slot."""
        return (slot + 1) * self.slot_ms

    def oldest_slot(self, slot: int) -> int:
        """The oldest slot that still counts when ``slot`` is current. The last instant of slot s is
        within the window until slot s + 60 has ended, so sixty-one slots count."""
        return slot - SLOTS_PER_WINDOW

    def leaves_ms(self, slot: int) -> int:
        """When the amount of a slot stops counting."""
        return (slot + SLOTS_PER_WINDOW + 1) * self.slot_ms

    def __str__(self) -> str:
        for letter in "wdhms":
            if self.length_ms % _UNIT_MS[letter] == 0:
                return f"{self.length_ms // _UNIT_MS[letter]}{letter}"
        return f"{self.length_ms}ms"


@dataclass(frozen=True, slots=True)
class CalendarWindow:
    """The current day, week (from Monday), month or quarter in a time zone. Slots are periods,
    named by their first instant."""

    period: str
    zone: str = "UTC"

    def slot(self, now_ms: int) -> int:
        """The first instant of the period, in milliseconds."""
        return _period(self.period, self.zone, now_ms // 60_000)[0]

    def slot_ends_ms(self, slot: int) -> int:
        """The first instant of the next period."""
        return _period(self.period, self.zone, slot // 60_000)[1]

    def oldest_slot(self, slot: int) -> int:
        """Only the current period counts."""
        return slot

    def leaves_ms(self, slot: int) -> int:
        """When the amount of a period stops counting."""
        return self.slot_ends_ms(slot)

    def __str__(self) -> str:
        return self.period


Window = SlidingWindow | CalendarWindow


def parse_window(text: str, zone: str = "UTC") -> Window:
    """``30s 5m 1h 1d 1w`` slide; ``daily weekly monthly quarterly`` follow the calendar of an IANA
    zone. Raises ``ValueError`` with what is wrong."""
    if text in PERIODS:
        try:
            ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"unknown time zone {zone!r}") from None
        return CalendarWindow(text, zone)
    match = _LENGTH.fullmatch(text)
    if match is None:
        raise ValueError(
            f"{text!r} is no window: write 30s, 5m, 1h, 1d, or one of {', '.join(PERIODS)}"
        )
    length_ms = int(match[1]) * _UNIT_MS[match[2]]
    if not MIN_LENGTH_MS <= length_ms <= MAX_LENGTH_MS:
        raise ValueError(f"a sliding window is 1s to 31d long, not {text}")
    return SlidingWindow(length_ms)


@lru_cache(maxsize=4_096)
def _period(period: str, zone: str, minute: int) -> tuple[int, int]:
    """First instants of the period that holds a minute, and of the next. Zones change their offset
    on whole minutes, so a minute lies in one period."""
    tz = ZoneInfo(zone)
    local = datetime.fromtimestamp(minute * 60, tz)
    # Wall-clock midnights, then back to instants: right through every change of the offset.
    day = datetime(local.year, local.month, local.day)
    if period == "daily":
        start, end = day, day + timedelta(days=1)
    elif period == "weekly":
        start = day - timedelta(days=local.weekday())
        end = start + timedelta(days=7)
    else:
        months = 1 if period == "monthly" else 3
        first = (local.month - 1) // months * months
        start = datetime(local.year, first + 1, 1)
        year, month = divmod(local.year * 12 + first + months, 12)
        end = datetime(year, month + 1, 1)
    return _instant_ms(start, tz), _instant_ms(end, tz)


def _instant_ms(wall: datetime, tz: ZoneInfo) -> int:
    return int(wall.replace(tzinfo=tz).astimezone(UTC).timestamp() * 1000)
