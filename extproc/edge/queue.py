"""Carries the waiting room out on the event loop: alarms, turns, and the end of waiting.

The room decides whom to call; here is when. Turns are taken a few per turn of the loop, so that a
thousand waiters never hold the others up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from extproc.core.waiting import Turn, WaitingRoom
from extproc.edge.clock import Clock
from extproc.ledger.port import Hold

TURNS_AT_ONCE = 16
"""Waiters called per turn of the event loop: under a millisecond."""
POLL_S = 0.1
"""A remote ledger's capacity is also freed by other sidecars, which nobody tells us of: so often
the first of at most ``TURNS_AT_ONCE`` lines ask again, as long as anybody waits."""


class Queue:
    """One sidecar's waiting requests, called when something may have changed for them."""

    def __init__(self, room: WaitingRoom, clock: Clock) -> None:
        self._room = room
        self._clock = clock
        self._remote = False
        """The ledger is elsewhere: capacity may return unseen."""
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_ms = 0
        self._poll: asyncio.TimerHandle | None = None
        self._looking_soon = False

    def freed(self, holds: Iterable[Hold]) -> None:
        """A reservation on these counters has ended."""
        if self._room.lines:
            self._room.freed(holds)
            self.look_soon()

    def anything_may_have_changed(self) -> None:
        """Every line may try."""
        if self._room.lines:
            self._room.anything_may_have_changed()
            self.look_soon()

    def ledger_answered_late(self) -> None:
        """A remote ledger has answered: whoever is next may ask it now."""
        self._remote = True
        if self._room.lines:
            self.look_soon()

    def look_soon(self) -> None:
        """Calls whoever may be called, at the end of this turn of the event loop."""
        if not self._looking_soon and self._room.count:
            self._looking_soon = True
            asyncio.get_running_loop().call_soon(self._look)

    def look_at_alarms(self) -> None:
        """Somebody waits: for a time, for a deadline, for what other sidecars free."""
        room, loop = self._room, asyncio.get_running_loop()
        if room.turned_away:
            self.look_soon()
        if self._remote and self._poll is None and room.count:
            self._poll = loop.call_later(POLL_S, self._ask_again)
        at_ms = room.next_alarm_ms()
        if self._alarm is not None:
            if at_ms is not None and self._alarm_ms <= at_ms:
                return
            self._alarm.cancel()
            self._alarm = None
        if at_ms is not None:
            self._alarm_ms = at_ms
            delay_ms = max(1, at_ms - self._clock.now_ms())
            self._alarm = loop.call_later(delay_ms / 1000, self._ring)

    def stop(self) -> None:
        """Nobody waits any more, and nobody will."""
        room = self._room
        room.closed = True
        for waiter in room.everyone():
            assert waiter.resume is not None
            waiter.resume(Turn.STOPPED)

    def _ring(self) -> None:
        self._alarm = None
        self._look()

    def _ask_again(self) -> None:
        self._poll = None
        self._room.anything_may_have_changed()
        self._look()

    def _look(self) -> None:
        self._looking_soon = False
        room = self._room
        while room.turned_away:
            displaced = room.turned_away.pop()
            assert displaced.resume is not None
            displaced.resume(Turn.DISPLACED)
        over = room.due(self._clock.now_ms(), TURNS_AT_ONCE)
        for waiter in over:
            assert waiter.resume is not None
            waiter.resume(Turn.OVER)
        for _ in range(TURNS_AT_ONCE):
            called = room.call()
            if called is None:
                break
            assert called.resume is not None
            called.resume(Turn.NEXT)
        else:
            # A remote ledger is asked again when it has answered, or by the poll.
            if not self._remote:
                self.look_soon()
        if len(over) == TURNS_AT_ONCE:
            self.look_soon()
        self.look_at_alarms()
