"""Whether a remote store answers, and what it may have heard although nobody waited for it."""

from __future__ import annotations

from asyncio import Future
from collections.abc import Sequence
from itertools import islice
from typing import Any

from extproc.ledger.port import Hold, Ledger, LedgerUnavailableError
from extproc.values.limit import NOTHING

MAX_DOUBTS = 10_000
"""Questions of unknown fate that are remembered, about 100 bytes each. Of older ones, what the
store did hear is charged when the lease ends: too much, never too little."""
REPEATED_AT_ONCE = 500
"""Doubtful questions whose end is told again per ``tend``: a few milliseconds."""
CALM_MS = 5_000
"""How long after the store's return, or after our own start, the ends of doubtful questions are
told for good. What a broken connection had delivered before is carried out by then: a store reads
what has arrived at once."""


class Contact:
    """One sidecar's view of its store.

    A question without an answer may have been heard all the same. So the reservation that it asked
    for is ended at once, at nothing (``doubt``). A store that was paused may carry the question out
    *after* that end, from the buffer of the connection that was given up; so the end is told once
    more when the store has been back for a while.
    """

    def __init__(self, remote: Ledger) -> None:
        self._remote = remote
        self.away = False
        """The last question had no answer."""
        self._since_ms: int | None = None
        """When it began to answer; None before the first ``tend``."""
        self._doubts: dict[str, None] = {}
        self._probing = False
        self._ask: Sequence[Hold] = ()

    def lost(self, holds: Sequence[Hold]) -> None:
        """A question about some counters had no answer."""
        self.away = True
        self._ask = holds[:1]

    def made(self, now_ms: int) -> None:
        """A question was answered."""
        if self.away:
            self.away = False
            self._since_ms = now_ms

    def doubt(self, reservation_id: str, now_ms: int, about: str) -> None:
        """Ends, at nothing, what the store may or may not have reserved. Settled and not released:
        that also corrects what the store has charged because its lease ran out meanwhile."""
        self._remote.settle(reservation_id, NOTHING, now_ms, {"unanswered": about})
        self._doubts[reservation_id] = None
        if len(self._doubts) > MAX_DOUBTS:
            del self._doubts[next(iter(self._doubts))]

    def doubts(self, reservation_id: str) -> bool:
        """Whether an end at nothing may still be under way: the id must not be asked for again,
        because that end would take what it then reserves."""
        return reservation_id in self._doubts

    def calm(self, now_ms: int) -> bool:
        """Whether every question that was asked before an outage has been heard by now, if ever."""
        since_ms = self._since_ms
        return not self.away and since_ms is not None and now_ms >= since_ms + CALM_MS

    def tend(self, now_ms: int) -> None:
        """About once a second: asks whether the store is back, and repeats what is in doubt."""
        if self._since_ms is None:
            self._since_ms = now_ms
        if self.away:
            self._probe(now_ms)
        elif self._doubts and self.calm(now_ms):
            for reservation_id in list(islice(self._doubts, REPEATED_AT_ONCE)):
                self._remote.settle(reservation_id, NOTHING, now_ms, {"unanswered": "repeated"})
                del self._doubts[reservation_id]

    def _probe(self, now_ms: int) -> None:
        if self._probing:
            return
        try:
            answer = self._remote.peek(self._ask, now_ms)
        except LedgerUnavailableError:
            return
        if isinstance(answer, Future):
            self._probing = True
            answer.add_done_callback(lambda future: self._probed(future, now_ms))
        else:
            self.made(now_ms)

    def _probed(self, future: Future[Any], now_ms: int) -> None:
        self._probing = False
        if not future.cancelled() and future.exception() is None:
            self.made(now_ms)
