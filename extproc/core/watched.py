"""The counters that somebody wants to hear of: those of limits with alerts that were booked on, and
those of budgets that routing looks at.
"""

from __future__ import annotations

from collections.abc import Sequence

from extproc.ledger.port import Hold, Standing
from extproc.values.limit import Amounts

MAX_WATCHED = 20_000
"""Counters remembered, some 200 bytes each. A rule per session opens them by the million: the
oldest are forgotten first, and come back when a caller that is not known yet uses them."""

CounterName = tuple[str, str]
"""Limit key and scope value."""


class Watched:
    """Names of counters, collected where bookings are planned, once per kind of caller."""

    __slots__ = ("_full", "_known", "_used_pct", "forgotten")

    def __init__(self) -> None:
        self._known: dict[CounterName, None] = {}
        self._full: dict[CounterName, None] = {}
        self._used_pct: dict[CounterName, int] = {}
        self.forgotten = 0

    def add(self, holds: Sequence[Hold]) -> None:
        """Takes the counters of a booking that have alerts."""
        for limit, scope_value, _ in holds:
            if limit.alerts:
                self.remember((limit.key, scope_value))

    def remember(self, name: CounterName) -> None:
        """Takes one counter."""
        if name not in self._known:
            self._known[name] = None
            if len(self._known) > MAX_WATCHED:
                oldest = next(iter(self._known))
                del self._known[oldest]
                self._used_pct.pop(oldest, None)
                self.forgotten += 1

    def denied(self, standings: Sequence[Standing], amounts: Amounts) -> None:
        """Notes the limits that are used up: they refuse what would not fit even if everything that
        is reserved cost nothing. Worst cases never fill a ceiling to the last crumb, so this, not a
        full counter, is how a limit comes to its end."""
        for hold, settled, _, _ in standings:
            limit = hold.limit
            if (
                limit.alerts
                and hold.ceiling >= limit.ceiling
                and settled + amounts[limit.unit] > limit.ceiling
            ):
                if len(self._full) < MAX_WATCHED:
                    self._full[limit.key, hold.scope_value] = None
                self.remember((limit.key, hold.scope_value))

    def seen(self, name: CounterName, used_pct: int) -> None:
        """A look at the counter: the settled share of its ceiling, in whole percents."""
        if name in self._known:
            self._used_pct[name] = used_pct

    def used_pct(self, name: CounterName) -> int:
        """What the last look found; 0 before the first."""
        return self._used_pct.get(name, 0)

    def take_full(self, name: CounterName) -> bool:
        """Whether the limit was found used up since it was asked last."""
        return name in self._full and self._full.pop(name) is None

    def names(self) -> list[CounterName]:
        """All of them, oldest first."""
        return list(self._known)
