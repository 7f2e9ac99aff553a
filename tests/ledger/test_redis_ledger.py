"""The port over a real Redis: what it does to the store, and what the store can do to it."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from ledger_words import NOW, amounts, hold, limit, take
from redis_server import RedisServer, running_cluster, running_redis
from redis_world import TEST_SCRIPTS, SteppedRedis, drained, make_ledger

from extproc.ledger import redis_ledger
from extproc.ledger.port import Account, Denied, Granted, Hold, LedgerUnavailableError
from extproc.ledger.redis_ledger import RedisLedger
from extproc.values.limit import NO_CEILING, NOTHING

SUPPORT = Path(__file__).parents[1] / "support"
ONLY = hold(limit("only", 100, "monthly"))


@pytest.fixture(autouse=True)
def patient(patient_store: None) -> None:
    """Timeouts are other tests' matter."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis"), "--appendfsync", "everysec") as running:
        yield running


@pytest.fixture
def server(shared: RedisServer) -> RedisServer:
    shared.client().flushall()
    return shared


@pytest.fixture
def stepped(server: RedisServer, tmp_path: Path) -> Iterator[SteppedRedis]:
    made = SteppedRedis(server, tmp_path / "stepped", "s")
    yield made
    made.close()


async def opened(server: RedisServer, folder: Path, **fields: Any) -> RedisLedger:
    ledger = make_ledger(server, folder, **fields)
    await ledger.start()
    assert ledger.state.condition == "ok", ledger.state
    return ledger


async def closed(ledger: RedisLedger) -> None:
    await ledger.stop()
    ledger.close()


async def until_ready(ledger: RedisLedger, seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not ledger._courier.ready:
            await asyncio.sleep(0.005)


# -- keys -----------------------------------------------------------------------------------------

HOSTILE = (
    "a\r\nFLUSHALL\r\n", "$5\r\nHELLO", "*", "k {other} x", "') redis.call('FLUSHALL') --",
    "%00\x00", "日本語", "x" * 5_000, " ", "c:4:only:", "../../meta",
)  # fmt: skip


def test_F12_nothing_of_a_key_or_a_header_can_steer_the_store(
    server: RedisServer, tmp_path: Path
) -> None:
    """MONITOR sees what the server understood, also inside the scripts."""
    seen: list[str] = []
    begun = threading.Event()

    def watch() -> None:
        with server.client().monitor() as monitor:
            begun.set()
            for command in monitor.listen():
                seen.append(command["command"])
                if command["command"] == "ECHO done":
                    return

    watcher = threading.Thread(target=watch)
    watcher.start()
    assert begun.wait(5)

    async def scenario() -> None:
        ledger = await opened(server, tmp_path)
        for value in HOSTILE:
            one = hold(limit(f"rule-{value[:20]}", 10), value)
            assert isinstance(await take(ledger, value, 1, one), Granted)
            assert ledger.settle(value, amounts(1), NOW, {"note": value}) is not None
        await drained(ledger)
        for value in HOSTILE:
            one = hold(limit(f"rule-{value[:20]}", 10), value)
            assert (await ledger.peek([one], NOW))[0][1:3] == (1, 0)
        await closed(ledger)

    asyncio.run(scenario())
    client = server.client()
    client.echo("done")
    watcher.join(5)
    verbs = {command.split()[0].upper() for command in seen}
    assert verbs <= {
        "EVALSHA", "INFO", "SCRIPT", "ZRANGEBYSCORE", "HMGET", "HGETALL", "HGET", "ECHO", "GET",
        "SET", "HSET", "HSETNX", "HDEL", "DEL", "PEXPIRE", "ZADD", "ZREM", "ZCARD", "TIME", "MGET",
        "CLIENT",
    }, verbs  # fmt: skip
    keys = client.keys("*")
    assert all(key.startswith(b"{t}:") for key in keys)
    assert all(len(key) < 600 for key in keys)


def test_F13_limits_and_values_that_look_alike_count_apart(stepped: SteppedRedis) -> None:
    pairs = [("a", "bc"), ("ab", "c"), ("a:b", "c"), ("a", "b:c"), ("abc", "")]
    for key, value in pairs:
        assert isinstance(take(stepped, f"{key}-{value}", 1, hold(limit(key, 1), value)), Granted)
    for key, value in pairs:
        assert isinstance(take(stepped, f"{key}+{value}", 1, hold(limit(key, 1), value)), Denied)


def test_F14_a_hundred_thousand_sessions_leave_bounded_keys_that_end(
    server: RedisServer, tmp_path: Path
) -> None:
    """Every key that grows with traffic has an end; refused sessions leave none at all."""
    client = server.client()
    per_session = limit("session", 10, "1h")
    nothing = limit("nothing", 0, "1h")

    async def scenario() -> None:
        ledger = await opened(server, tmp_path)
        for start in range(0, 100_000, 500):
            asked = [
                take(ledger, f"r{n}", 1, hold(nothing, f"s{n}"))
                if n % 20
                else take(ledger, f"r{n}", 1, hold(per_session, f"s{n}"))
                for n in range(start, start + 500)
            ]
            for n, outcome in enumerate(await asyncio.gather(*asked), start):
                assert isinstance(outcome, Denied if n % 20 else Granted)
                if not n % 20:
                    ledger.settle(f"r{n}", amounts(1), NOW, {})
        await drained(ledger)
        await closed(ledger)

    asyncio.run(scenario())
    keys = client.keys("*")
    assert len(keys) <= 2 * 5_000 + 10
    with client.pipeline(transaction=False) as pipeline:
        for key in keys:
            pipeline.pttl(key)
        ends_ms = dict(zip(keys, pipeline.execute(), strict=True))
    lasting = {key for key in keys if ends_ms[key] < 0}
    assert lasting == {b"{t}:meta", b"{t}:members", b"{t}:joined"}
    assert max(ends_ms[key] for key in keys if b":c:" in key) <= 62 * 60_000 + 61_000
    assert max(ends_ms[key] for key in keys if b":r:" in key) <= 60_000


# -- crashes --------------------------------------------------------------------------------------

CHILD = """
import asyncio, sys
from pathlib import Path
sys.path[:0] = [sys.argv[3]]
from ledger_words import *
from redis_world import make_ledger

class Server:
    url = sys.argv[1]

async def work():
    ledger = make_ledger(Server, Path(sys.argv[2]))
    await ledger.start()
    only = hold(limit("only", 10**9, "monthly"))
    for n in range(1_000_000):
        await ledger.reserve(f"r{n}", Account([only], {}), amounts(10), NOW, NOW + 600_000)
        if n % 2 == 0:
            ledger.settle(f"r{n}", amounts(3), NOW, {})
        ledger.flush()
        print(n, flush=True)

asyncio.run(work())
"""


def test_F66_after_kill_9_ends_are_delivered_and_the_rest_is_charged(
    server: RedisServer, tmp_path: Path
) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, server.url, str(tmp_path), str(SUPPORT)],
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    for line in child.stdout:
        if int(line) >= 200:
            break
    child.send_signal(signal.SIGKILL)
    rest = child.stdout.read().split()
    child.wait()
    last = int(rest[-1]) if rest else 200
    wide = hold(limit("only", 10**9, "monthly"))

    async def scenario() -> None:
        ledger = await opened(server, tmp_path)
        await drained(ledger)
        settled, reserved = (await ledger.peek([wide], NOW))[0][1:3]
        evens = last // 2 + 1
        # Everything acknowledged is there; the one that was under way may be.
        assert settled in (3 * evens, 3 * (evens + 1))
        assert 10 * (last + 1 - evens) <= reserved <= 10 * (last + 3 - evens)
        assert 10 * (last + 1 - evens) <= 10 * ledger.open_count <= reserved
        expired = ledger.expire(NOW + 600_000)
        assert len(expired) == 10 * (last + 1 - evens) // 10 or len(expired) > 0
        await drained(ledger)
        after = (await ledger.peek([wide], NOW))[0]
        assert after.settled >= settled + 10 * len(expired)
        await closed(ledger)

    asyncio.run(scenario())


def test_F66_ends_that_were_not_delivered_survive_kill_9(
    server: RedisServer, tmp_path: Path
) -> None:
    async def before() -> None:
        ledger = await opened(server, tmp_path)
        for name in "abc":
            await take(ledger, name, 30, ONLY)
        assert ledger._link is not None
        ledger._link.give_up("test")
        await asyncio.sleep(0)
        ledger.settle("a", amounts(7), NOW, {})
        ledger.release("b", NOW, "")
        ledger.flush()
        assert ledger._task is not None
        ledger._task.cancel()
        await asyncio.gather(ledger._task, return_exceptions=True)
        os.close(ledger._part.journal._lock)

    async def after() -> None:
        ledger = await opened(server, tmp_path)
        await drained(ledger)
        assert (await ledger.peek([ONLY], NOW))[0][1:3] == (7, 30)
        assert ledger.open_count == 1
        await closed(ledger)

    asyncio.run(before())
    asyncio.run(after())


def test_F66_the_leases_of_a_sidecar_that_never_comes_back_are_charged_by_another(
    server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_ledger, "UPKEEP_S", 0.05)
    monkeypatch.setattr(redis_ledger, "SWEEP_GRACE_MS", 0)

    async def scenario() -> None:
        gone = await opened(server, tmp_path / "gone")
        await take(gone, "a", 30, ONLY)  # for a second
        await gone.reserve("b", Account([ONLY], {}), amounts(20), NOW, NOW + 60_000)
        other = await opened(server, tmp_path / "other")
        gone._task.cancel()  # type: ignore[union-attr]
        async with asyncio.timeout(5):
            while (await other.peek([ONLY], NOW))[0][1:3] != (30, 20):
                await asyncio.sleep(0.05)
        leases = server.client().keys("*:leases")
        assert server.client().zcard(leases[0]) == 1
        await closed(other)
        gone._link.give_up("test")  # type: ignore[union-attr]
        gone.close()

    asyncio.run(scenario())


def test_a_journal_that_cannot_be_written_admits_nothing_and_strands_nothing(
    server: RedisServer, tmp_path: Path
) -> None:
    async def scenario() -> None:
        ledger = await opened(server, tmp_path / "a")
        await take(ledger, "a", 10, ONLY)
        os.close(ledger._part.journal._file)

        async def answered() -> None:
            await take(ledger, "b", 20, ONLY)
            ledger.flush()  # before the answer leaves

        with pytest.raises(LedgerUnavailableError):
            await answered()
        with pytest.raises(LedgerUnavailableError) as error:
            take(ledger, "c", 20, ONLY)
        assert error.value.reason == "journal"
        assert ledger.state[:2] == ("closed", "journal")
        other = await opened(server, tmp_path / "b")
        assert (await other.peek([ONLY], NOW))[0].reserved >= 10
        await closed(other)
        await ledger.stop()
        os.close(ledger._part.journal._lock)

    asyncio.run(scenario())


# -- what a server can answer ---------------------------------------------------------------------


ERRORS = {
    "readonly": (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
    "memory": (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
    "denied": (
        ("ACL", "SETUSER", "default", "-evalsha"), ("ACL", "SETUSER", "default", "+evalsha"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("reason", ERRORS)
def test_F69_a_server_that_cannot_decide_closes_the_store_until_it_can(
    server: RedisServer, tmp_path: Path, reason: str
) -> None:
    breaks, mends = ERRORS[reason]
    client = server.client()

    async def scenario() -> None:
        ledger = await opened(server, tmp_path)
        await take(ledger, "a", 10, ONLY)
        client.execute_command(*breaks)
        try:
            for name in "bc":
                with pytest.raises(LedgerUnavailableError) as error:
                    await take(ledger, name, 10, ONLY)
                assert error.value.reason in (reason, "timeout")
            ledger.settle("a", amounts(5), NOW, {})
            await asyncio.sleep(0.3)
            assert ledger.state[:2] == ("closed", reason)
            assert ledger.state.undelivered >= 1
        finally:
            client.execute_command(*mends)
        await until_ready(ledger)
        await drained(ledger)
        assert (await ledger.peek([ONLY], NOW))[0][1:3] == (5, 0)
        await closed(ledger)

    asyncio.run(scenario())


def test_F69_a_full_disk_of_the_store_admits_nothing(server: RedisServer, tmp_path: Path) -> None:
    """A limit on the size of files, which needs no root, stands for the disk."""
    client = server.client()
    assert server.process is not None
    pid = server.process.pid
    unlimited = resource.prlimit(pid, resource.RLIMIT_FSIZE)

    async def scenario() -> None:
        ledger = await opened(server, tmp_path)
        await take(ledger, "a", 10, ONLY)
        # appendfsync always ends the server that cannot write; everysec says MISCONF.
        client.config_set("appendfsync", "everysec")
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, unlimited[1]))
        began = time.monotonic()
        reason = ""
        while reason != "disk" and time.monotonic() - began < 5:
            try:
                await take(ledger, f"r{time.monotonic()}", 0, ONLY)
            except LedgerUnavailableError as error:
                reason = error.reason
            await asyncio.sleep(0.05)
        assert reason == "disk"
        resource.prlimit(pid, resource.RLIMIT_FSIZE, unlimited)
        await until_ready(ledger, 10)
        await drained(ledger)
        assert (await ledger.peek([ONLY], NOW))[0].reserved == 10
        await closed(ledger)

    asyncio.run(scenario())


def test_F69_a_script_that_blocks_the_server_is_waited_out(
    server: RedisServer, tmp_path: Path
) -> None:
    client = server.client()
    client.config_set("lua-time-limit", 10)

    def block() -> None:
        with pytest.raises(redis.ResponseError):
            server.client().eval("while true do end", 0)

    blocker = threading.Thread(target=block)

    async def scenario() -> None:
        ledger = await opened(server, tmp_path)
        blocker.start()
        await asyncio.sleep(0.1)
        with pytest.raises(LedgerUnavailableError) as error:
            await take(ledger, "a", 10, ONLY)
        assert error.value.reason in ("busy_script", "timeout")
        with pytest.raises(LedgerUnavailableError):
            take(ledger, "b", 10, ONLY)
        client.script_kill()
        await until_ready(ledger)
        await drained(ledger)
        assert (await ledger.peek([ONLY], NOW))[0][1:3] == (0, 0)
        await closed(ledger)

    try:
        asyncio.run(scenario())
    finally:
        blocker.join(5)
        client.config_set("lua-time-limit", 5000)


def test_F69_lost_scripts_are_loaded_once_more(server: RedisServer, tmp_path: Path) -> None:
    async def scenario() -> None:
        ledger = await opened(server, tmp_path)
        await take(ledger, "a", 10, ONLY)
        server.client().script_flush()
        assert isinstance(await take(ledger, "b", 10, ONLY), Granted)
        assert (await ledger.peek([ONLY], NOW))[0].reserved == 20
        await closed(ledger)

    asyncio.run(scenario())


def test_F69_a_key_of_another_type_fails_alone(server: RedisServer, tmp_path: Path) -> None:
    async def scenario() -> None:
        ledger = await opened(server, tmp_path)
        bad = hold(limit("bad", 100))
        key = ledger._names.counter(ledger._courier.epoch, "bad", "")
        server.client().set(key, "x")
        asked = [take(ledger, "a", 1, ONLY), take(ledger, "b", 1, bad), take(ledger, "c", 1, ONLY)]
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(outcomes[0], Granted)
        assert isinstance(outcomes[1], LedgerUnavailableError)
        assert outcomes[1].reason == "wrong_type"
        assert isinstance(outcomes[2], Granted)
        assert (await ledger.peek([ONLY], NOW))[0].reserved == 2
        await closed(ledger)

    asyncio.run(scenario())


def test_F69_no_room_for_one_more_client(server: RedisServer, tmp_path: Path) -> None:
    client = server.client()

    async def scenario() -> None:
        ledger = await opened(server, tmp_path)
        client.config_set("maxclients", 1)
        try:
            assert ledger._link is not None
            ledger._link.give_up("test")
            await asyncio.sleep(0.3)
            assert ledger.state.condition == "closed"
            with pytest.raises(LedgerUnavailableError):
                take(ledger, "a", 1, ONLY)
        finally:
            client.config_set("maxclients", 1_000)
        await until_ready(ledger)
        await closed(ledger)

    asyncio.run(scenario())


def test_F69_a_server_that_still_loads_is_waited_for(tmp_path: Path) -> None:
    server = RedisServer(tmp_path / "redis").start()
    client = server.client()

    async def scenario() -> None:
        ledger = await opened(server, tmp_path / "a")
        await take(ledger, "a", 10, ONLY)
        client.config_set("appendfsync", "no")
        client.eval("for n = 1, 20000 do redis.call('SET', 'filler:' .. n, n) end", 0)
        server.kill()
        # It answers "LOADING" after each 1,000 commands that it has read.
        server.start("--key-load-delay", "10", wait=False)
        async with asyncio.timeout(5):
            while ledger._courier.ready:
                await asyncio.sleep(0.001)
        reasons = set()
        async with asyncio.timeout(20):
            while not ledger._courier.ready:
                reasons.add(ledger.state.reason)
                with pytest.raises(LedgerUnavailableError):
                    await take(ledger, "b", 1, ONLY)
                await asyncio.sleep(0.02)
        assert "loading" in reasons
        await drained(ledger)
        assert (await ledger.peek([ONLY], NOW))[0].reserved == 10
        await closed(ledger)

    try:
        asyncio.run(scenario())
    finally:
        server.kill()


def test_F69_on_a_cluster_the_slots_owner_is_followed(tmp_path: Path) -> None:
    """Two nodes; the address leads to the one that has no slot. Every key of a script is declared,
    or the owner would refuse it."""
    with running_cluster(tmp_path) as (owner, other):

        async def scenario() -> None:
            async with asyncio.timeout(20):
                while other.client().execute_command("CLUSTER INFO")["cluster_state"] != "ok":
                    await asyncio.sleep(0.05)
            ledger = await opened(other, tmp_path / "a")
            assert isinstance(await take(ledger, "a", 10, ONLY), Granted)
            ledger.settle("a", amounts(5), NOW, {})
            await drained(ledger)
            assert (await ledger.peek([ONLY], NOW))[0][1:3] == (5, 0)
            assert len(owner.client().keys("*")) > 3
            owner.client().flushall()
            await asyncio.gather(take(ledger, "b", 1, ONLY), return_exceptions=True)
            await until_ready(ledger)  # joined and pushed by scripts too
            assert (await ledger.peek([ONLY], NOW))[0].settled == 5
            await closed(ledger)

        asyncio.run(scenario())


# -- time and amounts -----------------------------------------------------------------------------


def test_F71_only_the_stores_time_counts(server: RedisServer, tmp_path: Path) -> None:
    """Two sidecars whose clocks are a day apart share one window."""

    async def scenario() -> None:
        one = await opened(server, tmp_path / "a")
        two = await opened(server, tmp_path / "b")
        hour = hold(limit("hour", 100, "1h"))
        day_ms = 86_400_000
        assert isinstance(await take(one, "a", 60, hour, now=NOW - day_ms), Granted)
        assert isinstance(await take(two, "b", 60, hour, now=NOW + day_ms), Denied)
        one.settle("a", amounts(50), NOW - day_ms, {})
        await drained(one)
        assert (await two.peek([hour], NOW + 40 * day_ms))[0][1:3] == (50, 0)
        await closed(one)
        await closed(two)

    asyncio.run(scenario())


def test_F71_a_store_whose_clock_steps_back_begins_no_window_anew(stepped: SteppedRedis) -> None:
    minute, daily = hold(limit("minute", 100, "1m")), hold(limit("daily", 100, "daily"))
    take(stepped, "a", 60, minute, daily)
    hour_ms = 3_600_000
    for back in (hour_ms, 24 * hour_ms, 40 * 24 * hour_ms):
        assert isinstance(take(stepped, f"b{back}", 60, minute, now=NOW - back), Denied)
        assert isinstance(take(stepped, f"c{back}", 60, daily, now=NOW - back), Denied)
    stepped.settle("a", amounts(10), NOW - hour_ms, {})
    assert stepped.peek([minute, daily], NOW - hour_ms)[0][1:3] == (10, 0)


def test_F71_a_sidecar_with_a_stale_calendar_asks_again(stepped: SteppedRedis) -> None:
    """It sends the current and the next day; the store is three days further."""
    account = Account([hold(limit("daily", 100, "daily"))], {})
    day_ms = 86_400_000
    for days in (0, 1, 4, 5, 90):
        now = NOW + days * day_ms
        outcome = stepped.reserve(f"r{days}", account, amounts(60), now, now + 1000)
        assert isinstance(outcome, Granted), days
        assert isinstance(stepped.reserve(f"x{days}", account, amounts(60), now, now + 9), Denied)


def test_F72_amounts_out_of_range_never_reach_the_store(
    server: RedisServer, tmp_path: Path
) -> None:
    async def scenario() -> None:
        ledger = await opened(server, tmp_path)
        for wrong in (-1, 2**53):
            with pytest.raises(ValueError, match="out of range"):
                take(ledger, f"x{wrong}", wrong, ONLY)
        # The sum of two that are in range is not.
        most = replace(limit("most", 2**60), ceiling=2**60)
        account = Account([Hold(most, "", NO_CEILING)], {})
        first = (1, 2**53 - 1, 0, 0, 0, 0)
        assert isinstance(await ledger.reserve("a", account, first, NOW, NOW + 9_000), Granted)
        assert isinstance(await ledger.reserve("b", account, first, NOW, NOW + 9_000), Denied)
        await closed(ledger)

    asyncio.run(scenario())


def test_F78_an_edited_window_gives_nobody_a_fresh_allowance(stepped: SteppedRedis) -> None:
    def taken(name: str, tokens: int, window: str, at: int) -> Any:
        return take(stepped, name, tokens, hold(limit("all", 100, window)), now=NOW + at)

    assert isinstance(taken("a", 60, "1h", 0), Granted)
    assert isinstance(taken("b", 30, "1h", 60_000), Granted)
    assert isinstance(taken("c", 20, "1d", 61_000), Denied)
    stepped.settle("a", amounts(10), NOW + 62_000, {})
    assert isinstance(taken("d", 20, "1d", 63_000), Granted)
    assert isinstance(taken("e", 50, "daily", 64_000), Denied)
    stepped.settle("b", amounts(0), NOW + 65_000, {})
    assert stepped.peek([hold(limit("all", 100, "daily"))], NOW + 66_000)[0][1:3] == (10, 20)


def test_F78_a_renamed_rule_keeps_its_usage(stepped: SteppedRedis) -> None:
    before = hold(limit("before", 100, "1h"))
    after = hold(replace(limit("after", 100, "1h"), renamed_from="before"))
    lease_ms = 10 * 3_600_000
    for name, tokens, now in (("a", 30, NOW), ("b", 40, NOW + 300_000)):
        account = Account([before], {})
        outcome = stepped.reserve(name, account, amounts(tokens), now, now + lease_ms)
        assert isinstance(outcome, Granted)
    later = NOW + 600_000
    assert isinstance(take(stepped, "c", 31, after, now=later), Denied)
    assert isinstance(take(stepped, "c", 20, after, now=later), Granted)
    assert stepped.peek([after], later)[0][1:3] == (0, 90)
    # Another sidecar may not have the new policy yet: its requests count with the others.
    assert isinstance(take(stepped, "d", 11, before, now=later), Denied)
    assert isinstance(take(stepped, "d", 5, before, now=later), Granted)
    # What was booked under the former name ends under the present one.
    stepped.settle("a", amounts(10), later, {})
    stepped.settle("d", amounts(5), later, {})
    assert stepped.peek([after], later)[0][1:3] == (15, 60)
    assert stepped.peek([after], NOW + 10 * 3_600_000)[0][1:3] == (0, 0)


def test_renewed_leases_are_renewed_in_the_store(server: RedisServer, tmp_path: Path) -> None:
    async def scenario() -> None:
        ledger = await opened(server, tmp_path)
        await take(ledger, "a", 10, ONLY)
        leases = ledger._names.leases(ledger._courier.epoch)
        before = server.client().zrange(leases, 0, -1, withscores=True)[0][1]
        assert ledger.renew("a", NOW + 500_000, NOTHING)
        await drained(ledger)
        assert server.client().zrange(leases, 0, -1, withscores=True)[0][1] > before + 400_000
        await closed(ledger)

    asyncio.run(scenario())


def test_many_counters_are_read_in_parts(server: RedisServer, tmp_path: Path) -> None:
    async def scenario() -> None:
        ledger = await opened(server, tmp_path)
        many = [hold(limit("each", 100), f"u{n}") for n in range(150)]
        await asyncio.gather(*[take(ledger, f"r{n}", n, one) for n, one in enumerate(many[:90])])
        calls = server.client().info("commandstats")["cmdstat_evalsha"]["calls"]
        found = await ledger.peek(many, NOW)
        assert server.client().info("commandstats")["cmdstat_evalsha"]["calls"] >= calls + 8
        assert [standing.hold for standing in found] == many
        assert [standing.reserved for standing in found] == [*range(90), *[0] * 60]
        assert await ledger.peek([], NOW) == []
        await closed(ledger)

    asyncio.run(scenario())


def test_the_scripts_of_users_ask_redis_for_the_time() -> None:
    from extproc.ledger.redis_scripts import Scripts

    for name, source in Scripts().sources.items():
        assert b"test-clock" not in source
        assert name in ("leave", "look") or b"redis.call('TIME')" in source
    assert b"test-clock" in TEST_SCRIPTS.sources["batch"]
