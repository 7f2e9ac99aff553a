"""Which alerts a counter's use sets off: each once per limit, scope value, window and threshold.

A share (``at_pct``) is of what is *settled*: worst cases that are reserved come and go by the
hundredfold, and nobody wants to be woken by them. A limit that refuses because it is used up counts
as 100 %, though the last crumb is never spent. A forecast looks at the rate of what is settled.

A calendar window ends an alert: the next period starts afresh. A sliding window has no end, so an
alert is over when a whole length has passed since it was set off *and* use has fallen well below
the threshold. Whoever raises a ceiling above what is used sets the alert again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from extproc.core.alert_text import crossed, over
from extproc.core.forecast import Trail, span_ms
from extproc.values.limit import Alert, Limit
from extproc.values.notice import Notice
from extproc.values.window import CalendarWindow

MAX_MARKS = 20_000
"""Alerts remembered as set off, some 500 bytes each. The oldest are forgotten first, and would be
told again."""
MAX_TRAILS = 20_000
"""Counters whose rate is followed, at most 2 KB each. The longest followed begin anew first."""
USED_UP_PCT = 90
"""A limit that refuses with less settled than this refused something big, and is not used up."""
HYSTERESIS_PCT = 10
"""Points of the ceiling by which use must fall below a threshold before it can be crossed again."""
QUIET_MS = 300_000
"""The least time between two alerts of one sliding window and threshold, however short it is."""


class Sample(NamedTuple):
    """One look at a counter. Amounts are in the limit's unit."""

    limit: Limit
    scope_value: str
    settled: int
    reserved: int
    used_up: bool = False
    """It refused since the last look what it cannot hold any more (``Watched.denied``)."""


@dataclass(slots=True)
class Mark:
    """An alert that was set off and is not over. Kept over restarts."""

    limit_key: str
    scope_value: str
    name: str
    """Of the alert: ``80%`` or ``forecast 6h``."""
    window: str
    period: int
    """Of a calendar window the slot; of a sliding one a number that grows."""
    ends_ms: int
    """When a calendar period ends, or before which a sliding window's alert is not over."""
    ceiling: int
    title: str
    notify: tuple[str, ...]
    at_ms: int
    seen_ms: int

    @property
    def place(self) -> tuple[str, str, str]:
        """What there is at most one mark of."""
        return self.limit_key, self.scope_value, self.name

    @property
    def key(self) -> str:
        """The notice's key: the same on every sidecar that sees the crossing."""
        scope = f"{self.scope_value}|" if self.scope_value else ""
        return f"{self.limit_key}|{scope}{self.name}|{self.window}|{self.period}"


class Event(NamedTuple):
    """An alert was set off, or is over (``notice.resolved``)."""

    mark: Mark
    notice: Notice


class AlertBook:
    """The alerts that are set off, and the rates of the counters that are forecast."""

    __slots__ = ("_marks", "_trails")

    def __init__(self, marks: Iterable[Mark] = ()) -> None:
        self._marks = {mark.place: mark for mark in marks}
        self._trails: dict[tuple[str, str, str], Trail] = {}

    def marks(self) -> list[Mark]:
        """What is set off now, oldest first."""
        return list(self._marks.values())

    def observe(self, sample: Sample, now_ms: int) -> list[Event]:
        """What one look at a counter sets off or ends, in the order of the limit's alerts."""
        limit = sample.limit
        events: list[Event] = []
        if limit.ceiling <= 0:
            return events  # nothing was ever allowed, and nothing can be used up
        for alert in limit.alerts:
            place = (limit.key, sample.scope_value, alert.name)
            runs_out_at_ms = None
            if alert.forecast_ms:
                runs_out_at_ms = self._runs_out_at_ms(place, alert, sample, now_ms)
                holds = runs_out_at_ms is not None
            else:
                holds = _reached(alert, sample)
            mark = self._marks.get(place)
            if mark is None and limit.renamed_from:
                # Usage moved to the new id, and what was told of it is not told again.
                mark = self._marks.pop((limit.renamed_from, *place[1:]), None)
                if mark is not None:
                    self._marks[place] = mark
            if mark is not None:
                mark.seen_ms = now_ms
                if not _is_over(mark, alert, sample, now_ms, holds=holds):
                    continue
                del self._marks[place]
                events.append(Event(mark, over(mark.key, mark.title, now_ms)))
            if holds:
                events.append(self._set_off(alert, sample, now_ms, runs_out_at_ms))
        return events

    def end(self, now_ms: int) -> list[Event]:
        """What is over though nobody looks at its counter any more."""
        gone = [place for place, mark in self._marks.items() if _is_stale(mark, now_ms)]
        marks = [self._marks.pop(place) for place in gone]
        return [Event(mark, over(mark.key, mark.title, now_ms)) for mark in marks]

    def _set_off(
        self, alert: Alert, sample: Sample, now_ms: int, runs_out_at_ms: int | None
    ) -> Event:
        limit = sample.limit
        window = limit.window
        if isinstance(window, CalendarWindow):
            period = window.slot(now_ms)
            ends_ms = window.slot_ends_ms(period)
        else:
            quiet_ms = max(window.length_ms, QUIET_MS)
            period, ends_ms = now_ms // quiet_ms, now_ms + quiet_ms
        mark = Mark(
            limit_key=limit.key,
            scope_value=sample.scope_value,
            name=alert.name,
            window=window_name(limit),
            period=period,
            ends_ms=ends_ms,
            ceiling=limit.ceiling,
            title="",
            notify=alert.notify,
            at_ms=now_ms,
            seen_ms=now_ms,
        )
        notice = crossed(
            mark.key, alert, limit, sample.scope_value, sample.settled, sample.reserved, now_ms,
            runs_out_at_ms=runs_out_at_ms, used_up=sample.used_up,
        )  # fmt: skip
        mark.title = notice.title
        self._marks[mark.place] = mark
        if len(self._marks) > MAX_MARKS:
            del self._marks[next(iter(self._marks))]
        return Event(mark, notice)

    def _runs_out_at_ms(
        self, place: tuple[str, str, str], alert: Alert, sample: Sample, now_ms: int
    ) -> int | None:
        """When the limit runs out, if that is soon enough to be told."""
        limit = sample.limit
        window = limit.window
        period = window.slot(now_ms) if isinstance(window, CalendarWindow) else 0
        trail = self._trails.get(place)
        if trail is None or trail.period != period:
            trail = self._trails[place] = Trail(period)
            if len(self._trails) > MAX_TRAILS:
                del self._trails[next(iter(self._trails))]
        span = span_ms(limit, alert.forecast_ms, now_ms)
        at_ms = trail.runs_out_at_ms(limit, sample.settled, now_ms, span)
        trail.add(now_ms, sample.settled, span)
        return at_ms if at_ms is not None and at_ms - now_ms <= alert.forecast_ms else None


def window_name(limit: Limit) -> str:
    """A window and its zone: another one is another window, and its alerts start afresh."""
    zone = getattr(limit.window, "zone", "")
    return f"{limit.window} {zone}".rstrip()


def _reached(alert: Alert, sample: Sample) -> bool:
    hundredfold = sample.settled * 100
    if hundredfold >= alert.at_pct * sample.limit.ceiling:
        return True
    used_up = sample.used_up and hundredfold >= USED_UP_PCT * sample.limit.ceiling
    return used_up and alert.at_pct <= 100


def _is_over(mark: Mark, alert: Alert, sample: Sample, now_ms: int, *, holds: bool) -> bool:
    limit = sample.limit
    if mark.window != window_name(limit):
        return True
    if limit.ceiling > mark.ceiling and not holds:
        return True
    if isinstance(limit.window, CalendarWindow):
        return limit.window.slot(now_ms) > mark.period
    if now_ms < mark.ends_ms or holds:
        return False
    low = (alert.at_pct - HYSTERESIS_PCT) * limit.ceiling
    return bool(alert.forecast_ms) or sample.settled * 100 < max(low, 1)


def _is_stale(mark: Mark, now_ms: int) -> bool:
    # Of a sliding window: everything that counted when it was last looked at has left it.
    quiet_ms = mark.ends_ms - mark.at_ms
    calendar = mark.window.partition(" ")[0] in ("daily", "weekly", "monthly", "quarterly")
    return now_ms >= (mark.ends_ms if calendar else mark.seen_ms + 2 * quiet_ms)
