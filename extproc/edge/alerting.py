"""Alerting: looks at the counters that somebody wants to hear of, and tells what they set off.

About once a second, in slices that never hold the event loop up. What is set off is written down
before it is told (``alert_log``), so a restart neither forgets nor repeats it. Every sidecar of a
shared store sees the same crossing under the same key; ``may_send`` decides which of them tells.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from asyncio import Future
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from extproc.core.alert_text import iso
from extproc.core.alerts import AlertBook, Event, Mark, Sample
from extproc.core.watched import CounterName
from extproc.edge.alert_log import AlertLog, Pending, Record, done, ended, set_off, told
from extproc.edge.channels.channel import Channel, Outside, open_channel
from extproc.edge.notices import CLOSING
from extproc.edge.outbox import Delivery, Outbox, Outcome
from extproc.edge.services import Sidecar
from extproc.ledger.port import Hold, LedgerUnavailableError, Standing
from extproc.values.limit import Limit
from extproc.values.notice import Notice

_log = logging.getLogger(__name__)

LOOK_S = 1.0
MAX_LOOKS = 1_000
"""Counters looked at per second, a few milliseconds of work; more take turns."""
SLICE = 100
"""Counters looked at in one turn of the event loop: below a millisecond."""
PEEK_S = 5.0
"""How long a remote store may take to answer. The next look asks again."""
MAX_TOLD = 1_000
"""Notices of others that wait for the loop, or are remembered so as not to be told twice."""
MAX_RECENT = 100
"""Deliveries that ended, shown by ``/alerts``."""


class Alerting:
    """One sidecar's alerts."""

    def __init__(
        self,
        sidecar: Sidecar,
        state: Path,
        outside: Outside,
        may_send: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self._sidecar = sidecar
        self._outside = outside
        self._may_send = may_send
        self._log = AlertLog(state)
        self._book = AlertBook()
        self._outbox = Outbox(
            self._open_channel, self._delivery_ended, sidecar.metrics, sidecar.clock, sidecar.draw
        )
        self._generation = -1
        self._limits: dict[str, Limit] = {}
        self._turns: list[CounterName] = []
        self._told: deque[tuple[Notice, tuple[str, ...]]] = deque()
        self._told_keys: dict[tuple[str, bool], None] = {}
        self._wake = asyncio.Event()
        self._recent: deque[dict[str, object]] = deque(maxlen=MAX_RECENT)

    async def start(self) -> None:
        """Takes up what an earlier process left: alerts that are set off, notices not told yet, and
        the counters that were in use."""
        try:
            marks, pending = await asyncio.to_thread(self._log.load)
        except OSError as error:
            _log.error("what was alerted before cannot be read: %s", error.strerror)
            marks, pending = [], []
        self._book = AlertBook(marks)
        for notice, destination in pending:
            await self._outbox.add(notice, destination)
        self._read_policy()
        if any(limit.scope for limit in self._limits.values()):
            for key, scope_value, *_ in self._sidecar.ledger.counters():
                if key in self._limits:
                    self._sidecar.gate.watched.remember((key, scope_value))

    async def run(self) -> None:
        """Runs until cancelled."""
        while True:
            try:
                await self.look()
            except Exception:  # noqa: BLE001  the next look tries again
                self._sidecar.fault("a look at alerts")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), LOOK_S)
            self._wake.clear()

    async def close(self) -> None:
        """Stops telling."""
        await self._outbox.close()

    def tell(self, notice: Notice, notify: Sequence[str]) -> None:
        """Tells something else than a limit's alert: the one way for every part of the gateway.
        Written down and delivered like alerts; the same key is told once."""
        name = (notice.key, notice.resolved)
        if name in self._told_keys:
            return
        self._told_keys[name] = None
        if len(self._told_keys) > MAX_TOLD:
            del self._told_keys[next(iter(self._told_keys))]
        if len(self._told) >= MAX_TOLD:
            self._sidecar.metrics.alerts_dropped += 1
            return
        self._told.append((notice, tuple(notify)))
        self._wake.set()

    async def look(self) -> None:
        """One look at the counters whose turn it is, and at what others want told."""
        self._read_policy()
        now_ms = self._sidecar.clock.now_ms()
        events: list[Event] = []
        names = self._next_names()
        for start in range(0, len(names), SLICE):
            try:
                for sample in await self._samples(names[start : start + SLICE], now_ms):
                    events += self._book.observe(sample, now_ms)
            except Exception:  # noqa: BLE001  what the others set off is told all the same
                self._sidecar.fault("a look at alerts")
            await asyncio.sleep(0)
        events += self._book.end(now_ms)
        notices = list(self._told)
        self._told.clear()
        await self._send(events, notices)

    def report(self) -> dict[str, object]:
        """What ``/alerts`` shows."""
        marks = self._book.marks()
        waiting = self._outbox.waiting()
        return {
            "set_off": [
                {
                    "title": mark.title,
                    "limit": mark.limit_key,
                    "scope_value": mark.scope_value,
                    "alert": mark.name,
                    "window": mark.window,
                    "at": iso(mark.at_ms),
                    "notify": mark.notify,
                }
                for mark in marks[-MAX_RECENT:]
            ],
            "pending": [
                {**_shown(delivery), "problem": delivery.problem}
                for delivery in waiting[:MAX_RECENT]
            ],
            "ended": list(self._recent),
            "watched_counters": len(self._sidecar.gate.watched.names()),
        }

    # -- looking ----------------------------------------------------------------------------------

    def _read_policy(self) -> None:
        policy = self._sidecar.gate.generation.policy
        if policy.generation == self._generation:
            return
        self._generation = policy.generation
        routed = policy.routed_budgets
        self._limits = {
            limit.key: limit for limit in policy.limits if limit.alerts or limit.rule_id in routed
        }
        for limit in self._limits.values():
            if not limit.scope:
                self._sidecar.gate.watched.remember((limit.key, ""))

    def _next_names(self) -> list[CounterName]:
        if not self._turns:
            names = self._sidecar.gate.watched.names()
            self._turns = [name for name in names if name[0] in self._limits]
        names, self._turns = self._turns[:MAX_LOOKS], self._turns[MAX_LOOKS:]
        return [name for name in names if name[0] in self._limits]

    async def _samples(self, names: Sequence[CounterName], now_ms: int) -> list[Sample]:
        limits = [self._limits[key] for key, _ in names]
        holds = [
            Hold(limit, scope_value, limit.ceiling)
            for limit, (_, scope_value) in zip(limits, names, strict=True)
        ]
        try:
            standings: Sequence[Standing] | Future[Sequence[Standing]] = self._sidecar.ledger.peek(
                holds, now_ms
            )
            if isinstance(standings, Future):
                standings = await asyncio.wait_for(standings, PEEK_S)
        except (LedgerUnavailableError, TimeoutError):
            return []
        watched = self._sidecar.gate.watched
        for hold, settled, _, _ in standings:
            if hold.ceiling > 0:
                name = (hold.limit.key, hold.scope_value)
                watched.seen(name, settled * 100 // hold.ceiling)
        return [
            Sample(
                hold.limit, hold.scope_value, settled, reserved,
                watched.take_full((hold.limit.key, hold.scope_value)),
            )
            for hold, settled, reserved, _ in standings
        ]  # fmt: skip

    # -- telling ----------------------------------------------------------------------------------

    async def _send(
        self, events: Iterable[Event], notices: Iterable[tuple[Notice, tuple[str, ...]]]
    ) -> None:
        records: list[Record] = []
        pending: list[Pending] = []
        for mark, notice in events:
            to = self._destinations(mark, notice)
            records.append((ended if notice.resolved else set_off)(mark, notice, to))
            pending += [(notice, destination) for destination in to]
        for notice, notify in notices:
            to = notify if self._may_send(notice.key) else ()
            records.append(told(notice, to))
            pending += [(notice, destination) for destination in to]
            _log.warning("notice: %s", notice.title)
        if not records:
            return
        await self._log.append(records)
        for notice, destination in pending:
            await self._outbox.add(notice, destination)

    def _destinations(self, mark: Mark, notice: Notice) -> tuple[str, ...]:
        if notice.resolved:
            _log.info("alert over: %s", mark.title)
            kinds = [text for text in mark.notify if text.partition(":")[0] in CLOSING]
        else:
            self._sidecar.metrics.alerts_fired += 1
            _log.warning("alert: %s", notice.title)
            kinds = list(mark.notify)
        return tuple(kinds) if kinds and self._may_send(mark.key) else ()

    async def _open_channel(self, destination: str) -> Channel:
        channels = self._sidecar.gate.generation.policy.channels
        return await open_channel(destination, channels, self._outside)

    async def _delivery_ended(self, delivery: Delivery, outcome: Outcome) -> None:
        metrics = self._sidecar.metrics
        if outcome is Outcome.DELIVERED:
            metrics.alerts_delivered += 1
        elif outcome is Outcome.FAILED:
            metrics.alerts_failed += 1
            _log.error(
                "%s was not told of %r: %s",
                delivery.destination, delivery.notice.title, delivery.problem,
            )  # fmt: skip
        elif outcome is Outcome.DROPPED:
            metrics.alerts_dropped += 1
        ended_at = iso(self._sidecar.clock.now_ms())
        problem = "" if outcome is Outcome.DELIVERED else delivery.problem
        self._recent.append(
            {**_shown(delivery), "outcome": outcome.value, "problem": problem, "at": ended_at}
        )
        await self._log.append([done(delivery.notice, delivery.destination, outcome.value)])


def _shown(delivery: Delivery) -> dict[str, object]:
    return {
        "destination": delivery.destination,
        "title": delivery.notice.title,
        "tries": delivery.tries,
    }
