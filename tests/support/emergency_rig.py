"""A sidecar's emergency ledger over a distant store, its clock, and ways to kill it."""

from __future__ import annotations

import asyncio
import os
from asyncio import Future
from pathlib import Path

from distant_ledger import DistantLedger, Fate

from extproc.ledger.embedded import EmbeddedLedger
from extproc.ledger.emergency import EmergencyLedger
from extproc.ledger.journal import Journal
from extproc.ledger.memory import MemoryLedger
from extproc.ledger.port import Account, Granted, Hold, LedgerUnavailableError, Outcome
from extproc.values.limit import NO_CEILING, Breach, BreachKind, Limit, StoreFailure, Unit
from extproc.values.window import parse_window

NOW = 1_790_000_000_000
LEASE_MS = 900_000
BLOCK = Breach(BreachKind.HARD_BLOCK)
OPEN, CLOSED, QUOTA = StoreFailure.OPEN, StoreFailure.CLOSED, StoreFailure.EMERGENCY_QUOTA


def limit(
    key: str,
    ceiling: int,
    failure: StoreFailure = QUOTA,
    emergency: int = 0,
    unit: Unit = Unit.MICRO_USD,
    window: str = "daily",
) -> Limit:
    return Limit(
        key,
        key,
        unit,
        ceiling,
        parse_window(window),
        (),
        BLOCK,
        fallback_ceiling=ceiling,
        on_store_failure=failure,
        emergency_amount=emergency,
    )


def hold(limit: Limit, value: str = "") -> Hold:
    return Hold(limit, value, limit.ceiling)


def watched(limit: Limit) -> Hold:
    return Hold(limit, "", NO_CEILING)


def money(micro_usd: int):
    return (1, 10, 5, 5, micro_usd, micro_usd)


class Rig:
    """Everything is said in steps: nothing happens between them."""

    def __init__(self, folder: Path, store: MemoryLedger | None = None, name: str = "s1") -> None:
        self.folder = folder
        self.name = name
        self.store = store or MemoryLedger()
        self.loop = asyncio.new_event_loop()
        self.remote = DistantLedger(self.store, self.loop)
        self.now_ms = NOW
        self.expired: list[str] = []
        self._start()

    def _start(self) -> None:
        self.book = EmbeddedLedger(Journal(self.folder / "emergency", 20_000))
        self.ledger = EmergencyLedger(self.remote, self.book, self.name)

    def kill(self) -> None:
        """``kill -9``, and a new process on what the kernel had."""
        os.close(self.book._journal._lock)
        os.close(self.book._journal._file)
        self.loop.close()
        self.loop = asyncio.new_event_loop()
        self.remote = self.remote.killed(self.loop)
        self._start()

    def close(self) -> None:
        self.ledger.close()
        self.loop.close()

    def ask(self, name: str, micro_usd: int, *holds: Hold) -> Outcome | Future[Outcome]:
        account = Account(holds, {"model": "m"})
        lease = self.now_ms + LEASE_MS
        return self.ledger.reserve(name, account, money(micro_usd), self.now_ms, lease)

    def take(self, name: str, micro_usd: int, *holds: Hold) -> Outcome | None:
        """The answer as the edge gets it: after the flush. None when there is none."""
        try:
            answer = self.ask(name, micro_usd, *holds)
            if isinstance(answer, Future):
                told: list[Future[Outcome]] = []
                answer.add_done_callback(told.append)
                if not self.remote.at_once:
                    self.remote.answer()
                self.remote.run()
                answer = told[0].result()
            self.ledger.flush()
        except LedgerUnavailableError:
            self.ledger.flush()
            return None
        return answer

    def went(self, name: str, micro_usd: int, *holds: Hold) -> bool:
        return isinstance(self.take(name, micro_usd, *holds), Granted)

    def end(self, name: str, micro_usd: int) -> None:
        self.ledger.settle(name, money(micro_usd), self.now_ms, {})
        self.ledger.flush()

    def passes(self, milliseconds: int) -> None:
        """Time goes by, with the upkeep of every second at its end."""
        self.now_ms += milliseconds
        self.tend()

    def tend(self) -> None:
        for _ in range(2):
            self.expired += [each.reservation_id for each in self.ledger.expire(self.now_ms)]
            self.ledger.tend(self.now_ms)
            self.remote.run()
            self.ledger.flush()

    def standing(self, limit: Limit, value: str = "") -> tuple[int, int]:
        """(settled, reserved) in the store."""
        found = self.store.peek([hold(limit, value)], self.now_ms)[0]
        return found.settled, found.reserved


__all__ = ["CLOSED", "NOW", "OPEN", "QUOTA", "Fate", "Rig", "hold", "limit", "money", "watched"]
