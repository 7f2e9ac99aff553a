"""What every ledger promises, checked on all of them: in memory, embedded, and in a real Redis."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from ledger_words import NOW, amounts, hold, limit, take
from redis_server import RedisServer, running_redis
from redis_world import SteppedRedis

from extproc.ledger.embedded import EmbeddedLedger
from extproc.ledger.journal import Journal
from extproc.ledger.memory import MemoryLedger
from extproc.ledger.port import Account, Denied, Granted, Hold
from extproc.values.limit import NO_CEILING, NOTHING, Limit, Unit


@pytest.fixture(autouse=True)
def patient(patient_store: None) -> None:
    """Timeouts are other tests' matter."""


namespaces = (f"n{number}" for number in count())
KINDS = ("memory", "embedded", "redis")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis"), "--appendfsync", "everysec") as running:
        yield running


@pytest.fixture(params=KINDS)
def ledger(request: pytest.FixtureRequest, tmp_path: Path, server: RedisServer):
    if request.param == "memory":
        yield MemoryLedger()
        return
    made = (
        EmbeddedLedger(Journal(tmp_path))
        if request.param == "embedded"
        else SteppedRedis(server, tmp_path, next(namespaces))
    )
    yield made
    made.close()


# -- the contract ---------------------------------------------------------------------------------


def test_all_holds_are_taken_or_none(ledger) -> None:
    wide, narrow = limit("wide", 100), limit("narrow", 10)
    assert isinstance(take(ledger, "a", 8, hold(wide), hold(narrow)), Granted)
    denied = take(ledger, "b", 5, hold(wide), hold(narrow))
    assert isinstance(denied, Denied)
    assert [standing.hold.limit.key for standing in denied.standings] == ["narrow"]
    assert denied.standings[0].reserved == 8
    assert isinstance(take(ledger, "c", 92, hold(wide)), Granted)


def test_F64_each_reservation_ends_once(ledger) -> None:
    only = limit("only", 100)
    take(ledger, "a", 50, hold(only))
    assert ledger.settle("a", amounts(20), NOW, {}).charged == amounts(20)
    assert ledger.settle("a", amounts(90), NOW, {}) is None
    assert ledger.release("a", NOW, "") is None
    assert ledger.settle("unknown", amounts(1), NOW, {}) is None
    assert isinstance(take(ledger, "b", 80, hold(only)), Granted)
    assert isinstance(take(ledger, "c", 1, hold(only)), Denied)


def test_F64_a_settlement_after_expiry_or_release_is_one_correction(ledger) -> None:
    only = limit("only", 100)
    take(ledger, "a", 50, hold(only))
    assert [ended.reservation_id for ended in ledger.expire(NOW + 1000)] == ["a"]
    assert isinstance(take(ledger, "x", 51, hold(only)), Denied)
    assert ledger.settle("a", amounts(20), NOW, {}).late
    take(ledger, "b", 80, hold(only))
    ledger.release("b", NOW, "")
    assert ledger.settle("b", amounts(80), NOW, {}).late
    assert ledger.settle("b", amounts(80), NOW, {}) is None
    assert isinstance(take(ledger, "c", 1, hold(only)), Denied)


def test_an_overrun_is_debt_that_stops_admission(ledger) -> None:
    only = limit("only", 100)
    take(ledger, "a", 10, hold(only))
    ledger.settle("a", amounts(500), NOW, {})
    denied = take(ledger, "b", 1, hold(only))
    assert isinstance(denied, Denied)
    assert denied.standings[0].settled == 500


def test_F65_concurrent_callers_get_exactly_the_limit(ledger) -> None:
    requests = limit("requests", 100, unit=Unit.REQUESTS)
    outcomes = [take(ledger, str(n), 1, hold(requests)) for n in range(2_000)]
    assert sum(isinstance(outcome, Granted) for outcome in outcomes) == 100


def test_F13_scope_values_and_keys_never_collide(ledger) -> None:
    one, two = limit("a", 1, unit=Unit.REQUESTS), limit("ab", 1, unit=Unit.REQUESTS)
    assert isinstance(take(ledger, "1", 1, hold(one, "bc")), Granted)
    assert isinstance(take(ledger, "2", 1, hold(two, "c")), Granted)
    assert isinstance(take(ledger, "3", 1, hold(one, "bc")), Denied)


def test_F63_asked_again_with_the_same_id_takes_nothing_more(ledger) -> None:
    only = limit("only", 100)
    assert isinstance(take(ledger, "a", 60, hold(only)), Granted)
    assert isinstance(take(ledger, "a", 60, hold(only)), Granted)
    assert ledger.peek([hold(only)], NOW)[0][1:3] == (0, 60)
    ledger.settle("a", amounts(10), NOW, {})
    with pytest.raises(ValueError, match="has ended"):
        take(ledger, "a", 60, hold(only))
    assert ledger.peek([hold(only)], NOW)[0][1:3] == (10, 0)


def test_a_renewed_reservation_may_hold_more_as_debt(ledger) -> None:
    only = limit("only", 100)
    take(ledger, "a", 60, hold(only))
    assert ledger.renew("a", NOW + 90_000, amounts(120))
    assert ledger.peek([hold(only)], NOW)[0][1:3] == (0, 120)
    assert ledger.renew("a", NOW + 90_000, NOTHING)
    assert not ledger.expire(NOW + 2_000)
    assert isinstance(take(ledger, "b", 1, hold(only), now=NOW + 2_000), Denied)
    ledger.settle("a", amounts(20), NOW + 3_000, {})
    assert not ledger.renew("a", NOW + 90_000, NOTHING)
    assert ledger.peek([hold(only)], NOW + 3_000)[0][1:3] == (20, 0)


def test_a_correction_takes_nothing_below_zero(ledger) -> None:
    only = limit("only", 100)
    take(ledger, "a", 60, hold(only))
    ledger.settle("a", amounts(50), NOW, {})
    take(ledger, "b", 20, hold(only), now=NOW + 5_000)
    assert ledger.correct(only, "", -40, NOW + 5_000, {})
    assert not ledger.correct(only, "", -40, NOW + 5_000, {})
    assert ledger.peek([hold(only)], NOW + 5_000)[0][1:3] == (10, 20)
    assert ledger.correct(only, "", 70, NOW + 5_000, {})
    assert ledger.peek([hold(only)], NOW + 5_000)[0][1:3] == (80, 20)
    assert isinstance(take(ledger, "c", 1, hold(only), now=NOW + 5_000), Denied)


def test_F71_a_reservation_belongs_to_the_window_in_which_it_was_made(ledger) -> None:
    """31 January, 23:59:59 UTC: what it costs is January's, also when it ends in February."""
    monthly = limit("monthly", 100, "monthly")
    january = 1_769_903_999_000
    take(ledger, "a", 90, hold(monthly), now=january)
    assert isinstance(take(ledger, "b", 20, hold(monthly), now=january), Denied)
    february = january + 2_000
    assert isinstance(take(ledger, "c", 20, hold(monthly), now=february), Granted)
    ledger.settle("a", amounts(500), february, {})
    assert ledger.peek([hold(monthly)], february)[0][1:3] == (0, 20)


def test_a_sliding_window_forgets_slot_by_slot(ledger) -> None:
    only = limit("only", 100, "1m")
    for second in range(10):
        take(ledger, f"r{second}", 10, hold(only), now=NOW + second * 1_000)
    full = take(ledger, "x", 15, hold(only), now=NOW + 10_000)
    assert isinstance(full, Denied)
    assert isinstance(take(ledger, "y", 15, hold(only), now=NOW + 61_000), Denied)
    assert isinstance(take(ledger, "z", 15, hold(only), now=NOW + 62_000), Granted)
    assert ledger.peek([hold(only)], NOW + 62_000)[0].reserved == 95
    assert ledger.peek([hold(only)], NOW + 500_000)[0][1:3] == (0, 0)


def test_a_watched_counter_refuses_nobody(ledger) -> None:
    shadow, enforced = limit("shadow", 1), limit("enforced", 100)
    watched = Hold(shadow, "", NO_CEILING)
    for name in "ab":
        assert isinstance(take(ledger, name, 40, watched, hold(enforced)), Granted)
    assert ledger.peek([watched], NOW)[0].reserved == 80


def test_F72_amounts_stay_whole_up_to_the_largest(ledger) -> None:
    only = limit("only", 2**53 - 1)
    largest = (1, 2**53 - 2, 0, 0, 0, 0)
    account = Account([hold(only)], {})
    assert isinstance(ledger.reserve("a", account, largest, NOW, NOW + 1000), Granted)
    assert isinstance(ledger.reserve("b", account, (1, 2, 0, 0, 0, 0), NOW, NOW + 9), Denied)
    assert isinstance(ledger.reserve("c", account, (1, 1, 0, 0, 0, 0), NOW, NOW + 9), Granted)
    ledger.settle("a", (1, 10**15 + 1, 0, 0, 0, 0), NOW, {})
    assert ledger.peek([hold(only)], NOW)[0][1:3] == (10**15 + 1, 1)


# -- against the reference ------------------------------------------------------------------------

LIMITS = (
    limit("sliding", 100, "1m"),
    limit("requests", 4, "30s", Unit.REQUESTS),
    limit("money", 1_500, "daily", Unit.MICRO_USD),
)


class Comparison(RuleBasedStateMachine):
    """All ledgers do the same, step by step, and over crashes."""

    server: RedisServer

    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.reference = MemoryLedger()
        self.ledger = EmbeddedLedger(Journal(Path(self.folder.name), 2_000))
        self.redis = SteppedRedis(self.server, Path(self.folder.name) / "r", next(namespaces))
        self.now = NOW
        self.names: list[str] = []
        self.made = 0
        self.accounts: dict[tuple[Hold, ...], Account] = {}
        self.shared_accounts: dict[tuple[Hold, ...], Account] = {}
        self.overrun = False

    @rule(
        tokens=st.integers(0, 60),
        picked=st.sets(st.sampled_from(LIMITS), min_size=1),
        user=st.sampled_from("ab"),
    )
    def reserve(self, tokens: int, picked: set[Limit], user: str) -> None:
        self.made += 1
        name = f"r{self.made}"
        holds = [hold(each, user) for each in sorted(picked, key=lambda each: each.key)]
        lease = self.now + 20_000
        # As in the gateway, requests of one kind share one account, also after counters were
        # forgotten and after a crash.
        account = self.accounts.setdefault(tuple(holds), Account(holds, {}))
        one = self.reference.reserve(name, account, amounts(tokens), self.now, lease)
        for ledger, made in ((self.ledger, account), (self.redis, self.shared(holds))):
            two = ledger.reserve(name, made, amounts(tokens), self.now, lease)
            assert type(one) is type(two)
            if isinstance(one, Denied) and isinstance(two, Denied):
                assert [s[:3] for s in one.standings] == [s[:3] for s in two.standings]
        if isinstance(one, Granted):
            self.names.append(name)

    def shared(self, holds: list[Hold]) -> Account:
        """A store keeps its own memo in an account: each ledger has accounts of its own."""
        return self.shared_accounts.setdefault(tuple(holds), Account(holds, {}))

    @rule(data=st.data(), tokens=st.integers(0, 80))
    def settle(self, data: st.DataObject, tokens: int) -> None:
        if self.names:
            name = data.draw(st.sampled_from(self.names))
            one = self.reference.settle(name, amounts(tokens), self.now, {})
            assert one == self.ledger.settle(name, amounts(tokens), self.now, {})
            assert one == self.redis.settle(name, amounts(tokens), self.now, {})
            self.overrun = True

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        if self.names:
            name = data.draw(st.sampled_from(self.names))
            one = self.reference.release(name, self.now, "") is None
            assert one == (self.ledger.release(name, self.now, "") is None)
            assert one == (self.redis.release(name, self.now, "") is None)

    @rule(data=st.data(), tokens=st.integers(0, 80))
    def renew(self, data: st.DataObject, tokens: int) -> None:
        if self.names:
            name = data.draw(st.sampled_from(self.names))
            lease = self.now + 20_000
            one = self.reference.renew(name, lease, amounts(tokens))
            assert one == self.ledger.renew(name, lease, amounts(tokens))
            assert one == self.redis.renew(name, lease, amounts(tokens))
            self.overrun = True

    @rule(which=st.sampled_from(LIMITS), user=st.sampled_from("ab"), amount=st.integers(0, 40))
    def correct(self, which: Limit, user: str, amount: int) -> None:
        one = self.reference.correct(which, user, amount, self.now, {})
        assert one == self.ledger.correct(which, user, amount, self.now, {})
        assert one == self.redis.correct(which, user, amount, self.now, {})
        self.overrun = True

    @rule(milliseconds=st.integers(0, 25_000))
    def time_passes(self, milliseconds: int) -> None:
        self.now += milliseconds
        one = {ended.reservation_id for ended in self.reference.expire(self.now)}
        for ledger in (self.ledger, self.redis):
            assert one == {ended.reservation_id for ended in ledger.expire(self.now)}
            ledger.tend(self.now)

    @rule()
    def crash(self) -> None:
        self.ledger.flush()
        os.close(self.ledger._journal._lock)
        self.ledger = EmbeddedLedger(Journal(Path(self.folder.name), 2_000))
        self.redis.crash()
        # What had ended is history after a crash: nobody is left to settle it again.
        self.names = [name for name in self.names if name in self.ledger._open]

    @invariant()
    def the_same_counters(self) -> None:
        if not hasattr(self, "ledger"):
            return
        for each in LIMITS:
            for user in "ab":
                one = self.reference.used(hold(each, user), self.now)
                held = self.reference.peek([hold(each, user)], self.now)[0][1:3]
                assert self.ledger.peek([hold(each, user)], self.now)[0][1:3] == held
                assert self.redis.peek([hold(each, user)], self.now)[0][1:3] == held
                if not self.overrun:
                    assert one <= each.ceiling

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            self.ledger.close()
            self.redis.close()
            self.folder.cleanup()


@pytest.fixture(scope="module")
def comparison(server: RedisServer) -> type[Comparison]:
    Comparison.server = server
    return Comparison


def test_all_ledgers_agree_step_by_step(comparison: type[Comparison]) -> None:
    run_state_machine_as_test(
        comparison, settings=settings(max_examples=40, stateful_step_count=30, deadline=None)
    )
