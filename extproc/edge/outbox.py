"""Deliveries: every destination has a queue of its own, so that a dead one holds nobody else up.

A try that may succeed later is repeated with growing pauses, for a day; what cannot succeed ends at
once. Delivery is at least once: a process that dies between a receiver's answer and its note of it
tells again, under the same key.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

from extproc.edge.channels.channel import Channel, ChannelUnsetError, DeliveryError
from extproc.edge.clock import Clock
from extproc.edge.metrics import Metrics
from extproc.values.notice import Notice

_log = logging.getLogger(__name__)

MAX_QUEUED = 100
"""Notices that wait for one destination; the oldest that is not being tried makes room."""
MAX_DESTINATIONS = 1_000
"""Destinations with something to wait for. A policy names a dozen."""
FIRST_PAUSE_S = 1.0
MAX_PAUSE_S = 300.0
"""A channel that comes back is found within five minutes."""
MAX_AGE_MS = 86_400_000
"""After a day the news is old, and its window may be over."""


class Outcome(StrEnum):
    """What became of a delivery."""

    DELIVERED = "delivered"
    FAILED = "failed"
    """It cannot succeed, or did not for a day."""
    DROPPED = "dropped"
    """Too many waited."""
    UNSET = "unset"
    """The channel is not configured: the log is all there is."""


@dataclass(slots=True)
class Delivery:
    """One notice on its way to one destination."""

    notice: Notice
    destination: str
    tries: int = 0
    problem: str = ""
    """Why the last try failed."""


class Outbox:
    """The queues, and a task for each that is not empty."""

    def __init__(
        self,
        open_channel: Callable[[str], Awaitable[Channel]],
        on_end: Callable[[Delivery, Outcome], Awaitable[None]],
        metrics: Metrics,
        clock: Clock,
        draw: Callable[[], float],
        first_pause_s: float = FIRST_PAUSE_S,
    ) -> None:
        self._open_channel = open_channel
        self._on_end = on_end
        self._metrics = metrics
        self._clock = clock
        self._draw = draw
        self._first_pause_s = first_pause_s
        self._queues: dict[str, deque[Delivery]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def waiting(self) -> list[Delivery]:
        """Everything that has not ended, by destination."""
        return [delivery for queue in self._queues.values() for delivery in queue]

    async def add(self, notice: Notice, destination: str) -> None:
        """Queues a notice; one that waits already is not queued again."""
        delivery = Delivery(notice, destination)
        queue = self._queues.get(destination)
        if queue is None:
            if len(self._queues) >= MAX_DESTINATIONS:
                await self._on_end(delivery, Outcome.DROPPED)
                return
            queue = self._queues[destination] = deque()
        name = (notice.key, notice.resolved)
        if name in [(other.notice.key, other.notice.resolved) for other in queue]:
            return
        queue.append(delivery)
        if destination not in self._tasks:
            self._tasks[destination] = asyncio.create_task(self._work(destination))
        if len(queue) > MAX_QUEUED:
            oldest = queue[1]
            del queue[1]
            await self._on_end(oldest, Outcome.DROPPED)

    async def close(self) -> None:
        """Stops trying. What waits is told after the next start."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(self, destination: str) -> None:
        queue = self._queues[destination]
        try:
            while queue:
                delivery = queue[0]
                outcome = await self._deliver(delivery)
                queue.popleft()
                await self._on_end(delivery, outcome)
        finally:
            del self._queues[destination]
            del self._tasks[destination]

    async def _deliver(self, delivery: Delivery) -> Outcome:
        """Tries until it ends."""
        while True:
            if self._clock.now_ms() - delivery.notice.at_ms > MAX_AGE_MS:
                delivery.problem = f"not delivered within a day; last: {delivery.problem or '-'}"
                return Outcome.FAILED
            delivery.tries += 1
            try:
                channel = await self._open_channel(delivery.destination)
                await channel.send(delivery.notice)
                return Outcome.DELIVERED
            except ChannelUnsetError as error:
                delivery.problem = str(error)
                return Outcome.UNSET
            except DeliveryError as error:
                failure = error
            except Exception as error:  # noqa: BLE001  named, not quoted: it may hold a secret
                name = type(error).__name__
                failure = DeliveryError(f"unexpected {name}", retryable=True)
            self._metrics.alert_tries_failed += 1
            delivery.problem = str(failure)
            if not failure.retryable:
                return Outcome.FAILED
            pause_s = self._pause_s(delivery.tries, failure.retry_after_s)
            _log.warning("%s: %s; next try in %.0f s", delivery.destination, failure, pause_s)
            await asyncio.sleep(pause_s)

    def _pause_s(self, tries: int, retry_after_s: float | None) -> float:
        """Doubles with every try; half of it is drawn, so that sidecars do not return together."""
        full_s = min(self._first_pause_s * (1 << min(tries - 1, 20)), MAX_PAUSE_S)
        return max(full_s * (0.5 + 0.5 * self._draw()), retry_after_s or 0.0)
