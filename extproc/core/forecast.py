"""When a limit runs out if its use goes on as of late.

The rate is what was settled over a trailing span: as long as one looks ahead, but no longer than a
twelfth of the window and no shorter than five minutes. A burst of a minute predicts nothing, and a
quiet night is forgotten by noon.
"""

from __future__ import annotations

from collections import deque

from extproc.values.limit import Limit
from extproc.values.window import CalendarWindow

MIN_SPAN_MS = 300_000
POINTS_PER_SPAN = 12
"""A span is remembered as at most a dozen points, so its length is right to a twelfth."""


def span_ms(limit: Limit, forecast_ms: int, now_ms: int) -> int:
    """Over how long the rate is taken."""
    window = limit.window
    if isinstance(window, CalendarWindow):
        starts_ms = window.slot(now_ms)
        length_ms = window.slot_ends_ms(starts_ms) - starts_ms
    else:
        length_ms = window.length_ms
    return max(MIN_SPAN_MS, min(length_ms // 12, forecast_ms))


class Trail:
    """What one counter had settled at moments of the last span."""

    __slots__ = ("_points", "period")

    def __init__(self, period: int) -> None:
        self.period = period
        """The slot that a calendar window was in; points of another say nothing."""
        self._points: deque[tuple[int, int]] = deque()

    def add(self, now_ms: int, settled: int, span: int) -> None:
        """Takes what is settled now."""
        points = self._points
        if not points or now_ms - points[-1][0] >= span // POINTS_PER_SPAN:
            points.append((now_ms, settled))
        while len(points) > 1 and points[1][0] <= now_ms - span:
            points.popleft()

    def runs_out_at_ms(self, limit: Limit, settled: int, now_ms: int, span: int) -> int | None:
        """When the ceiling is reached; None when there is no rate yet, it is not reached before the
        window ends, or it is reached already."""
        base = self._base(limit, now_ms, span)
        left = limit.ceiling - settled
        if base is None or left <= 0 or settled <= base[1]:
            return None
        elapsed_ms, rise = now_ms - base[0], settled - base[1]
        at_ms = now_ms + -(-left * elapsed_ms // rise)
        window = limit.window
        if isinstance(window, CalendarWindow):
            ends_ms = window.slot_ends_ms(window.slot(now_ms))
        else:
            # At a steady rate a sliding counter stands still after one length.
            ends_ms = now_ms + window.length_ms
        return at_ms if at_ms < ends_ms else None

    def _base(self, limit: Limit, now_ms: int, span: int) -> tuple[int, int] | None:
        """The moment that the rate is taken from: a span ago, or as near to it as is known."""
        enough_ms = max(MIN_SPAN_MS, span // 4)
        # A calendar window began with nothing, whether anybody looked or not.
        began_ms = self.period if isinstance(limit.window, CalendarWindow) else now_ms
        oldest = self._points[0] if self._points else (now_ms, 0)
        if began_ms < now_ms - span and now_ms - oldest[0] >= enough_ms:
            return oldest
        if now_ms - began_ms >= enough_ms:
            return began_ms, 0
        return oldest if now_ms - oldest[0] >= enough_ms else None
