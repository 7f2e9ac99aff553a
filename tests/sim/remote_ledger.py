"""A ledger that several sidecars share over a network that loses, delays and forgets.

The server is the reference ledger. A client asks it by message, asks again under the same id when
no answer comes, and keeps its own grants and ends in a log that survives its death: from those an
emptied server is filled again, and until every client has done so it admits nothing.
"""

from __future__ import annotations

import contextlib
from asyncio import Future
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, cast

from schedule import ProcessLoop, Schedule

from extproc.ledger.memory import MemoryLedger
from extproc.ledger.port import (
    Account,
    Granted,
    Hold,
    LedgerUnavailableError,
    Outcome,
    Settlement,
    Standing,
)
from extproc.values.limit import NOTHING, Amounts

TRY_MS = 150
TRIES = 3


@dataclass
class Network:
    """How bad the way to the server is. Shares are of messages, each way."""

    lost: float = 0.0
    slow: float = 0.0
    up: bool = True


class LedgerServer:
    """The shared store: one reference ledger, which may be away and may come back empty."""

    def __init__(self, schedule: Schedule, draw: Random, clients: Iterable[int]) -> None:
        self.network = Network()
        self.book = MemoryLedger()
        self.epoch = 1
        """Grows with every loss of memory."""
        self._schedule = schedule
        self._draw = draw
        self._clients = frozenset(clients)
        self._known = set(self._clients)
        """Clients whose part is in the book."""

    def empty(self) -> None:
        """Restarts without its memory."""
        self.book = MemoryLedger()
        self.epoch += 1
        self._known.clear()

    @property
    def whole(self) -> bool:
        """Whether all that was ever granted is in the book."""
        return self._known == self._clients

    def ask(self, operation: Callable[[], Any], answer: Callable[[Any], None]) -> None:
        """One message there and one back, each of which may get lost or be late."""
        if self._arrives():
            self._schedule.after(self._delay_ms(), "ledger", self._work, operation, answer)

    def _work(self, operation: Callable[[], Any], answer: Callable[[Any], None]) -> None:
        if not self.network.up:
            return
        result = operation()
        if self._arrives():
            self._schedule.after(self._delay_ms(), "ledger answers", answer, result)

    def _arrives(self) -> bool:
        return self._draw.random() >= self.network.lost

    def _delay_ms(self) -> int:
        return self._draw.randint(0, 400 if self._draw.random() < self.network.slow else 3)

    def hello(self, client: int, log: Sequence[tuple[Any, ...]]) -> tuple[bool, int]:
        """News of a client: taken (True) if its part is here. And the present epoch."""
        if client not in self._known:
            return False, self.epoch
        for record in log:
            self.apply(record)
        # What no client knows of was granted to nobody: it is charged when its lease ends.
        self.book.expire(self._schedule.now_ms)
        return True, self.epoch

    def replay(self, client: int, epoch: int, log: Sequence[tuple[Any, ...]]) -> bool:
        """A client's whole part, for an epoch that it has heard of."""
        if epoch != self.epoch:
            return False
        for record in log:
            self.apply(record)
        self._known.add(client)
        return True

    def reserve(self, *question: Any) -> tuple[int, Outcome | None]:
        """None: not until everybody's part is here."""
        outcome = None
        if self.whole:
            with contextlib.suppress(ValueError):
                reservation_id, account, amounts, _, lease_until_ms = question
                # Its own clock is the only one for windows.
                now_ms = self._schedule.now_ms
                outcome = self.book.reserve(
                    reservation_id, account, amounts, now_ms, lease_until_ms
                )
        return self.epoch, outcome

    def apply(self, record: tuple[Any, ...]) -> None:
        """One record of a client's log. Twice is as good as once."""
        kind, *rest = record
        if kind == "granted":
            reservation_id, account, amounts, now_ms, lease_until_ms = rest
            # Granted long ago: it is not asked again whether it fits.
            free = Account([hold._replace(ceiling=2**62) for hold in account.holds], account.about)
            try:
                self.book.reserve(reservation_id, free, amounts, now_ms, lease_until_ms)
            except ValueError:
                return
        elif kind == "settled":
            self.book.settle(*rest, {})
        elif kind == "released":
            self.book.release(*rest, "")
        elif kind == "expired":
            # The reference expires by lease only.
            self.book.renew(rest[0], -1)
            self.book.expire(-1)
        else:
            self.book.renew(*rest)


@dataclass
class ClientLog:
    """A client's durable part: what ``flush`` has written, and how much of it was delivered."""

    written: list[tuple[Any, ...]] = field(default_factory=list)
    delivered: int = 0


@dataclass
class _Own:
    account: Account
    amounts: Amounts
    lease_until_ms: int
    ended: str = ""


class RemoteLedger:
    """One sidecar's client of the shared store. Implements ``Ledger`` by futures."""

    watched: Any = None

    def __init__(self, server: LedgerServer, client: int, log: ClientLog, loop: ProcessLoop):
        self._server = server
        self._client = client
        self._log = log
        self._loop = loop
        self._buffer: list[tuple[Any, ...]] = []
        self._own: dict[str, _Own] = {}
        self._epoch = 0
        """The server's, as last heard: an answer from another one is no answer."""
        self._exchange = self._exchanges = 0
        """The one that waits for its answer, and how many there were."""
        for record in log.written:
            self._remember(record)
        self._deliver()

    def reserve(
        self,
        reservation_id: str,
        account: Account,
        amounts: Amounts,
        now_ms: int,
        lease_until_ms: int,
    ) -> Future[Outcome]:
        """See the port."""
        future = cast("Future[Outcome]", self._loop.create_future())
        question = (reservation_id, account, amounts, now_ms, lease_until_ms)
        self._ask(question, future, TRIES)
        return future

    def _ask(self, question: tuple[Any, ...], future: Future[Outcome], tries: int) -> None:
        if future.done():
            return
        if tries == 0:
            # Whether it was taken is unknown. It will not be used, so it is given back.
            self._append(("released", question[0], question[3]))
            future.set_exception(LedgerUnavailableError("no answer"))
            return
        self._server.ask(
            lambda: self._server.reserve(*question),
            lambda answer: self._back(self._reserved, question, future, *answer),
        )
        self._loop.call_later(TRY_MS / 1000, self._ask, question, future, tries - 1)

    def _back(self, callback: Any, *arguments: Any) -> None:
        """An answer arrives at this process, if it still lives."""
        if self._loop.alive:
            self._loop.call_soon(callback, *arguments)

    def _reserved(
        self,
        question: tuple[Any, ...],
        future: Future[Outcome],
        epoch: int,
        outcome: Outcome | None,
    ) -> None:
        if future.done() or epoch != self._epoch:
            return
        if outcome is None:
            future.set_exception(LedgerUnavailableError("not whole"))
            return
        if isinstance(outcome, Granted):
            self._append(("granted", *question))
        if self.watched is not None:
            self.watched.answered(question[0], outcome)
        future.set_result(outcome)

    def settle(
        self, reservation_id: str, amounts: Amounts, now_ms: int, about: Mapping[str, object]
    ) -> Settlement | None:
        """See the port."""
        own = self._own.get(reservation_id)
        if own is None or own.ended == "settled":
            return None
        late = bool(own.ended)
        self._append(("settled", reservation_id, amounts, now_ms))
        return Settlement(reservation_id, amounts, late)

    def release(self, reservation_id: str, now_ms: int, reason: str) -> Settlement | None:
        """See the port."""
        own = self._own.get(reservation_id)
        if own is None or own.ended:
            return None
        self._append(("released", reservation_id, now_ms))
        return Settlement(reservation_id, NOTHING, False)

    def renew(self, reservation_id: str, lease_until_ms: int, at_least: Amounts = NOTHING) -> bool:
        """See the port."""
        own = self._own.get(reservation_id)
        if own is None or own.ended:
            return False
        self._append(("renewed", reservation_id, lease_until_ms, at_least))
        return True

    def expire(self, now_ms: int) -> Sequence[Settlement]:
        """See the port."""
        late = [
            (reservation_id, own.amounts)
            for reservation_id, own in self._own.items()
            if not own.ended and own.lease_until_ms <= now_ms
        ]
        for reservation_id, _ in late:
            self._append(("expired", reservation_id))
        return [Settlement(reservation_id, amounts, False) for reservation_id, amounts in late]

    def peek(self, holds: Sequence[Hold], now_ms: int) -> Future[Sequence[Standing]]:
        """See the port."""
        future = cast("Future[Sequence[Standing]]", self._loop.create_future())
        self._server.ask(
            lambda: self._server.book.peek(holds, now_ms),
            lambda standings: self._back(future.set_result, standings),
        )
        return future

    def counters(self) -> Iterable[tuple[str, str, str, int, int]]:
        """See the port."""
        return ()

    @property
    def open_count(self) -> int:
        """See the port."""
        return sum(not own.ended for own in self._own.values())

    def flush(self) -> None:
        """See the port."""
        if self.watched is None:
            self._write()
        else:
            self.watched.written(self._write)

    def _write(self) -> None:
        self._log.written += self._buffer
        self._buffer.clear()
        self._deliver()

    def torn_write(self, draw: Random) -> None:
        """The process dies in a flush: some of its records were written."""
        self._log.written += self._buffer[: draw.randint(0, len(self._buffer))]

    def sync(self) -> None:
        """See the port."""

    def tend(self, now_ms: int) -> None:
        """See the port."""
        self._deliver()

    def close(self) -> None:
        """See the port."""

    def _append(self, record: tuple[Any, ...]) -> None:
        self._buffer.append(record)
        self._remember(record)

    def _remember(self, record: tuple[Any, ...]) -> None:
        kind, reservation_id, *rest = record
        own = self._own.get(reservation_id)
        if kind == "granted":
            account, amounts, _, lease_until_ms = rest
            self._own.setdefault(reservation_id, _Own(account, amounts, lease_until_ms))
        elif own is None:
            return
        elif kind == "renewed":
            own.lease_until_ms = rest[0]
            own.amounts = cast("Amounts", tuple(map(max, own.amounts, rest[1])))
        else:
            own.ended = kind
            if kind != "expired":
                own.amounts = rest[0] if kind == "settled" else NOTHING

    def _deliver(self) -> None:
        """Tells the server, in order, what it has not acknowledged. One exchange at a time."""
        if self._exchange:
            return
        known = self._log.delivered
        records = self._log.written[known:]
        self._begin(
            lambda: self._server.hello(self._client, records),
            lambda answer: self._heard(known + len(records), *answer),
        )

    def _heard(self, count: int, taken: bool, epoch: int) -> None:
        self._epoch = epoch
        if taken:
            self._log.delivered = max(self._log.delivered, count)
            if self._log.delivered < len(self._log.written):
                self._deliver()
            return
        # It forgot. From here on its older answers count for nothing, so this is everything.
        everything = self._log.written + self._buffer
        self._begin(
            lambda: self._server.replay(self._client, epoch, everything), lambda _: self._deliver()
        )

    def _begin(self, operation: Any, then: Any) -> None:
        self._exchanges += 1
        self._exchange = number = self._exchanges

        def answered(answer: Any) -> None:
            if self._exchange == number:
                self._exchange = 0
                then(answer)

        self._server.ask(operation, lambda answer: self._back(answered, answer))
        self._loop.call_later(TRY_MS / 1000, self._give_up, number)

    def _give_up(self, number: int) -> None:
        if self._exchange == number:
            self._exchange = 0
