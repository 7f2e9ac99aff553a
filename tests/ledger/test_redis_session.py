"""A store that restarts, forgets, or is replaced by an older one."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import hiredis
import pytest
from ledger_words import NOW, amounts, hold, limit, take
from redis_server import RedisServer, free_port, running_redis
from redis_world import drained, make_ledger

from extproc.ledger import redis_ledger
from extproc.ledger.port import Account, Denied, Granted, LedgerUnavailableError
from extproc.ledger.redis_ledger import RedisLedger
from extproc.ledger.redis_session import (
    StoreRefusedError,
    acknowledge_loss,
    check_server,
    read_server,
)
from extproc.values.store_address import parse_address

ONLY = hold(limit("only", 100, "monthly"))
RECOVERY_S = 10.0
"""The bar. What is measured is about a second."""


@pytest.fixture(autouse=True)
def hasty(patient_store: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second's upkeep every 50 ms, so that emptied stores may open after 300."""
    monkeypatch.setattr(redis_ledger, "UPKEEP_S", 0.05)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with running_redis(tmp_path / "redis") as running:
        yield running


@contextlib.asynccontextmanager
async def running(
    server: RedisServer, folder: Path, **fields: object
) -> AsyncIterator[RedisLedger]:
    ledger = make_ledger(server, folder, **{"learn_ms": 300, **fields})
    await ledger.start()
    try:
        yield ledger
    finally:
        await ledger.stop()
        ledger.close()


async def until(ledger: RedisLedger, condition: str, seconds: float = RECOVERY_S) -> None:
    async with asyncio.timeout(seconds):
        while ledger.state.condition != condition:
            await asyncio.sleep(0.005)


async def used(ledger: RedisLedger) -> tuple[int, int]:
    return (await ledger.peek([ONLY], NOW))[0][1:3]


async def die(ledger: RedisLedger) -> None:
    """As ``kill -9`` does."""
    ledger.flush()
    assert ledger._task is not None
    ledger._task.cancel()
    await asyncio.gather(ledger._task, return_exceptions=True)
    assert ledger._link is not None
    ledger._link.give_up("killed")
    os.close(ledger._part.journal._lock)


def test_F67_a_store_that_restarts_whole_opens_when_everybody_has_found_what_it_knew(
    server: RedisServer, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with running(server, tmp_path / "a") as one, running(server, tmp_path / "b") as two:
            await take(one, "a", 30, ONLY)
            await take(two, "b", 40, ONLY)
            epoch = one._courier.epoch
            server.kill()
            await until(one, "closed")
            server.start()
            await asyncio.gather(until(one, "ok"), until(two, "ok"))
            assert one._courier.epoch == epoch  # nothing was lost, nothing is rebuilt
            assert await used(two) == (0, 70)

    asyncio.run(scenario())


def test_F67_an_emptied_store_is_closed_until_all_parts_are_back(
    server: RedisServer, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with running(server, tmp_path / "a") as one, running(server, tmp_path / "b") as two:
            await take(one, "a", 30, ONLY)
            one.settle("a", amounts(25), NOW, {})
            await take(two, "b", 40, ONLY)
            await drained(one)
            await asyncio.sleep(0.1)
            server.client().flushall()
            # Whoever asks first finds out; nobody is admitted by an empty counter.
            outcome = await asyncio.gather(take(one, "c", 50, ONLY), return_exceptions=True)
            assert isinstance(outcome[0], Denied | LedgerUnavailableError)
            await asyncio.gather(until(one, "ok"), until(two, "ok"))
            assert await used(one) == (25, 40)
            assert isinstance(await take(one, "d", 36, ONLY), Denied)
            # What is open goes on: it ends in the new epoch, once.
            two.settle("b", amounts(15), NOW, {})
            await drained(two)
            assert await used(one) == (40, 0)

    asyncio.run(scenario())


def test_F67_a_restart_without_persistence_loses_no_money(
    server: RedisServer, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with running(server, tmp_path / "a") as one, running(server, tmp_path / "b") as two:
            await take(one, "a", 30, ONLY)
            await take(two, "b", 40, ONLY)
            server.forget()
            await until(one, "closed")
            two.settle("b", amounts(45), NOW, {})  # ends go on while the store is away
            server.start()
            await asyncio.gather(until(one, "ok"), until(two, "ok"))
            await drained(two)
            assert await used(one) == (45, 30)
            assert two.state.undelivered == 0

    asyncio.run(scenario())


def test_F67_a_store_waits_for_a_sidecar_that_is_away_or_for_an_operator(
    server: RedisServer, tmp_path: Path
) -> None:
    async def scenario() -> None:
        two = make_ledger(server, tmp_path / "b")
        await two.start()
        async with running(server, tmp_path / "a") as one:
            await take(one, "a", 30, ONLY)
            await take(two, "b", 40, ONLY)
            await asyncio.sleep(0.1)
            await die(two)
            server.client().flushall()
            with pytest.raises(LedgerUnavailableError):
                await take(one, "c", 1, ONLY)
            await asyncio.sleep(0.6)
            assert one.state[:2] == ("closed", "amnesia")
            assert two._part.name in one.state.detail
            with pytest.raises(LedgerUnavailableError, match="amnesia"):
                await take(one, "c", 1, ONLY)
            address = parse_address(server.url)
            loss = await acknowledge_loss(address, "t", "fresh")
            assert loss.state == "rebuilding"
            assert loss.missing == [two._part.name]
            await until(one, "ok")
            assert await used(one) == (0, 30)
            assert (await acknowledge_loss(address, "t", "fresh")).state == "open"
            # It comes back after all: its part counts again.
            async with running(server, tmp_path / "b") as back:
                await until(back, "ok")
                await until(one, "ok")
                assert await used(back) == (0, 70)
                assert back.open_count == 1

    asyncio.run(scenario())


def test_F67_an_empty_store_that_nobody_knows_opens_after_a_moment(
    server: RedisServer, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with running(server, tmp_path / "a", learn_ms=300) as ledger:
            await until(ledger, "ok", 2)

    asyncio.run(scenario())
    server.client().flushall()

    async def impatient() -> None:
        ledger = make_ledger(server, tmp_path / "b", learn_ms=60_000)
        await ledger.start(0.3)
        assert ledger.state[:2] == ("closed", "amnesia")
        loss = await acknowledge_loss(parse_address(server.url), "t", "e")
        assert loss.state == "checking"
        await until(ledger, "ok", 2)
        await ledger.stop()
        ledger.close()

    asyncio.run(impatient())


def test_F67_another_store_gets_what_was_counted_before(
    server: RedisServer, tmp_path: Path
) -> None:
    """A changed address, or a change from the embedded store, is no fresh allowance."""
    from extproc.ledger.embedded import EmbeddedLedger
    from extproc.ledger.journal import Journal

    embedded = EmbeddedLedger(Journal(tmp_path / "a"))
    now = int(server.client().time()[0]) * 1000
    take(embedded, "a", 60, ONLY, now=now)
    embedded.settle("a", amounts(60), now, {})
    embedded.close()

    async def scenario() -> None:
        async with running(server, tmp_path / "a") as ledger:
            await until(ledger, "ok")
            assert await used(ledger) == (60, 0)

    asyncio.run(scenario())


def test_F68_a_stale_replica_that_was_promoted_is_rebuilt(tmp_path: Path) -> None:
    with (
        running_redis(tmp_path / "primary", "--repl-diskless-sync-delay", "0") as primary,
        running_redis(tmp_path / "replica") as replica,
    ):
        follower = replica.client()
        follower.replicaof("127.0.0.1", primary.port)

        async def scenario() -> None:
            ledger = make_ledger(primary, tmp_path / "a")
            await ledger.start()
            await take(ledger, "a", 5, ONLY)
            async with asyncio.timeout(10):
                while follower.info("replication")["master_link_status"] != "up":
                    await asyncio.sleep(0.01)
                while not any(b":r:a" in key for key in follower.keys("*")):
                    await asyncio.sleep(0.01)
            follower.replicaof("NO", "ONE")  # cut off: what follows is acknowledged and lost
            for n in range(10):
                await take(ledger, f"r{n}", 5, ONLY)
            assert await used(ledger) == (0, 55)
            primary.kill()
            # The address leads to the promoted one now, as a proxy or a name service does it.
            ledger._home = ledger._address = parse_address(replica.url)
            stale = ledger._courier.epoch
            async with asyncio.timeout(RECOVERY_S):
                while ledger._courier.epoch == stale or not ledger._courier.ready:
                    await asyncio.sleep(0.005)
            assert await used(ledger) == (0, 55)
            await ledger.stop()
            ledger.close()

        asyncio.run(scenario())


def test_F68_a_store_that_is_older_than_what_was_seen_never_opens_as_it_is(
    server: RedisServer, tmp_path: Path
) -> None:
    """The same server, the same epoch: only the sequence tells. Whoever has a part is waited for,
    also if it left in order."""

    async def scenario() -> None:
        async with running(server, tmp_path / "gone") as gone:
            await take(gone, "g", 15, ONLY)
        async with running(server, tmp_path / "a") as ledger:
            await take(ledger, "a", 30, ONLY)
            epoch = ledger._courier.epoch
            client = server.client()
            client.hset("{t}:meta", "seq", 0)
            client.delete(*[key for key in client.keys("*") if b":c:" in key])
            with contextlib.suppress(LedgerUnavailableError):
                assert isinstance(await take(ledger, "b", 80, ONLY), Denied)
            await asyncio.sleep(0.5)
            assert ledger.state[:2] == ("closed", "amnesia")
            async with running(server, tmp_path / "gone"):
                await until(ledger, "ok")
            assert ledger._courier.epoch != epoch
            assert await used(ledger) == (0, 45)

    asyncio.run(scenario())


def test_parts_of_different_ages_are_put_together_slot_by_slot(
    server: RedisServer, tmp_path: Path
) -> None:
    """The newer part comes first: the older one's slots go below it, and leave before it."""
    short = hold(limit("short", 100, "3s"))

    async def scenario() -> None:
        old = make_ledger(server, tmp_path / "old")
        await old.start()
        await old.reserve("o", Account([short], {}), amounts(30), NOW, NOW + 60_000)
        await asyncio.sleep(1.2)
        async with running(server, tmp_path / "new") as new:
            await new.reserve("n", Account([short], {}), amounts(20), NOW, NOW + 60_000)
            await asyncio.sleep(0.1)
            await die(old)
            server.client().flushall()
            await asyncio.gather(take(new, "x", 1, ONLY), return_exceptions=True)
            await asyncio.sleep(0.5)
            assert new.state[:2] == ("closed", "amnesia")
            async with running(server, tmp_path / "old") as back:
                await asyncio.gather(until(new, "ok"), until(back, "ok"))
                assert (await new.peek([short], NOW))[0][1:3] == (0, 50)
                async with asyncio.timeout(5):
                    while (found := (await new.peek([short], NOW))[0][1:3]) == (0, 50):
                        await asyncio.sleep(0.02)
                assert found == (0, 20)

    asyncio.run(scenario())


def test_a_push_that_broke_off_is_begun_anew(server: RedisServer, tmp_path: Path) -> None:
    """Half of a part must not be counted twice, nor the other half be missed."""
    from extproc.ledger import redis_part

    async def scenario() -> None:
        async with running(server, tmp_path / "a") as ledger:
            each = [hold(limit("each", 100, "monthly"), f"u{n}") for n in range(30)]
            for n, one in enumerate(each):
                await take(ledger, f"r{n}", 7, one)
            calls = 0
            call = ledger._session._call

            async def breaking(link, script, keys, arguments):
                nonlocal calls
                calls += script == "push"
                answer = await call(link, script, keys, arguments)
                if script == "push" and calls == 3:
                    link.give_up("test")
                return answer

            ledger._session._call = breaking
            server.client().flushall()
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(redis_part, "CHUNK_ITEMS", 8)
                await asyncio.gather(take(ledger, "x", 1, each[0]), return_exceptions=True)
                await until(ledger, "ok")
            assert calls > 6
            for standing in await ledger.peek(each, NOW):
                assert standing[1:3] == (0, 7)

    asyncio.run(scenario())


def test_F67_who_was_silent_long_before_a_restart_is_not_waited_for(
    server: RedisServer, tmp_path: Path
) -> None:
    """What a sidecar that is gone for good had seen, one saw who looked a minute later."""
    client = server.client()

    async def scenario() -> None:
        gone = make_ledger(server, tmp_path / "b")
        await gone.start()
        await take(gone, "b", 40, ONLY)
        await die(gone)
        name = gone._part.name
        async with running(server, tmp_path / "a") as ledger:

            async def restarted() -> None:
                server.kill()
                await until(ledger, "closed")
                server.start()

            await asyncio.sleep(0.1)
            await restarted()
            await asyncio.sleep(0.5)
            assert ledger.state[:2] == ("closed", "amnesia")  # it may know more: it just left
            assert name in ledger.state.detail
            await acknowledge_loss(parse_address(server.url), "t", "e")
            await until(ledger, "ok")
            ends_ms, parted, heard_ms = client.hget("{t}:members", ledger._part.name).split()
            silent = b"%b %b %d" % (ends_ms, parted, int(heard_ms) - 70_000)
            client.hset("{t}:members", name, silent)
            await restarted()
            await until(ledger, "ok")
            assert await used(ledger) == (0, 40)
            # What it counted is missed all the same once the store has lost it.
            client.flushall()
            await asyncio.gather(take(ledger, "c", 1, ONLY), return_exceptions=True)
            await asyncio.sleep(0.5)
            assert ledger.state[:2] == ("closed", "amnesia")

    asyncio.run(scenario())


CONFIGURATIONS = {
    "redis_version:6.0.16\r\nmaxmemory_policy:noeviction": "too old",
    "redis_version:7.2.4\r\nmaxmemory_policy:allkeys-lru": "allkeys-lru",
    "redis_version:7.2.4\r\nmaxmemory_policy:volatile-ttl": "volatile-ttl",
    "redis_version:7.2.4": "unknown",
}


@pytest.mark.parametrize("info", CONFIGURATIONS)
def test_F70_a_store_that_may_forget_by_design_is_refused(info: str) -> None:
    with pytest.raises(StoreRefusedError, match=CONFIGURATIONS[info]):
        check_server(read_server(info))


def test_F70_what_a_server_says_is_read() -> None:
    server = read_server(
        "# Server\r\nredis_version:7.2.4\r\nvalkey_version:8.1.0\r\nrun_id:abcd\r\n"
        "# Replication\r\nmaster_replid:ef01\r\nmaxmemory_policy:noeviction\r\naof_enabled:1\r\n"
    )
    check_server(server)
    assert server.run == "abcd/ef01"
    assert server.persistent


def test_F67_a_server_that_reads_its_files_is_asked_again() -> None:
    """Redis 6.2 turns its log off meanwhile, and was taken for one that has none."""
    with pytest.raises(hiredis.ReplyError, match="LOADING"):
        read_server("redis_version:6.2.14\r\nloading:1\r\naof_enabled:0\r\n")
    assert read_server("redis_version:6.2.14\r\nloading:0\r\naof_enabled:1\r\n").persistent


def test_F70_a_real_store_is_checked_at_start_and_on_each_connection(
    server: RedisServer, tmp_path: Path
) -> None:
    client = server.client()

    async def scenario() -> None:
        client.config_set("maxmemory-policy", "allkeys-lru")
        ledger = make_ledger(server, tmp_path / "a")
        with pytest.raises(StoreRefusedError, match="allkeys-lru"):
            await ledger.start()
        ledger.close()
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("appendonly", "no")
        async with running(server, tmp_path / "b") as other:
            assert other.state[:2] == ("degraded", "not_persistent")
            assert isinstance(await take(other, "a", 1, ONLY), Granted)
            client.config_set("maxmemory-policy", "allkeys-lru")
            assert other._link is not None
            other._link.give_up("test")
            await asyncio.sleep(0.2)
            assert other.state[:2] == ("closed", "configuration")
            client.config_set("maxmemory-policy", "noeviction")
            await until(other, "degraded")

    asyncio.run(scenario())


def test_F60_a_store_that_cannot_be_reached_at_start_is_waited_for(tmp_path: Path) -> None:
    server = RedisServer(tmp_path / "redis", port=free_port())

    async def scenario() -> None:
        ledger = make_ledger(server, tmp_path / "a")
        await ledger.start(0.2)
        assert ledger.state[:2] == ("closed", "connection")
        with pytest.raises(LedgerUnavailableError):
            take(ledger, "a", 1, ONLY)
        server.start()
        await until(ledger, "ok")
        await ledger.stop()
        ledger.close()

    try:
        asyncio.run(scenario())
    finally:
        server.kill()


def test_a_sidecar_that_left_in_order_is_not_waited_for_after_a_restart(
    server: RedisServer, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with running(server, tmp_path / "b") as gone:
            await take(gone, "b", 40, ONLY)
        async with running(server, tmp_path / "a") as ledger:
            server.kill()
            await until(ledger, "closed")
            server.start()
            await until(ledger, "ok")
            assert await used(ledger) == (0, 40)
            # But its part is, once the store has lost it.
            server.client().flushall()
            await asyncio.gather(take(ledger, "c", 1, ONLY), return_exceptions=True)
            await asyncio.sleep(0.5)
            assert ledger.state[:2] == ("closed", "amnesia")
            async with running(server, tmp_path / "b") as back:
                await asyncio.gather(until(ledger, "ok"), until(back, "ok"))
                assert await used(ledger) == (0, 40)

    asyncio.run(scenario())
