"""The waiting room of ``queue_then_429``: who waits for which full counter, and whose turn it is.

One line per counter. Within a line the identities take turns, so one with a thousand requests gets
no more than one with a single request; within an identity the first comes first. Whoever comes
while others wait for a counter waits behind them, even if its own small request would fit:
otherwise small requests would starve a large one for ever.

Nothing is held in the ledger for a waiting request: when its turn comes it asks again. The room
knows no clock and calls nobody; it says whom to call (``call``, ``due``, ``turned_away``) and when
to look again (``next_alarm_ms``).
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum

from extproc.ledger.port import Hold
from extproc.values.limit import Amounts, BreachKind

MAX_WAITING_BYTES = 128 * 1024 * 1024
"""Bodies of waiting requests, which both Envoy and the sidecar keep in memory: a thousand of the
size of an agent's, or four of the largest."""
MAX_IDENTITY_BYTES = MAX_WAITING_BYTES // 4
"""Of them, of one identity: one of the largest bodies."""
_ALARMS_PER_WAITER = 4
"""Alarms of waiters that have left are dropped when there are more than this many for each waiter
that is here (and some)."""

CounterKey = tuple[str, str]
"""A limit's key and a scope value."""


class Left(StrEnum):
    """How a request left the waiting room."""

    __hash__ = str.__hash__

    SERVED = "served"
    TIMED_OUT = "timed_out"
    """Its deadline came, and there was still no room for it."""
    REFUSED = "refused"
    """Its turn came, and another rule or a lost hope refused it."""
    DISPLACED = "displaced"
    """The room was full, and its identity had the most waiters."""
    ABANDONED = "abandoned"
    """The client went away."""
    STOPPED = "stopped"
    """The gateway stops."""


class Turn(StrEnum):
    """Why a waiter is called."""

    NEXT = "next"
    """Capacity may have returned: ask the ledger again."""
    OVER = "over"
    """Its deadline has come: ask one last time."""
    DISPLACED = "displaced"
    STOPPED = "stopped"


class Waiter:
    """One waiting request."""

    __slots__ = (
        "body_bytes",
        "called",
        "deadline_ms",
        "identity",
        "inside",
        "line",
        "missed_alarm",
        "ready_ms",
        "resume",
        "since_ms",
    )

    def __init__(self, identity: str, body_bytes: int, since_ms: int, deadline_ms: int) -> None:
        self.identity = identity
        """Whose it is, for fairness: credential and user."""
        self.body_bytes = body_bytes
        self.since_ms = since_ms
        self.deadline_ms = deadline_ms
        self.ready_ms = 0
        """When capacity returns by time alone, as it was last told."""
        self.resume: Callable[[Turn], None] | None = None
        """The edge's own: how to go on with the request."""
        self.inside = False
        self.called = False
        """Its turn has come, and the ledger is being asked: nothing else may happen to it."""
        self.missed_alarm = False
        """An alarm of its own came while it was called."""
        self.line: Line | None = None


class Line:
    """Those who wait for one counter, by identity, in the order of their turns."""

    __slots__ = ("called", "counter", "turns")

    def __init__(self, counter: CounterKey) -> None:
        self.counter = counter
        self.turns: OrderedDict[str, OrderedDict[Waiter, None]] = OrderedDict()
        self.called: Waiter | None = None
        """Who is asking the ledger now: one at a time, or they would overtake each other."""

    def append(self, waiter: Waiter) -> None:
        """Behind the others of its identity."""
        self.turns.setdefault(waiter.identity, OrderedDict())[waiter] = None

    def put_back(self, waiter: Waiter) -> None:
        """To the very front: its turn is not over until it was served."""
        waiters = self.turns.setdefault(waiter.identity, OrderedDict())
        waiters[waiter] = None
        waiters.move_to_end(waiter, last=False)
        self.turns.move_to_end(waiter.identity, last=False)

    def take_first(self) -> Waiter:
        """The first of the identity whose turn it is; the identity's next turn comes last."""
        identity, waiters = next(iter(self.turns.items()))
        waiter = next(iter(waiters))
        self.remove(waiter)
        if waiters:
            self.turns.move_to_end(identity)
        return waiter

    def remove(self, waiter: Waiter) -> None:
        """Takes a waiter out, wherever it stands."""
        waiters = self.turns[waiter.identity]
        del waiters[waiter]
        if not waiters:
            del self.turns[waiter.identity]


class WaitingRoom:
    """All lines of one sidecar, bounded by requests and by bytes."""

    def __init__(self) -> None:
        self.lines: dict[CounterKey, Line] = {}
        """Empty as long as nobody waits: all that other requests look at."""
        self.closed = False
        """Nobody may enter any more."""
        self.count = 0
        self.bytes = 0
        self.entered = 0
        self.left: dict[Left, int] = dict.fromkeys(Left, 0)
        self.turned_away: list[Waiter] = []
        """Displaced by others, not yet told."""
        self._identities: dict[str, OrderedDict[Waiter, None]] = {}
        self._bytes_of: dict[str, int] = {}
        self._by_count: dict[int, dict[str, None]] = {}
        """Identities by how many waiters they have: the largest is found at once."""
        self._most = 0
        self._to_call: OrderedDict[CounterKey, Line] = OrderedDict()
        """Lines whose counter may have room again."""
        self._alarms: list[tuple[int, int, Waiter]] = []
        self._alarm_count = 0

    # -- coming and going -------------------------------------------------------------------------

    def enter(
        self,
        waiter: Waiter,
        counter: CounterKey,
        deadline_ms: int,
        ready_ms: int,
        max_requests: int,
    ) -> bool:
        """Puts a waiter into the line of a counter; False when there is no room for it.

        ``ready_ms``: when the counter has room by time alone; 0 when that is not known. One that
        was called and found the same counter still full stands at the front again. Its deadline
        may come nearer, never move away.
        """
        if self.closed:
            return False
        if not waiter.inside:
            if not self._has_room(waiter, max_requests):
                return False
            self._count_in(waiter)
            waiter.deadline_ms = deadline_ms
            self._alarm(deadline_ms, waiter)
        elif waiter.missed_alarm or deadline_ms < waiter.deadline_ms:
            waiter.missed_alarm, waiter.ready_ms = False, 0
            waiter.deadline_ms = min(waiter.deadline_ms, deadline_ms)
            self._alarm(waiter.deadline_ms, waiter)
        before, waiter.line, waiter.called = waiter.line, None, False
        if before is not None:
            before.called = None
        line = self.lines.get(counter)
        if line is None:
            line = self.lines[counter] = Line(counter)
        waiter.line = line
        if before is line:
            line.put_back(waiter)
        else:
            line.append(waiter)
            if before is not None:
                self._next_may_try(before)
        if ready_ms and ready_ms != waiter.ready_ms and ready_ms < waiter.deadline_ms:
            waiter.ready_ms = ready_ms
            self._alarm(ready_ms, waiter)
        return True

    def leave(self, waiter: Waiter, how: Left) -> None:
        """Takes a waiter out for good, wherever it stands. Nothing happens a second time."""
        if not waiter.inside:
            return
        self._count_out(waiter)
        self.left[how] += 1
        line, waiter.line = waiter.line, None
        if line is None:
            return
        if line.called is waiter:
            line.called = None
        else:
            line.remove(waiter)
        self._next_may_try(line)

    def line_ahead(self, holds: Sequence[Hold], amounts: Amounts) -> Hold | None:
        """The first counter for which others wait already; None when there is none, or when the
        request could never fit there anyway."""
        for hold in holds:
            limit = hold.limit
            if (limit.key, hold.scope_value) in self.lines:
                fits = amounts[limit.unit] <= hold.ceiling
                if fits and limit.breach.kind is BreachKind.QUEUE_THEN_429:
                    return hold
        return None

    def everyone(self) -> list[Waiter]:
        """All who wait and are not being tried."""
        return [
            waiter
            for waiters in self._identities.values()
            for waiter in waiters
            if not waiter.called
        ]

    # -- whom to call -----------------------------------------------------------------------------

    def freed(self, holds: Iterable[Hold]) -> None:
        """A reservation on these counters has ended: their lines may have room."""
        for hold in holds:
            line = self.lines.get((hold.limit.key, hold.scope_value))
            if line is not None:
                self._to_call[line.counter] = line

    def anything_may_have_changed(self) -> None:
        """Every line may try again: a new policy, an expired lease, another sidecar's release."""
        self._to_call.update(self.lines)

    def call(self) -> Waiter | None:
        """Whose turn it is to ask the ledger again; None when nobody should.

        Who was called either enters again or leaves; then the next of its line may be called, until
        one finds the counter full.
        """
        line = next((line for line in self._to_call.values() if line.called is None), None)
        if line is None:
            return None
        del self._to_call[line.counter]
        waiter = line.take_first()
        line.called, waiter.called = waiter, True
        return waiter

    def due(self, now_ms: int, most: int) -> list[Waiter]:
        """At most so many whose deadline has come, out of their lines: each is tried a last time.
        Lines whose counter has room again by now are marked to be called."""
        over: list[Waiter] = []
        while self._alarms and self._alarms[0][0] <= now_ms and len(over) < most:
            at_ms, _, waiter = heapq.heappop(self._alarms)
            line = waiter.line
            if waiter.called or line is None:
                waiter.missed_alarm = True
                continue
            if at_ms < waiter.deadline_ms:
                self._to_call[line.counter] = line
                continue
            line.remove(waiter)
            waiter.line, waiter.called = None, True
            self._next_may_try(line)
            over.append(waiter)
        return over

    def next_alarm_ms(self) -> int | None:
        """When to look again (``due``); None when time alone changes nothing."""
        return self._alarms[0][0] if self._alarms else None

    # -- inside -----------------------------------------------------------------------------------

    def _next_may_try(self, line: Line) -> None:
        if line.turns:
            self._to_call[line.counter] = line
        elif line.called is None:
            del self.lines[line.counter]
            self._to_call.pop(line.counter, None)

    def _has_room(self, waiter: Waiter, max_requests: int) -> bool:
        """Whether a newcomer may enter; makes room for one of a smaller identity if need be."""
        identity = waiter.identity
        if self.bytes + waiter.body_bytes > MAX_WAITING_BYTES:
            return False
        if self._bytes_of.get(identity, 0) + waiter.body_bytes > MAX_IDENTITY_BYTES:
            return False
        if self.count < max_requests:
            return True
        if self._most <= len(self._identities.get(identity, ())) + 1:
            return False
        largest = self._identities[next(iter(self._by_count[self._most]))]
        for last in reversed(largest):
            if not last.called:
                self.leave(last, Left.DISPLACED)
                self.turned_away.append(last)
                return True
        return False

    def _count_in(self, waiter: Waiter) -> None:
        waiter.inside = True
        self.entered += 1
        self.count += 1
        self.bytes += waiter.body_bytes
        identity = waiter.identity
        self._bytes_of[identity] = self._bytes_of.get(identity, 0) + waiter.body_bytes
        waiters = self._identities.setdefault(identity, OrderedDict())
        self._uncount(identity, len(waiters))
        waiters[waiter] = None
        self._by_count.setdefault(len(waiters), {})[identity] = None
        self._most = max(self._most, len(waiters))

    def _count_out(self, waiter: Waiter) -> None:
        waiter.inside = waiter.called = False
        self.count -= 1
        self.bytes -= waiter.body_bytes
        identity = waiter.identity
        self._bytes_of[identity] -= waiter.body_bytes
        waiters = self._identities[identity]
        self._uncount(identity, len(waiters))
        del waiters[waiter]
        if waiters:
            self._by_count.setdefault(len(waiters), {})[identity] = None
        else:
            del self._identities[identity], self._bytes_of[identity]
        while self._most and self._most not in self._by_count:
            self._most -= 1
        if not self.count:
            self._alarms.clear()

    def _uncount(self, identity: str, count: int) -> None:
        same = self._by_count.get(count)
        if same is not None:
            same.pop(identity, None)
            if not same:
                del self._by_count[count]

    def _alarm(self, at_ms: int, waiter: Waiter) -> None:
        if len(self._alarms) > _ALARMS_PER_WAITER * self.count + 64:
            self._alarms = [
                alarm
                for alarm in self._alarms
                if alarm[2].inside and alarm[0] in (alarm[2].deadline_ms, alarm[2].ready_ms)
            ]
            heapq.heapify(self._alarms)
        self._alarm_count += 1
        heapq.heappush(self._alarms, (at_ms, self._alarm_count, waiter))
