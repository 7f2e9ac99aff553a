"""The only clock. Wall time, because windows follow the calendar; it never steps back for us."""

from __future__ import annotations

import time


class Clock:
    """Milliseconds since 1970, never decreasing within a process.

    When the machine's clock is set back, time goes on at half its pace until the machine has caught
    up: no window is entered twice, and leases still end.
    """

    __slots__ = ("_behind_since_ns", "_newest_ms", "_resumed_ms")

    def __init__(self) -> None:
        self._newest_ms = 0
        self._behind_since_ns = 0
        self._resumed_ms = 0

    def now_ms(self) -> int:
        """The time."""
        now = time.time_ns() // 1_000_000
        if now >= self._newest_ms:
            self._newest_ms = now
            self._behind_since_ns = 0
            return now
        return self._slowed()

    def _slowed(self) -> int:
        elapsed_ns = time.monotonic_ns()
        if not self._behind_since_ns:
            self._behind_since_ns, self._resumed_ms = elapsed_ns, self._newest_ms
        passed_ms = (elapsed_ns - self._behind_since_ns) // 2_000_000
        self._newest_ms = max(self._newest_ms, self._resumed_ms + passed_ms)
        return self._newest_ms
