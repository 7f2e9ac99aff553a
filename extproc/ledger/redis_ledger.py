"""The ledger in a shared Redis or Valkey: many sidecars, one bound.

Redis' own time is the only clock of windows. Whatever goes wrong, nothing is admitted:
``LedgerUnavailableError``. What happens to one operation is in ``redis_courier``, what happens to a
connection is here, and whether the store may be trusted at all is settled in ``redis_session``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from asyncio import Future
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, cast
from uuid import uuid4

import hiredis

from extproc.ledger.port import (
    Account,
    Hold,
    LedgerUnavailableError,
    Outcome,
    Settlement,
    Standing,
    StoreState,
)
from extproc.ledger.redis_batch import (
    CORRECTED,
    EXPIRED,
    OVERDUE,
    RELEASED,
    RENEWED,
    SETTLED,
    AccountPlan,
    Asked,
    Question,
    Told,
)
from extproc.ledger.redis_courier import Courier
from extproc.ledger.redis_errors import meaning, moved_to
from extproc.ledger.redis_link import Link, connect
from extproc.ledger.redis_names import Names
from extproc.ledger.redis_part import Part
from extproc.ledger.redis_scripts import Scripts
from extproc.ledger.redis_session import LEARN_MS, Session, StoreRefusedError, pause_s
from extproc.values.limit import NO_CEILING, NOTHING, Amounts, Limit
from extproc.values.money import MAX_AMOUNT
from extproc.values.store_address import StoreAddress

_log = logging.getLogger(__name__)

UPKEEP_S = 1.0
"""Well below ``LEARN_MS``: who has a part in an emptied store notices before it opens."""
REJOIN_S = 0.2
"""How often a closed store is asked whether it is open."""
SWEEP_GRACE_MS = 10_000
"""A sidecar ends its own leases; after this another one does it in its place."""
MAX_SWEPT = 500
MAX_PEEKED = 20
"""Counters that one call reads: each with all its slots, up to sixty."""
MAX_REDIRECTS = 3


class RedisLedger:
    """Implements ``Ledger``. ``await start()`` before use, ``await stop()`` before ``close()``."""

    def __init__(
        self,
        address: StoreAddress,
        namespace: str,
        folder: Path,
        draw: Random,
        *,
        scripts: Scripts | None = None,
        learn_ms: int = LEARN_MS,
    ) -> None:
        """Raises ``ValueError`` for the namespace, ``LedgerUnavailableError`` for the folder."""
        self._names = Names(namespace)
        self._home = self._address = address
        self._draw = draw
        scripts = scripts or Scripts()
        self._part = Part(folder, f"{address} {namespace}")
        self._session = Session(self._names, scripts, self._part, learn_ms)
        self._courier = Courier(self._names, scripts, self._part)
        self._task: asyncio.Task[None] | None = None
        self._link: Link | None = None
        self._segment = self._part.journal.segment
        self._caller_now_ms = 0
        """The newest time that a caller has told: leases are in the sidecar's clock."""

    # -- the port ---------------------------------------------------------------------------------

    def reserve(
        self,
        reservation_id: str,
        account: Account,
        amounts: Amounts,
        now_ms: int,
        lease_until_ms: int,
    ) -> Future[Outcome]:
        """Asks the store with the others of this turn."""
        if not 0 <= min(amounts) <= max(amounts) <= MAX_AMOUNT:
            raise ValueError("an amount is out of range")
        courier = self._courier
        loop = courier.loop()
        self._caller_now_ms = now_ms
        plan: AccountPlan | None = account.memo
        if plan is None or plan.epoch != courier.epoch:
            plan = AccountPlan(account, self._names, courier.epoch, courier.now_ms())
            account.memo = plan
        future: Future[Outcome] = loop.create_future()
        lease_ms = max(0, lease_until_ms - now_ms)
        courier.ask(Asked(reservation_id, plan, amounts, lease_ms, lease_until_ms, future))
        return future

    def settle(
        self, reservation_id: str, amounts: Amounts, now_ms: int, about: Mapping[str, object]
    ) -> Settlement | None:
        """Journals the end here; the store is told."""
        settlement = self._part.ledger.settle(reservation_id, amounts, now_ms, about)
        if settlement is not None:
            plan = self._courier.plans.pop(reservation_id, None)
            self._courier.tell(Told(reservation_id, SETTLED, amounts, plan))
        return settlement

    def release(self, reservation_id: str, now_ms: int, reason: str) -> Settlement | None:
        """Journals the end here; the store is told."""
        settlement = self._part.ledger.release(reservation_id, now_ms, reason)
        if settlement is not None:
            plan = self._courier.plans.pop(reservation_id, None)
            self._courier.tell(Told(reservation_id, RELEASED, NOTHING, plan))
        return settlement

    def renew(self, reservation_id: str, lease_until_ms: int, at_least: Amounts = NOTHING) -> bool:
        """Extends the lease here; the store counts its length from when it hears of it."""
        if not self._part.ledger.renew(reservation_id, lease_until_ms, at_least):
            return False
        lease_ms = max(0, lease_until_ms - self._caller_now_ms)
        plan = self._courier.plans.get(reservation_id)
        self._courier.tell(
            Told(reservation_id, RENEWED, at_least, plan, lease_ms=lease_ms, journaled=False)
        )
        return True

    def expire(self, now_ms: int) -> Sequence[Settlement]:
        """Charges what was never settled, here and in the store."""
        self._caller_now_ms = now_ms
        settlements = self._part.ledger.expire(now_ms)
        for settlement in settlements:
            plan = self._courier.plans.pop(settlement.reservation_id, None)
            told = Told(settlement.reservation_id, EXPIRED, settlement.charged, plan)
            self._courier.tell(told)
        return settlements

    def correct(
        self, limit: Limit, scope_value: str, amount: int, now_ms: int, about: Mapping[str, object]
    ) -> bool:
        """Corrects what this sidecar has booked itself; the store is told."""
        courier = self._courier
        store_now_ms = courier.now_ms()
        hold = Hold(limit, scope_value, NO_CEILING)
        if self._part.ledger.peek([hold], store_now_ms)[0].settled + amount < 0:
            return False
        done = self._part.ledger.correct(limit, scope_value, amount, store_now_ms, about)
        if done:
            account = Account([hold], {})
            plan = AccountPlan(account, self._names, courier.epoch, store_now_ms)
            name = f"correction-{uuid4().hex}"
            amounts = cast("Amounts", (amount,) * len(NOTHING))
            courier.tell(Told(name, CORRECTED, amounts, plan, journaled=False))
        return done

    def peek(self, holds: Sequence[Hold], now_ms: int) -> Future[Sequence[Standing]]:
        """Asks the store, for many counters in parts: reservations come between."""
        courier = self._courier
        loop = courier.loop()
        parts: list[Future[Sequence[Standing]]] = []
        for start in range(0, len(holds), MAX_PEEKED):
            account = Account(holds[start : start + MAX_PEEKED], {})
            plan = AccountPlan(account, self._names, courier.epoch, courier.now_ms())
            parts.append(loop.create_future())
            courier.ask(Question(plan, parts[-1]))
        return parts[0] if len(parts) == 1 else asyncio.ensure_future(_joined(parts))

    def counters(self) -> Iterable[tuple[str, str, str, int, int]]:
        """This sidecar's own part."""
        return self._part.ledger.counters()

    @property
    def name(self) -> str:
        """This sidecar's name among those of the store; stays with the state folder."""
        return self._part.name

    @property
    def open_count(self) -> int:
        """This sidecar's own reservations that have not ended."""
        return self._part.ledger.open_count

    @property
    def state(self) -> StoreState:
        """See the port."""
        courier = self._courier
        undelivered = courier.undelivered
        if self._part.journal.failed:
            return StoreState("closed", "journal", "the usage log cannot be written", undelivered)
        if not courier.ready:
            return StoreState("closed", courier.reason, courier.detail, undelivered)
        if courier.dropped:
            text = f"{courier.dropped} ends were never delivered: their leases charge them in full"
            return StoreState("degraded", "dropped_ends", text, undelivered)
        if not self._session.server.persistent:
            text = "appendonly is off: a restart of the store loses what it counted"
            return StoreState("degraded", "not_persistent", text, undelivered)
        return StoreState("ok", "", "", undelivered)

    def flush(self) -> None:
        """See the port: of this sidecar's own journal."""
        self._part.ledger.flush()

    def sync(self) -> None:
        """See the port."""
        self._part.ledger.sync()

    def tend(self, now_ms: int) -> None:
        """Upkeep of this sidecar's own part; the store's is done with its connection."""
        self._caller_now_ms = now_ms
        if self._part.journal.full:
            self._part.keep()
        self._part.ledger.tend(self._courier.now_ms())
        if self._part.journal.segment != self._segment:
            # A new segment must tell again what only older ones told.
            self._segment = self._part.journal.segment
            self._part.note_seen(*self._part.memory)
            for told in self._courier.undelivered_ends():
                self._part.note_undelivered(told)

    def close(self) -> None:
        """Gives the folder free. What was not delivered is known to the journal."""
        self._part.ledger.close()

    # -- the connection ---------------------------------------------------------------------------

    async def start(self, wait_s: float = LEARN_MS / 1000 + 1) -> None:
        """Connects and stays connected. Raises ``StoreRefusedError``; a store that cannot be
        reached only keeps the ledger closed."""
        loop = asyncio.get_running_loop()
        self._courier.begin(loop)
        refused: Future[StoreRefusedError] = loop.create_future()
        self._task = loop.create_task(self._run(refused))
        opened = loop.create_task(self._courier.open.wait())
        first: set[Future[Any]] = {refused, opened}
        await asyncio.wait(first, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        opened.cancel()
        await asyncio.gather(opened, return_exceptions=True)
        if refused.done():
            await self.stop()
            raise refused.result()
        refused.cancel()

    async def stop(self, wait_s: float = 1.0) -> None:
        """Delivers what can be delivered, and leaves the store in order."""
        if self._task is None:
            return
        loop, courier = asyncio.get_running_loop(), self._courier
        deadline_s = loop.time() + wait_s
        while courier.ready and not courier.idle and loop.time() < deadline_s:
            courier.wake()
            await asyncio.sleep(0.005)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._task = None
        if courier.ready and self._link is not None:
            with contextlib.suppress(LedgerUnavailableError, hiredis.ReplyError):
                await self._session.leave(self._link)
        courier.shut("stopped", "")
        if self._link is not None:
            self._link.give_up("stopped")

    async def _run(self, refused: Future[StoreRefusedError]) -> None:
        """Connected, joined, open, lost; and again."""
        attempt = 0
        while True:
            try:
                if await self._connected():
                    attempt = 0
                    continue  # at once: what was under way is asked for again
            except StoreRefusedError as error:
                self._courier.shut("configuration", str(error))
                if not refused.done():
                    refused.set_result(error)
            except hiredis.ReplyError as error:
                if attempt < MAX_REDIRECTS and self._follow(str(error)):
                    attempt += 1
                    continue
                self._courier.shut(meaning(str(error))[0], str(error))
            except LedgerUnavailableError as error:
                self._courier.shut(error.reason, str(error))
            except Exception:  # noqa: BLE001  the store is tried again, and stays closed till then
                _log.exception("the store's connection failed")
                self._courier.shut("fault", "")
            self._address = self._home
            if self._link is not None:
                self._link.give_up(self._courier.reason)
            _log.warning("the store is closed: %s %s", self._courier.reason, self._courier.detail)
            await asyncio.sleep(pause_s(attempt, self._draw))
            attempt += 1

    def _follow(self, message: str) -> bool:
        """Whether a cluster has told where the policy's slot is."""
        place = moved_to(message)
        if place is None:
            return False
        host, port = place
        self._address = replace(self._home, host=host or self._home.host, port=port)
        return True

    async def _connected(self) -> bool:
        """One connection from beginning to end. Returns when it is lost, and whether it had been
        open."""
        link = self._link = await connect(self._address)
        await self._session.greet(link)
        was_open = False
        while True:
            self._courier.closed.clear()
            if await self._joined(link):
                was_open = True
                await self._until_trouble(link)
            else:
                await asyncio.sleep(REJOIN_S * (0.5 + self._draw.random()))
            if link.lost.done():
                self._courier.lost(link.lost.result())
                return was_open

    async def _joined(self, link: Link) -> bool:
        word = await self._session.join(link)
        self._courier.set_now(word.now_ms)
        if word.state != "open" or word.part != "here":
            missing = ", ".join(word.missing) or "whoever may know more"
            self._courier.shut("amnesia", f"the store is {word.state} and waits for {missing}")
            return False
        self._courier.opened(link, word.epoch)
        _log.info("the store is open (epoch %s)", word.epoch)
        if not self._session.server.persistent:
            _log.warning("the store keeps nothing over its own restart: set appendonly yes")
        return True

    async def _until_trouble(self, link: Link) -> None:
        """Returns when the link is lost, or the store is not what it was."""
        closed = self._courier.closed
        link.lost.add_done_callback(lambda _: closed.set())
        while True:
            try:
                async with asyncio.timeout(UPKEEP_S):
                    await closed.wait()
                return
            except TimeoutError:
                await self._upkeep(link)

    async def _upkeep(self, link: Link) -> None:
        """About once a second: is the store still what it was, who else has a part in it, and what
        have sidecars that are no more left open?"""
        try:
            if not await self._session.still_open(link, self._courier.now_ms()):
                self._courier.lost("amnesia")
                self._courier.closed.set()
                return
            due_ms = self._courier.now_ms() - SWEEP_GRACE_MS
            leases = self._names.leases(self._courier.epoch)
            records = await link.ask("ZRANGEBYSCORE", leases, "-inf", due_ms, "LIMIT", 0, MAX_SWEPT)
        except hiredis.ReplyError as error:
            link.give_up(meaning(str(error))[0])
            return
        except LedgerUnavailableError:
            return
        for record in records:
            # Ended as it would be by its own sidecar: by charging it.
            told = Told("", OVERDUE, NOTHING, journaled=False)
            told.record = record
            self._courier.tell(told)


async def _joined(parts: Sequence[Future[Sequence[Standing]]]) -> Sequence[Standing]:
    """All parts of an answer, or the first error."""
    return [standing for part in await asyncio.gather(*parts) for standing in part]
