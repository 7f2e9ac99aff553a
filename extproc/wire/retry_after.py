"""How long a provider wants to be left alone: ``Retry-After``, which may be anything."""

from __future__ import annotations

import re
from datetime import UTC, datetime

MAX_RETRY_AFTER_MS = 86_400_000
"""A day. Nobody can use a longer wait, and a number of any length must not become one of ours."""
_SECONDS = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,9})?")
_DATE = re.compile(
    r"[A-Z][a-z]{2}, ([0-9]{2}) ([A-Z][a-z]{2}) ([0-9]{4}) ([0-9]{2}):([0-9]{2}):([0-9]{2}) GMT"
)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def retry_after_ms(value: str, now_ms: int) -> int:
    """The wait in milliseconds, at most a day; 0 for one that is over, and for nonsense.

    Seconds may have a fraction, as some providers write it; a date is the one form that senders
    still may use (RFC 9110, 5.6.7).
    """
    text = value.strip()
    if _SECONDS.fullmatch(text):
        return min(int(float(text) * 1000), MAX_RETRY_AFTER_MS)
    if text.isascii() and text.isdigit():
        return MAX_RETRY_AFTER_MS
    found = _DATE.fullmatch(text)
    if found is None or found[2] not in _MONTHS:
        return 0
    day, year, hour, minute, second = (int(found[group]) for group in (1, 3, 4, 5, 6))
    month = _MONTHS.index(found[2]) + 1
    try:
        until = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError:
        return 0
    return max(0, min(int(until.timestamp()) * 1000 - now_ms, MAX_RETRY_AFTER_MS))
