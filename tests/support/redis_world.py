"""A Redis ledger for tests that call it like one in this process, with a clock of their own."""

from __future__ import annotations

import asyncio
import os
from asyncio import Future
from pathlib import Path
from random import Random
from typing import Any

from redis_server import RedisServer

from extproc.ledger.port import Account
from extproc.ledger.redis_ledger import RedisLedger
from extproc.ledger.redis_scripts import Scripts
from extproc.values.store_address import parse_address

CLOCK = """
local function clock_ms()
  local tag = string.match(KEYS[1], '^({[^}]+})')
  local now = redis.call('GET', tag .. ':test-clock')
  if now then return tonumber(now) end
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
"""
TEST_SCRIPTS = Scripts(CLOCK)
DRAIN_S = 5.0
EARLIEST_MS = 1_769_000_000_000
"""Before anything that a test names: the store's time never steps back."""


def make_ledger(
    server: RedisServer, folder: Path, namespace: str = "t", **fields: Any
) -> RedisLedger:
    """A ledger that opens an empty store at once, with the real clock."""
    options = {"learn_ms": 0, **fields}
    return RedisLedger(
        parse_address(options.pop("url", server.url)), namespace, folder, Random(1), **options
    )


async def drained(ledger: RedisLedger) -> None:
    """Waits until the store has been told everything."""
    async with asyncio.timeout(DRAIN_S):
        while not (ledger._courier.ready and ledger._courier.idle):
            ledger._courier.wake()
            await asyncio.sleep(0.001)


class SteppedRedis:
    """Every call is done when it returns, at the time that the call names."""

    def __init__(self, server: RedisServer, folder: Path, namespace: str) -> None:
        self.server = server
        self.folder = folder
        self.namespace = namespace
        self.client = server.client()
        self.at(EARLIEST_MS)
        self.loop = asyncio.new_event_loop()
        self._start()

    def _start(self) -> None:
        self.ledger = make_ledger(self.server, self.folder, self.namespace, scripts=TEST_SCRIPTS)
        self.loop.run_until_complete(self.ledger.start())
        assert self.ledger.state.condition == "ok", self.ledger.state

    def at(self, now_ms: int) -> None:
        self.client.set(f"{{{self.namespace}}}:test-clock", now_ms)

    def _done(self, answer: Any) -> Any:
        if isinstance(answer, Future):
            answer = self.loop.run_until_complete(answer)
        else:
            self.loop.run_until_complete(drained(self.ledger))
        return answer

    def reserve(
        self, name: str, account: Account, amounts: Any, now_ms: int, lease_until_ms: int
    ) -> Any:
        self.at(now_ms)

        async def ask() -> Any:
            return await self.ledger.reserve(name, account, amounts, now_ms, lease_until_ms)

        return self.loop.run_until_complete(ask())

    def peek(self, holds: Any, now_ms: int) -> Any:
        self.at(now_ms)

        async def ask() -> Any:
            return await self.ledger.peek(holds, now_ms)

        return self.loop.run_until_complete(ask())

    def settle(self, name: str, amounts: Any, now_ms: int, about: Any) -> Any:
        self.at(now_ms)
        return self._done(self.ledger.settle(name, amounts, now_ms, about))

    def release(self, name: str, now_ms: int, reason: str) -> Any:
        self.at(now_ms)
        return self._done(self.ledger.release(name, now_ms, reason))

    def renew(self, name: str, lease_until_ms: int, at_least: Any) -> Any:
        return self._done(self.ledger.renew(name, lease_until_ms, at_least))

    def correct(self, limit: Any, scope_value: str, amount: int, now_ms: int, about: Any) -> Any:
        self.at(now_ms)
        self.loop.run_until_complete(self._hear(limit, scope_value, now_ms))
        return self._done(self.ledger.correct(limit, scope_value, amount, now_ms, about))

    async def _hear(self, limit: Any, scope_value: str, now_ms: int) -> None:
        """The ledger learns the time with an answer."""
        from extproc.ledger.port import Hold

        await self.ledger.peek([Hold(limit, scope_value, limit.ceiling)], now_ms)

    def expire(self, now_ms: int) -> Any:
        self.at(now_ms)
        return self._done(self.ledger.expire(now_ms))

    def tend(self, now_ms: int) -> None:
        self.at(now_ms)
        self.ledger.tend(now_ms)

    def flush(self) -> None:
        self.ledger.flush()

    def counters(self) -> Any:
        return self.ledger.counters()

    @property
    def state(self) -> Any:
        return self.ledger.state

    @property
    def open_count(self) -> int:
        return self.ledger.open_count

    def crash(self) -> None:
        """As ``kill -9`` does: what was flushed is there, nobody takes leave."""
        ledger = self.ledger
        ledger.flush()

        async def die() -> None:
            assert ledger._task is not None
            ledger._task.cancel()
            await asyncio.gather(ledger._task, return_exceptions=True)
            if ledger._link is not None:
                ledger._link.give_up("killed")
            await asyncio.sleep(0)

        self.loop.run_until_complete(die())
        os.close(ledger._part.journal._lock)
        self._start()

    def close(self) -> None:
        self.loop.run_until_complete(self.ledger.stop())
        self.ledger.close()
        self.loop.close()
