"""Carries reservations, ends and questions to a shared store and brings the answers.

What requests of one turn of the event loop ask for leaves in one script call, and while calls are
under way the next ones gather: the busier, the fewer round trips per request.

A reservation whose answer does not come has an unknown outcome. It is asked for once more with the
same id on a new connection; if that fails too, the id is given up for good (``ABANDONED``):
whenever the store comes back, it ends there or is refused there. Ends are journaled first
(``Part``) and delivered until the store has confirmed them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import hiredis
import msgspec

from extproc.ledger.port import Denied, Granted, LedgerUnavailableError, Outcome
from extproc.ledger.redis_batch import (
    ABANDONED,
    CORRECTED,
    AccountPlan,
    Asked,
    Batch,
    Operation,
    Question,
    Told,
    bulk,
    outcome,
    standings,
)
from extproc.ledger.redis_errors import Remedy, meaning, unavailable
from extproc.ledger.redis_link import LATE_LOOP_S, Link, encode
from extproc.ledger.redis_names import Names
from extproc.ledger.redis_part import Part
from extproc.ledger.redis_scripts import Scripts
from extproc.values.limit import NOTHING

DEADLINE_S = 0.1
"""How long a request waits for a silent store: one answer's time, and a second question."""
PATIENCE_S = 0.4
"""How much longer it waits for its turn while the store keeps answering others."""
MAX_IN_FLIGHT = 2
"""Round trips under way: the store works on one while the other travels."""
MAX_BATCH = 32
"""Operations per round trip: about a millisecond of the store's time. Twenty sidecars at their most
busy keep each other waiting for less than an answer's timeout."""
MAX_WAITING = 4_096
"""Reservations that wait for the store; more are refused at once."""
MAX_UNDELIVERED = 100_000
"""Ends kept for a store that is away. What is above it is charged by its lease, in full."""
ENDS_WAIT_S = 0.002
"""Ends travel with the next reservation, or alone after this."""
RETRY_S = 1.0
"""An end that the store refused by itself is told again after this."""

_unpack = msgspec.msgpack.Decoder().decode


class Courier:
    """The operations of one sidecar, over whatever connection there is."""

    def __init__(self, names: Names, scripts: Scripts, part: Part) -> None:
        self._names = names
        self._scripts = scripts
        self._part = part
        self._loop: asyncio.AbstractEventLoop | None = None
        self._link: Link | None = None
        self.ready = False
        self.hopeful = False
        """Not ready, but the first attempt to be so again is under way: requests wait for it."""
        self.reason, self.detail = "starting", ""
        self.epoch = ""
        self.dropped = 0
        """Ends that found no place among the undelivered."""
        self.open = asyncio.Event()
        """Set when the store may be asked for the first time."""
        self.closed = asyncio.Event()
        """Set when the store says that it is not open any more."""
        self._now_ms = 0
        self._now_at_s = 0.0
        """When the store last answered, by our loop's clock."""
        self._waiting: deque[Asked | Question] = deque()
        self._pending: dict[Asked | Question, None] = {}
        """Everything that somebody waits for, oldest first."""
        self._told = part.undelivered
        self._unread: list[Told] = []
        self.plans: dict[str, AccountPlan] = {}
        """Of the open reservations that were made since the start."""
        self._in_flight = 0
        self._scheduled = False
        self._ends_timer: asyncio.TimerHandle | None = None
        self._deadline_timer: asyncio.TimerHandle | None = None
        self._deadline_at_s = 0.0

    @property
    def undelivered(self) -> int:
        """Ends that the store has not confirmed."""
        return len(self._told) + len(self._unread)

    @property
    def _anything(self) -> bool:
        return bool(self._waiting or self._told or self._unread)

    @property
    def idle(self) -> bool:
        """Nothing is under way and nothing is to be sent."""
        return not (self._told or self._unread or self._in_flight or self._pending)

    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop of a request that may be asked. Raises ``LedgerUnavailableError`` at once when
        it would only wait in vain."""
        if self._loop is None or not (self.ready or self.hopeful):
            raise unavailable(self.reason, self.detail)
        if self._part.journal.failed:
            raise unavailable("journal")
        if len(self._pending) >= MAX_WAITING:
            raise unavailable("overload")
        return self._loop

    def now_ms(self) -> int:
        """The store's time by our estimate; ours is never asked."""
        if self._loop is None:
            return self._now_ms
        return self._now_ms + int((self._loop.time() - self._now_at_s) * 1000)

    def set_now(self, now_ms: int) -> None:
        """The store has told its time."""
        if self._loop is not None:
            self._now_ms, self._now_at_s = now_ms, self._loop.time()

    # -- the connection ---------------------------------------------------------------------------

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Once, before everything."""
        self._loop = loop
        self.hopeful = True

    def opened(self, link: Link, epoch: str) -> None:
        """The store may be asked."""
        self._link, self.epoch = link, epoch
        self.ready, self.hopeful = True, False
        self.open.set()
        self.wake()

    def lost(self, reason: str) -> None:
        """The connection, or the store's word that it is open, has gone. What waits hopes for the
        next attempt."""
        if self.ready:
            self.ready, self.hopeful = False, True
        self.reason, self.detail = reason, ""

    def shut(self, reason: str, detail: str) -> None:
        """The attempt to be ready again has failed: nobody waits for the next one."""
        self.ready = self.hopeful = False
        self.reason, self.detail = reason, detail
        for operation in list(self._pending):
            self._fail(operation, unavailable(reason, detail))

    # -- in ---------------------------------------------------------------------------------------

    def ask(self, operation: Asked | Question) -> None:
        """Something that somebody waits for."""
        assert self._loop is not None
        operation.deadline_s = self._loop.time() + DEADLINE_S
        self._waiting.append(operation)
        self._pending[operation] = None
        if self._deadline_timer is None:
            self._look_again(operation.deadline_s)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._send)

    def tell(self, told: Told) -> None:
        """Something that the store must hear."""
        if len(self._told) >= MAX_UNDELIVERED:
            self.dropped += 1
            return
        self._told.append(told)
        if self.ready and self._ends_timer is None and self._loop is not None:
            self._ends_timer = self._loop.call_later(ENDS_WAIT_S, self._send_ends)

    def undelivered_ends(self) -> list[Told]:
        """Those that the local journal must remember."""
        return [told for told in (*self._told, *self._unread) if told.journaled]

    def wake(self) -> None:
        """Sends what is there with the end of this turn."""
        if not self._scheduled and self._loop is not None:
            self._scheduled = True
            self._loop.call_soon(self._send)

    # -- out --------------------------------------------------------------------------------------

    def _send_ends(self) -> None:
        self._ends_timer = None
        self._send()

    def _send(self) -> None:
        self._scheduled = False
        while self.ready and self._in_flight < MAX_IN_FLIGHT and self._anything:
            operations: list[Operation] = []
            while self._told and len(operations) < MAX_BATCH:
                told = self._told.popleft()
                plan = told.plan
                if plan is not None and plan.epoch != self.epoch:
                    plan = told.plan = (
                        plan.renewed(self._names, self.epoch, self.now_ms())
                        if told.kind == CORRECTED
                        else None
                    )
                if plan is None and not told.keys:
                    self._unread.append(told)
                else:
                    operations.append(told)
            while self._waiting and len(operations) < MAX_BATCH:
                asked = self._waiting.popleft()
                if asked not in self._pending:
                    continue  # its deadline has passed
                if asked.plan.epoch != self.epoch:
                    asked.plan = asked.plan.renewed(self._names, self.epoch, self.now_ms())
                operations.append(asked)
                if isinstance(asked, Question):
                    break  # it reads many slots: one per call
            if self._unread:
                self._read_records()
            if operations:
                self._dispatch(Batch(operations, self.epoch))

    def _dispatch(self, batch: Batch) -> None:
        try:
            # No end is told before it is durable here.
            self._part.ledger.flush()
        except LedgerUnavailableError as error:
            self._not_sent(batch)
            self.shut(error.reason, str(error))
            self.closed.set()
            return
        for operation in batch.operations:
            if isinstance(operation, Asked):
                operation.sent += 1
        command = batch.encode(
            self._scripts.digests["batch"], self._names, self._part.memory.seen, self.now_ms()
        )
        assert self._link is not None
        self._in_flight += 1
        self._link.send(command, partial(self._answered, batch))

    def _not_sent(self, batch: Batch) -> None:
        """Puts the operations back where they were, in their order."""
        for operation in reversed(batch.operations):
            if isinstance(operation, Told):
                self._told.appendleft(operation)
            elif operation in self._pending:
                self._waiting.appendleft(operation)

    def _answered(self, batch: Batch, answer: Any) -> None:
        self._in_flight -= 1
        if isinstance(answer, list):
            kind = answer[0]
            if kind == b"ok":
                self._taken(batch, answer)
            elif kind == b"stale":
                self.set_now(answer[1])
                for plan in batch.plans:
                    plan.valid_until_ms = 0
                self._not_sent(batch)
            else:
                self._not_sent(batch)
                self.lost("amnesia")
                self.closed.set()
        elif isinstance(answer, hiredis.ReplyError):
            self._refused(batch, str(answer))
        else:
            for operation in batch.operations:
                if isinstance(operation, Asked) and operation.sent > 1:
                    self._fail(operation, answer)
            self._not_sent(batch)
            self.lost(answer.reason)
        if self._anything:
            self.wake()

    def _refused(self, batch: Batch, message: str) -> None:
        """An error reply: nothing of the batch was taken, or all of it is asked for again."""
        reason, remedy = meaning(message)
        assert self._link is not None
        if remedy is Remedy.RELOAD and not batch.reloaded:
            batch.reloaded = True
            source = self._scripts.sources["batch"]
            self._link.send(encode("SCRIPT", "LOAD", source), _ignore)
            self._not_sent_again(batch)
        elif remedy is Remedy.RECONNECT:
            self._not_sent(batch)
            self.lost(reason)
            self._link.give_up(reason)
        elif len(batch.operations) > 1:
            for operation in batch.operations:
                if isinstance(operation, Told) or operation in self._pending:
                    self._dispatch(Batch([operation], self.epoch))
        else:
            operation = batch.operations[0]
            if not isinstance(operation, Told):
                self._fail(operation, unavailable(reason, message))
            elif self._loop is not None:
                self._loop.call_later(RETRY_S, self.tell, operation)

    def _not_sent_again(self, batch: Batch) -> None:
        self._in_flight += 1
        assert self._link is not None
        command = batch.encode(
            self._scripts.digests["batch"], self._names, self._part.memory.seen, self.now_ms()
        )
        self._link.send(command, partial(self._answered, batch))

    # -- answers ----------------------------------------------------------------------------------

    def _taken(self, batch: Batch, answer: list[Any]) -> None:
        _, now_ms, seen, results, totals = answer
        self.set_now(now_ms)
        delivered: list[str] = []
        granted: list[tuple[Asked, Outcome]] = []
        for operation, result in zip(batch.operations, results, strict=True):
            if isinstance(operation, Asked):
                first = batch.plans[operation.plan]
                decided = self._decided(operation, result, totals, first, now_ms)
                if decided is not None:
                    granted.append((operation, decided))
            elif isinstance(operation, Told):
                if result == -1:
                    # It took from counters that its plan does not name: its record does.
                    operation.plan, operation.keys = None, b""
                    self._unread.append(operation)
                elif operation.journaled:
                    delivered.append(operation.id)
            elif operation in self._pending:
                del self._pending[operation]
                if not operation.future.done():
                    operation.future.set_result(standings(operation, result, now_ms))
        try:
            self._part.note_sequence(seen)
            self._part.note_delivered(delivered)
        except LedgerUnavailableError as error:
            for asked, _ in granted:
                self._fail(asked, error)
            return
        for asked, decided in granted:
            self._pending.pop(asked, None)
            self.plans[asked.id] = asked.plan
            if not asked.future.done():
                asked.future.set_result(decided)

    def _decided(
        self, asked: Asked, result: Any, totals: Sequence[int], first: int, now_ms: int
    ) -> Outcome | None:
        """What the store said to a reservation, booked here too; None when it is told already."""
        if asked not in self._pending:
            return None  # given up meanwhile; the store is told so
        if asked.future.done():
            # Its caller has cancelled it.
            del self._pending[asked]
            if result in (1, 2):
                self._abandon(asked.id)
            return None
        try:
            decided = outcome(asked, result, totals, first, now_ms)
            if isinstance(decided, Granted):
                self._part.book(asked, now_ms)
        except (LedgerUnavailableError, ValueError) as error:
            self._fail(asked, error)
            return None
        if isinstance(decided, Denied):
            del self._pending[asked]
            asked.future.set_result(decided)
            return None
        return decided

    def _fail(self, operation: Asked | Question, error: Exception) -> None:
        """Nobody waits any more. What may have been taken is given up, durably."""
        self._pending.pop(operation, None)
        if isinstance(operation, Asked) and operation.sent and not isinstance(error, ValueError):
            self._abandon(operation.id)
        if not operation.future.done():
            operation.future.set_exception(error)
            # Nobody may be left to look at it.
            operation.future.exception()

    def _abandon(self, reservation_id: str) -> None:
        told = Told(reservation_id, ABANDONED, NOTHING)
        self._part.give_up(reservation_id, self.now_ms())
        with suppress(LedgerUnavailableError):
            self._part.note_undelivered(told)
        self.tell(told)

    def _overdue(self) -> None:
        self._deadline_timer = None
        assert self._loop is not None
        now_s = self._loop.time()
        silent_s = self._now_at_s + DEADLINE_S
        if now_s - self._deadline_at_s > LATE_LOOP_S:
            # We were late ourselves: what has arrived meanwhile is read first.
            self._look_again(now_s + LATE_LOOP_S)
            return
        for operation in list(self._pending):
            deadline_s = operation.deadline_s
            if self.ready:
                deadline_s = min(max(deadline_s, silent_s), deadline_s + PATIENCE_S)
            if deadline_s > now_s:
                self._look_again(deadline_s)
                return
            self._fail(operation, unavailable("timeout" if operation.sent else "overload"))

    def _look_again(self, at_s: float) -> None:
        assert self._loop is not None
        self._deadline_at_s = at_s
        self._deadline_timer = self._loop.call_at(at_s, self._overdue)

    # -- ends whose counters are not known here ---------------------------------------------------

    def _read_records(self) -> None:
        """Asks the store which counters they took from."""
        assert self._link is not None
        some, self._unread = self._unread[:MAX_BATCH], self._unread[MAX_BATCH:]
        keys = [told.record or self._names.record(self.epoch, told.id) for told in some]
        self._in_flight += 1
        self._link.send(encode("MGET", *keys), partial(self._records_read, some))

    def _records_read(self, some: list[Told], answer: Any) -> None:
        self._in_flight -= 1
        if not isinstance(answer, list):
            self._unread[:0] = some
            if isinstance(answer, hiredis.ReplyError) and self._link is not None:
                reason, _ = meaning(str(answer))
                self.lost(reason)
                self._link.give_up(reason)
            return
        for told, record in zip(some, answer, strict=True):
            names = [name.encode() for name in _unpack(record)[3][::4]] if record else []
            # The store's meta key stands for none: an operation without counters is sent too.
            told.keys = b"".join(map(bulk, names or [self._names.meta]))
        self._told.extendleft(reversed(some))
        self.wake()


def _ignore(_: Any) -> None:
    """A failed loading shows itself with the next call."""
