"""A request that may have to wait: ``queue_then_429`` on top of the request's machine.

    body     -> ... | Wait (behind others who wait for the same counter)
    reserved -> ... | Wait (a counter is full, and may have room in time)
    called   -> Reserve | Refuse (its turn or its deadline has come)

Whoever waits holds nothing, so it alone does not stay with the policy generation that it began
with: when it is called it is decided by the one that holds then.
"""

from __future__ import annotations

from collections.abc import Sequence

from extproc.core import refusals
from extproc.core.commands import AwaitBody, Forward, Refuse, Reserve, Wait
from extproc.core.gate import Gate
from extproc.core.machine import RequestMachine, State
from extproc.core.patience import can_fit_by, newcomer
from extproc.core.routing import Chain
from extproc.core.waiting import Left, Turn, Waiter
from extproc.ledger.port import Denied, Granted, Hold, Standing
from extproc.values.limit import BreachKind
from extproc.values.refusal import Refusal


class QueueingMachine(RequestMachine):
    """What the edge feeds. See ``RequestMachine``."""

    __slots__ = ("_waiter", "_waits_for")

    _waits_for: Hold

    def __init__(self, gate: Gate) -> None:
        super().__init__(gate)
        self._waiter: Waiter | None = None

    def on_called(self, turn: Turn, now_ms: int) -> Reserve | Forward | Wait | Refuse:
        """The waiting room calls: the ledger is asked again, or the wait ends."""
        assert self.state is State.TURN
        self.state = State.RESERVATION
        self._now_ms = now_ms
        if turn is Turn.STOPPED:
            self._leave(Left.STOPPED)
            return self._refuse(refusals.stopping(self._waits_for.limit))
        if turn is Turn.DISPLACED:
            return self._refuse(refusals.queue_full(self._waits_for.limit))
        if self._generation is self._gate.generation:
            self._as_asked()  # cut shorter, if at all, to what is left now
            return self._reserve(self._chain)
        # A new policy decides as if the request came now. Its place and its deadline stay.
        self.abandon()
        RequestMachine.__init__(self, self._gate)
        command = self.on_headers(self._headers._replace(now_ms=now_ms))
        if isinstance(command, AwaitBody):
            return self.on_body(self._body._replace(now_ms=now_ms))
        assert isinstance(command, Refuse), "the same headers ask for the same operation"
        return command

    def on_caller_left(self) -> bool:
        """The client is gone, and waits no more; True if it did. What is being reserved for it the
        edge gives back."""
        self.abandon()
        self._leave(Left.ABANDONED)
        return self._waiter is not None

    # -- steps ------------------------------------------------------------------------------------

    def _reserve(self, chain: Chain) -> Reserve | Wait | Refuse:
        command = super()._reserve(chain)
        room = self._gate.waiting
        if not room.lines or self._waiter is not None or isinstance(command, Refuse):
            return command
        ahead = room.line_ahead(self._plan.account.holds, self._amounts)
        if ahead is None:
            return command
        waiter = self._newcomer(ahead.limit.max_wait_ms)
        if waiter.deadline_ms <= self._now_ms:
            return command
        return self._enter(waiter, ahead, waiter.deadline_ms, 0)

    def _act_on(self, denied: Denied) -> Reserve | Wait | Refuse:
        at_once = [s for s in denied.standings if s.hold.limit.breach.kind is not _QUEUE]
        if not at_once:
            return self._wait_for(denied.standings)
        # What blocks or moves the request does so now; what is full then, it may wait for there.
        return super()._act_on(Denied(at_once))

    def _wait_for(self, standings: Sequence[Standing]) -> Wait | Refuse:
        """Waits in the line of the first of some full counters, if there is hope for all."""
        max_wait_ms = min(standing.hold.limit.max_wait_ms for standing in standings)
        waiter = self._waiter or self._newcomer(max_wait_ms)
        deadline_ms = min(waiter.deadline_ms, waiter.since_ms + max_wait_ms)
        first = standings[0]
        in_time = deadline_ms > self._now_ms
        if in_time and can_fit_by(deadline_ms, standings, self._amounts):
            return self._enter(waiter, first.hold, deadline_ms, first.resets_at_ms or 0)
        self._leave(Left.REFUSED if in_time else Left.TIMED_OUT)
        estimated = self._amounts[first.hold.limit.unit]
        return self._refuse(refusals.over_limit(first, estimated, self._now_ms))

    def _newcomer(self, max_wait_ms: int) -> Waiter:
        size, now_ms = self._request.body_bytes, self._now_ms
        return newcomer(self._caller, self._headers, size, now_ms, max_wait_ms)

    def _enter(self, waiter: Waiter, hold: Hold, deadline_ms: int, ready_ms: int) -> Wait | Refuse:
        counter, maximum = (hold.limit.key, hold.scope_value), self._generation.policy.max_waiting
        if not self._gate.waiting.enter(waiter, counter, deadline_ms, ready_ms, maximum):
            return self._refuse(refusals.queue_full(hold.limit))
        # Envoy is told once how long it has to wait: it listens to no second word.
        hold_ms = 0 if self._waiter is waiter else deadline_ms - self._now_ms
        self._waiter, self._waits_for = waiter, hold
        self.state = State.TURN
        return Wait(waiter, hold_ms)

    def _leave(self, how: Left) -> None:
        if self._waiter is not None:
            self._gate.waiting.leave(self._waiter, how)

    def _forward(self, granted: Granted) -> Forward | Refuse:
        command = super()._forward(granted)
        waiter = self._waiter
        if waiter is None or isinstance(command, Refuse):
            return command
        self._leave(Left.SERVED)
        waited = ("queued", str(self._now_ms - waiter.since_ms))
        return command._replace(notes=(*command.notes, waited))

    def _refuse(self, refusal: Refusal) -> Refuse:
        self._leave(Left.REFUSED)
        return super()._refuse(refusal)


_QUEUE = BreachKind.QUEUE_THEN_429
