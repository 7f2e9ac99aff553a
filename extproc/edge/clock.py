"""The only clock. Wall time, because windows follow the calendar; it never steps back for us."""

from __future__ import annotations

import time


class Clock:
    """Milliseconds since 1970, never decreasing within a process."""

    __slots__ = ("_newest_ms",)

    def __init__(self) -> None:
        self._newest_ms = 0

    def now_ms(self) -> int:
        """The time; stands still while the machine's clock is behind what was given out."""
        now = time.time_ns() // 1_000_000
        self._newest_ms = max(self._newest_ms, now)
        return self._newest_ms
