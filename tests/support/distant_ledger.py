"""A store that is elsewhere: it answers on command and loses what it is told to lose.

The sidecar's side of it keeps what it was told in an outbox that survives as far as it was flushed.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop, Future
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from typing import Any

from extproc.ledger.memory import MemoryLedger
from extproc.ledger.port import LedgerUnavailableError, Settlement
from extproc.values.limit import NOTHING


class Fate(Enum):
    """What becomes of a question."""

    ANSWERED = "answered"
    REQUEST_LOST = "request lost"
    REPLY_LOST = "reply lost"
    LATE = "heard only after the asker gave up"
    REFUSED = "the connection is known to be broken: raised at once"


class DistantLedger:
    """The sidecar's side of a shared ``MemoryLedger``."""

    def __init__(self, store: MemoryLedger, loop: AbstractEventLoop) -> None:
        self.store = store
        self.loop = loop
        self.fate = Fate.ANSWERED
        self.at_once = True
        """False: questions wait for ``answer``."""
        self.delivering = True
        """What was flushed reaches the store."""
        self.asked: list[str] = []
        self.waiting: list[tuple[Future[Any], str, Callable[[], Any], Fate]] = []
        self.late: list[tuple[str, Callable[[], Any]]] = []
        self.buffer: list[Callable[[], Any]] = []
        self.outbox: list[Callable[[], Any]] = []
        self.closed = False

    # -- the world's side -------------------------------------------------------------------------

    def away(self, fate: Fate = Fate.REFUSED) -> None:
        self.fate, self.delivering = fate, False

    def back(self) -> None:
        self.fate, self.delivering = Fate.ANSWERED, True
        self.deliver()

    def answer(self) -> None:
        """Every question that waits meets the fate it was asked under."""
        waiting, self.waiting = self.waiting, []
        for question in waiting:
            self._meet(*question)
        self.run()

    def land_late(self) -> None:
        """The store carries out what lay in the buffers of dead connections."""
        late, self.late = self.late, []
        for _, ask in late:
            ask()

    def run(self) -> None:
        """The event loop's next pass."""
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()

    def deliver(self) -> None:
        if self.delivering:
            outbox, self.outbox = self.outbox, []
            for tell in outbox:
                tell()

    def killed(self, loop: AbstractEventLoop) -> DistantLedger:
        """The sidecar is killed: what was not flushed is gone, and so is who asked."""
        heir = DistantLedger(self.store, loop)
        heir.outbox, heir.late = self.outbox, self.late
        heir.fate, heir.delivering, heir.at_once = self.fate, self.delivering, self.at_once
        return heir

    # -- the port ---------------------------------------------------------------------------------

    def reserve(self, reservation_id, account, amounts, now_ms, lease_until_ms):
        self.asked.append(reservation_id)
        return self._ask(
            reservation_id,
            lambda: self.store.reserve(reservation_id, account, amounts, now_ms, lease_until_ms),
        )

    def peek(self, holds, now_ms):
        return self._ask("", lambda: self.store.peek(holds, now_ms))

    def settle(self, reservation_id, amounts, now_ms, about):
        self.buffer.append(lambda: self.store.settle(reservation_id, amounts, now_ms, about))
        return Settlement(reservation_id, amounts, False)

    def release(self, reservation_id, now_ms, reason):
        self.buffer.append(lambda: self.store.release(reservation_id, now_ms, reason))
        return Settlement(reservation_id, NOTHING, False)

    def renew(self, reservation_id, lease_until_ms, at_least=NOTHING):
        self.buffer.append(lambda: self.store.renew(reservation_id, lease_until_ms, at_least))
        return True

    def correct(self, limit, scope_value, amount, now_ms, about):
        self.buffer.append(lambda: self.store.correct(limit, scope_value, amount, now_ms, about))
        return True

    def expire(self, now_ms):
        return self.store.expire(now_ms)

    def counters(self):
        return [("limit", "value", "1h", 1, 2)]

    @property
    def open_count(self):
        return sum(not entry.ended for entry in self.store._entries.values())

    def flush(self):
        self.outbox += self.buffer
        self.buffer.clear()
        self.deliver()

    def sync(self):
        pass

    def tend(self, now_ms):
        self.deliver()

    def close(self):
        self.flush()
        self.closed = True

    # -- inside -----------------------------------------------------------------------------------

    def _ask(self, name: str, ask: Callable[[], Any]) -> Any:
        if self.fate is Fate.REFUSED:
            raise LedgerUnavailableError("not connected")
        future = self.loop.create_future()
        if self.at_once:
            self._meet(future, name, ask, self.fate)
            # What hangs on it is called in the loop's next pass; see ``run``.
        else:
            self.waiting.append((future, name, ask, self.fate))
        return future

    def _meet(self, future: Future[Any], name: str, ask: Callable[[], Any], fate: Fate) -> None:
        if fate in (Fate.ANSWERED, Fate.REPLY_LOST):
            try:
                outcome = ask()
            except ValueError as error:
                future.set_exception(error)
                return
            if fate is Fate.ANSWERED:
                future.set_result(outcome)
                return
        elif fate is Fate.LATE:
            self.late.append((name, lambda: _heard(ask)))
        future.set_exception(LedgerUnavailableError(fate.value))


def _heard(ask: Callable[[], Any]) -> None:
    with suppress(ValueError):  # it had ended before it was heard
        ask()
