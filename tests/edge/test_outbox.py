"""Deliveries: repeated with growing pauses, in order, and no dead channel holds another up."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections import deque
from collections.abc import Callable

import pytest

from extproc.edge import outbox as outbox_module
from extproc.edge.channels.channel import Channel, ChannelUnsetError, DeliveryError
from extproc.edge.clock import Clock
from extproc.edge.metrics import Metrics
from extproc.edge.outbox import MAX_AGE_MS, MAX_PAUSE_S, Delivery, Outbox, Outcome
from extproc.values.notice import Notice, Severity

LATER = DeliveryError("later", retryable=True)
NEVER = DeliveryError("never", retryable=False)


def notice(key: str = "k", **fields: object) -> Notice:
    at_ms = time.time_ns() // 1_000_000
    return dataclasses.replace(Notice(key, key, Severity.INFO, (), at_ms), **fields)  # type: ignore[arg-type]


class Scripted:
    """Channels that fail as they are told, then take everything."""

    def __init__(self, first_pause_s: float = 0.01) -> None:
        self.script: dict[str, deque[Exception | float]] = {}
        self.taken: list[tuple[str, str]] = []
        self.ended: list[tuple[str, str, str]] = []
        self.tries_s: list[float] = []
        self.metrics = Metrics()
        self.outbox = Outbox(
            self._open, self._end, self.metrics, Clock(), lambda: 1.0, first_pause_s
        )

    async def _open(self, destination: str) -> Channel:
        scripted = self

        class One:
            async def send(self, notice: Notice) -> None:
                scripted.tries_s.append(time.monotonic())
                script = scripted.script.get(destination)
                step = script.popleft() if script else 0.0
                if isinstance(step, Exception):
                    raise step
                await asyncio.sleep(step)
                scripted.taken.append((destination, notice.key))

        return One()

    async def _end(self, delivery: Delivery, outcome: Outcome) -> None:
        self.ended.append((delivery.destination, delivery.notice.key, outcome.value))

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0.005)


def test_a_failure_is_repeated_until_it_is_taken() -> None:
    async def scenario() -> None:
        world = Scripted()
        world.script["slack:#x"] = deque([LATER, RuntimeError("secret"), LATER])
        await world.outbox.add(notice(), "slack:#x")
        await world.until(lambda: bool(world.ended))
        assert world.ended == [("slack:#x", "k", "delivered")]
        assert world.metrics.alert_tries_failed == 3
        pauses = [b - a for a, b in zip(world.tries_s, world.tries_s[1:], strict=False)]
        assert pauses[0] >= 0.01
        assert pauses[1] >= 0.02
        assert pauses[2] >= 0.04
        await asyncio.sleep(0)
        assert world.outbox.waiting() == []

    asyncio.run(scenario())


def test_the_pause_grows_to_five_minutes_and_half_of_it_is_drawn() -> None:
    async def pauses(draw: float) -> list[float]:
        world = Scripted(first_pause_s=1.0)
        world.outbox._draw = lambda: draw
        return [world.outbox._pause_s(tries, None) for tries in range(1, 12)]

    assert asyncio.run(pauses(1.0))[:4] == [1, 2, 4, 8]
    assert asyncio.run(pauses(0.0))[:4] == [0.5, 1, 2, 4]
    assert asyncio.run(pauses(1.0))[-1] == MAX_PAUSE_S


def test_the_receivers_patience_is_respected() -> None:
    async def scenario() -> None:
        world = Scripted()
        world.script["d"] = deque([DeliveryError("busy", retryable=True, retry_after_s=0.3)])
        await world.outbox.add(notice(), "d")
        await world.until(lambda: bool(world.ended))
        first, second = world.tries_s
        assert second - first >= 0.3

    asyncio.run(scenario())


def test_what_cannot_succeed_ends_at_once_and_says_why() -> None:
    async def scenario() -> None:
        world = Scripted()
        world.script["d"] = deque([NEVER])
        world.script["e"] = deque([ChannelUnsetError("not configured")])
        for destination in ("d", "e"):
            await world.outbox.add(notice(), destination)
        await world.until(lambda: len(world.ended) == 2)
        assert set(world.ended) == {("d", "k", "failed"), ("e", "k", "unset")}

    asyncio.run(scenario())


def test_a_dead_channel_holds_no_other_up_and_keeps_its_order() -> None:
    async def scenario() -> None:
        world = Scripted(first_pause_s=0.1)
        world.script["dead"] = deque([60.0])
        world.script["ill"] = deque([LATER])
        for key in "abc":
            for destination in ("dead", "ill", "well"):
                await world.outbox.add(notice(key), destination)
        await world.until(lambda: len(world.ended) == 6)
        assert [key for place, key, _ in world.ended if place == "well"] == ["a", "b", "c"]
        assert [key for place, key, _ in world.ended if place == "ill"] == ["a", "b", "c"]
        assert [d.notice.key for d in world.outbox.waiting()] == ["a", "b", "c"]
        await world.outbox.close()

    asyncio.run(scenario())


def test_the_same_notice_waits_once_and_its_end_beside_it() -> None:
    async def scenario() -> None:
        world = Scripted()
        world.script["d"] = deque([0.05])
        for _ in range(3):
            await world.outbox.add(notice(), "d")
            await world.outbox.add(notice(resolved=True), "d")
        await world.until(lambda: len(world.ended) == 2)
        await asyncio.sleep(0.02)
        assert world.taken == [("d", "k")] * 2

    asyncio.run(scenario())


def test_when_too_many_wait_the_oldest_go_and_it_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outbox_module, "MAX_QUEUED", 3)
    monkeypatch.setattr(outbox_module, "MAX_DESTINATIONS", 1)

    async def scenario() -> None:
        world = Scripted()
        world.script["d"] = deque([0.1])
        for key in "abcde":
            await world.outbox.add(notice(key), "d")
        await world.outbox.add(notice(), "one too many")
        assert world.ended == [
            ("d", "b", "dropped"), ("d", "c", "dropped"), ("one too many", "k", "dropped"),
        ]  # fmt: skip
        await world.until(lambda: len(world.taken) == 3)
        assert [key for _, key in world.taken] == ["a", "d", "e"]

    asyncio.run(scenario())


def test_news_of_yesterday_is_not_told() -> None:
    async def scenario() -> None:
        world = Scripted()
        old = notice()
        old = dataclasses.replace(old, at_ms=old.at_ms - MAX_AGE_MS - 1)
        await world.outbox.add(old, "d")
        await world.until(lambda: bool(world.ended))
        assert world.ended == [("d", "k", "failed")]
        assert world.taken == []

    asyncio.run(scenario())


def test_closing_leaves_what_waits_for_the_next_start() -> None:
    async def scenario() -> None:
        world = Scripted()
        world.script["d"] = deque([60.0])
        await world.outbox.add(notice(), "d")
        await world.until(lambda: bool(world.tries_s))
        await world.outbox.close()
        assert world.ended == []

    asyncio.run(scenario())


def test_a_queue_that_was_empty_works_again() -> None:
    async def scenario() -> None:
        world = Scripted()
        for key in "ab":
            await world.outbox.add(notice(key), "d")
            await world.until(lambda: not world.outbox.waiting())
        assert world.taken == [("d", "a"), ("d", "b")]

    asyncio.run(scenario())
