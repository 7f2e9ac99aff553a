"""Kills that several sidecars share over a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from redis_server import RedisServer, running_cluster, running_redis
from until import until_on_loop
from world import compiled

from extproc.core.gate import Gate
from extproc.core.generation import Generation
from extproc.edge.clock import Clock
from extproc.edge.kill_board import KillBoard
from extproc.edge.store import kill_share
from extproc.ledger.port import LedgerUnavailableError

SPACE = "kills"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with running_redis(tmp_path / "redis") as running:
        yield running


def board(server: RedisServer, state: Path, namespace: str = SPACE) -> KillBoard:
    return KillBoard(
        Gate(Generation(compiled(""))), state, Clock(), kill_share(server.url, namespace, {})
    )


@asynccontextmanager
async def watching(*boards: KillBoard) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(one.watch()) for one in boards]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def stopped(one: KillBoard) -> set[str]:
    return {order.value for order in one.killed}


def test_all_sidecars_obey_within_a_second_and_revive(server: RedisServer, tmp_path: Path) -> None:
    async def scenario() -> None:
        boards = [board(server, tmp_path / name) for name in "abc"]
        async with watching(*boards):
            await boards[0].kill("user_id", "mallory", "ran away")
            assert await until_on_loop(lambda: all(map(stopped, boards))) < 1
            await boards[1].revive("user_id", "mallory")
            assert await until_on_loop(lambda: not any(map(stopped, boards))) < 1
            await boards[2].kill("team", "red", "")
        # Who starts later learns it, and another namespace does not.
        late, other = board(server, tmp_path / "late"), board(server, tmp_path / "o", "other")
        async with watching(late, other):
            await until_on_loop(lambda: stopped(late) == {"red"})
            await asyncio.sleep(0.3)
            assert stopped(other) == set()

    asyncio.run(scenario())


def test_what_the_store_lost_is_told_again(server: RedisServer, tmp_path: Path) -> None:
    async def scenario() -> None:
        one, two = board(server, tmp_path / "a"), board(server, tmp_path / "b")
        async with watching(one, two):
            await one.kill("user_id", "mallory", "")
            await until_on_loop(lambda: stopped(two) == {"mallory"})
            server.forget()
            await one.kill("user_id", "eve", "")
            assert stopped(one) == {"mallory", "eve"}
            server.start()
            await until_on_loop(lambda: stopped(two) == {"mallory", "eve"})
            server.client().flushall()
            late = board(server, tmp_path / "late")
            async with watching(late):
                await until_on_loop(lambda: stopped(late) == {"mallory", "eve"})

    asyncio.run(scenario())


def test_what_is_lost_as_soon_as_it_was_told_is_told_again(
    server: RedisServer, tmp_path: Path
) -> None:
    """Before the next look, so that nobody has seen the store with anything in it."""

    async def scenario() -> None:
        server.forget()
        one = board(server, tmp_path / "a")
        await one.kill("user_id", "mallory", "")
        server.start()
        client = server.client()
        async with watching(one):
            await until_on_loop(lambda: client.dbsize() > 0)
            client.flushall()
            await until_on_loop(lambda: client.dbsize() > 0)

    asyncio.run(scenario())


def test_an_older_order_does_not_win_over_a_later(server: RedisServer, tmp_path: Path) -> None:
    async def scenario() -> None:
        one, two = board(server, tmp_path / "a"), board(server, tmp_path / "b")
        kept = await one.kill("user_id", "mallory", "")
        async with watching(two):
            await until_on_loop(lambda: stopped(two) == {"mallory"})
            await two.revive("user_id", "mallory")
        # It has not heard of the revival, and tells its own once more.
        share = kill_share(server.url, SPACE, {})
        await share.publish(kept)
        async with watching(one):
            await until_on_loop(lambda: stopped(one) == set())

    asyncio.run(scenario())


def test_what_is_kept_there_may_be_anything(server: RedisServer, tmp_path: Path) -> None:
    async def scenario() -> None:
        one = board(server, tmp_path / "a")
        orders = f"{{{SPACE}}}:kills"
        for name, text in {"a": b"", "b": b"1 {", "c": b"\xff", "d": b'1 ["team"]'}.items():
            server.client().hset(orders, name, text)
        two = board(server, tmp_path / "b")
        await two.kill("user_id", "mallory", "")
        async with watching(one):
            await until_on_loop(lambda: stopped(one) == {"mallory"})

    asyncio.run(scenario())


def test_a_clusters_owner_of_the_slot_is_asked(tmp_path: Path) -> None:
    with running_cluster(tmp_path) as (owner, other):

        async def scenario() -> None:
            one, two = board(owner, tmp_path / "a"), board(other, tmp_path / "b")
            async with watching(one, two):
                await one.kill("user_id", "mallory", "")
                await until_on_loop(lambda: stopped(two) == {"mallory"}, 20)

        asyncio.run(scenario())


def test_a_store_that_is_away_is_said_to_be(server: RedisServer) -> None:
    share = kill_share(server.url, SPACE, {})
    server.kill()

    async def scenario() -> None:
        with suppress(asyncio.CancelledError), pytest.raises(LedgerUnavailableError):
            await share.watch(lambda _: asyncio.sleep(0), list)

    asyncio.run(scenario())
