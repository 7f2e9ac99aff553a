"""Circuit breakers that several sidecars share over a real Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from redis_server import RedisServer, running_redis
from until import until_on_loop
from world import compiled

from extproc.core.gate import Gate
from extproc.core.generation import Generation
from extproc.edge import breaker_share
from extproc.edge.clock import Clock
from extproc.edge.store import breaker_share as share_of
from extproc.policy.snapshot import BreakerPolicy, Target

SPACE = "breakers"
FAST = BreakerPolicy(1, 60_000, 1_000)
SLOW = BreakerPolicy(1, 60_000, 60_000)


class Skewed:
    """A machine whose clock is wrong. No subclass: the compiled clock can have none."""

    def __init__(self, late_ms: int) -> None:
        self._clock = Clock()
        self.late_ms = late_ms

    def now_ms(self) -> int:
        return self._clock.now_ms() + self.late_ms


class Sidecar:
    """The breakers of one, and what keeps them together with those of others."""

    def __init__(self, server: RedisServer, late_ms: int = 0, namespace: str = SPACE) -> None:
        self.clock = Skewed(late_ms)
        self.gate = Gate(Generation(compiled("")))
        self.breakers = self.gate.breakers
        sidecar: Any = SimpleNamespace(gate=self.gate, clock=self.clock)
        self.share = share_of(server.url, namespace, {}, sidecar)
        self.targets: Sequence[Target] = self.gate.generation.policy.virtual_models[
            "intent-fast"
        ].all_targets
        self.name = self.targets[0].name

    def fails(self, policy: BreakerPolicy = SLOW) -> None:
        self.breakers.failed(self.name, policy, self.clock.now_ms())

    def wait_ms(self, policy: BreakerPolicy = SLOW) -> int:
        return self.breakers.retry_after_ms(self.name, policy, self.clock.now_ms())

    def probes(self, policy: BreakerPolicy = FAST) -> bool:
        """Whether a request of now is to probe the target."""
        now_ms, targets = self.clock.now_ms(), self.targets[:1]
        _, trials = self.breakers.left_out(targets, policy, now_ms)
        return bool(trials and self.breakers.led(targets, trials, policy, now_ms))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with running_redis(tmp_path / "redis") as running:
        yield running


@asynccontextmanager
async def watching(*sidecars: Sidecar) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(one.share.watch()) for one in sidecars]
    try:
        await until_on_loop(lambda: all(one.breakers.shared for one in sidecars))
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def test_F57_a_broken_target_is_avoided_by_all_within_a_second(server: RedisServer) -> None:
    async def scenario() -> None:
        sidecars = [Sidecar(server), Sidecar(server, 3_600_000), Sidecar(server, -3_600_000)]
        other = Sidecar(server, namespace="other")
        async with watching(*sidecars, other):
            sidecars[0].fails()
            assert await until_on_loop(lambda: all(one.wait_ms() > 0 for one in sidecars)) < 1
            # Whatever their clocks say, they all mean the same moment.
            waits = [one.wait_ms() for one in sidecars]
            assert max(waits) - min(waits) < 50
            # Who starts later learns it, and another namespace does not.
            late = Sidecar(server)
            async with watching(late):
                await until_on_loop(lambda: late.wait_ms() > 0)
            assert other.breakers.all_closed

    asyncio.run(scenario())


def test_F53_a_rest_is_kept_by_all(server: RedisServer) -> None:
    async def scenario() -> None:
        one, two = Sidecar(server), Sidecar(server, 900_000)
        async with watching(one, two):
            one.breakers.rest(one.name, 1_500, one.clock.now_ms())
            assert await until_on_loop(lambda: two.wait_ms() > 0) < 1
            assert abs(one.wait_ms() - two.wait_ms()) < 50
            await until_on_loop(lambda: two.wait_ms() == 0)
            assert two.breakers.left_out(two.targets, SLOW, two.clock.now_ms()) == ([], [])
            assert two.breakers.all_closed

    asyncio.run(scenario())


def test_F57_one_of_all_probes_and_all_come_back_together(server: RedisServer) -> None:
    async def scenario() -> None:
        sidecars = [Sidecar(server) for _ in range(4)]
        async with watching(*sidecars):
            sidecars[0].fails(FAST)
            await until_on_loop(lambda: all(one.wait_ms(FAST) > 0 for one in sidecars))
            for fate in ("failed", "succeeded"):
                probers: list[Sidecar] = []
                began = time.monotonic()
                while not probers and time.monotonic() - began < 3:
                    probers = [one for one in sidecars if one.probes()]
                    await asyncio.sleep(0.02)
                (prober,) = probers
                now_ms = prober.clock.now_ms()
                prober.breakers.sent(prober.name, FAST, now_ms)
                began = time.monotonic()
                while time.monotonic() - began < 0.5:
                    assert not any(one.probes() for one in sidecars)
                    await asyncio.sleep(0.02)
                getattr(prober.breakers, fate)(prober.name, FAST, prober.clock.now_ms())
            assert await until_on_loop(lambda: all(one.breakers.all_closed for one in sidecars)) < 1

    asyncio.run(scenario())


def test_without_the_store_each_probes_alone_and_tells_what_it_found_later(
    server: RedisServer,
) -> None:
    async def scenario() -> None:
        one, two = Sidecar(server), Sidecar(server)
        async with watching(one, two):
            one.fails(FAST)
            await until_on_loop(lambda: two.wait_ms(FAST) > 0)
            server.kill()
            await until_on_loop(lambda: not one.breakers.shared and not two.breakers.shared)
            await until_on_loop(lambda: one.wait_ms(FAST) == two.wait_ms(FAST) == 0)
            assert one.probes()
            assert two.probes()
            one.fails(SLOW)
            server.start()
            await until_on_loop(lambda: one.breakers.untold() == [])
            assert await until_on_loop(lambda: abs(one.wait_ms() - two.wait_ms()) < 50) < 1
            assert two.wait_ms() > 50_000

    asyncio.run(scenario())


def test_a_store_that_hangs_holds_up_no_decision(server: RedisServer) -> None:
    async def scenario() -> None:
        one = Sidecar(server)
        async with watching(one):
            server.pause()
            try:
                one.fails(FAST)
                assert one.wait_ms(FAST) > 0
                # Until it is given up, nobody can say whose the probe is.
                await until_on_loop(one.probes, 6)
                assert not one.breakers.shared
            finally:
                server.go_on()

    asyncio.run(scenario())


def test_what_is_kept_there_may_be_anything(server: RedisServer, monkeypatch) -> None:
    monkeypatch.setattr(breaker_share, "MAX_KEYS", 3)

    async def scenario() -> None:
        one, two = Sidecar(server), Sidecar(server)
        client = server.client()
        names = [target.name for target in one.targets]
        for name, text in zip(
            names, (b"", b"1 open", b"\xff\xff \xff \xff", b"1 shut 5"), strict=True
        ):
            client.set(f"{{{SPACE}}}:breakers:b:{name}", text)
        client.lpush(f"{{{SPACE}}}:breakers:r:{names[0]}", "a list")
        client.set(f"{{{SPACE}}}:breakers:r:{names[1]}", f"7 resting {10**17}")
        async with watching(one, two):
            two.fails()
            await until_on_loop(lambda: one.wait_ms() > 0)
            states = one.breakers.states(one.clock.now_ms())
            assert states == {names[0]: "open", names[1]: "resting"}

    asyncio.run(scenario())


def test_the_store_forgets_by_itself(server: RedisServer) -> None:
    async def scenario() -> None:
        one = Sidecar(server)
        async with watching(one):
            one.fails()
            one.breakers.rest(one.name, 5_000, one.clock.now_ms())
            await until_on_loop(lambda: one.breakers.untold() == [])
        client = server.client()
        kept = {key: client.pttl(key) for key in client.keys(f"{{{SPACE}}}:breakers:[brp]:*")}
        assert len(kept) == 2
        assert all(0 < ttl <= 120_000 for ttl in kept.values())

    asyncio.run(scenario())


def test_a_sidecar_alone_shares_with_nobody() -> None:
    sidecar: Any = SimpleNamespace(gate=Gate(Generation(compiled(""))), clock=Clock())
    alone = share_of("embedded", SPACE, {}, sidecar)

    async def scenario() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(alone.watch(), 0.05)

    asyncio.run(scenario())
    assert not sidecar.gate.breakers.shared
