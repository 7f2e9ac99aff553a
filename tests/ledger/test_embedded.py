"""The embedded ledger against the reference, through crashes, and on a dying disk."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from extproc.ledger.embedded import EmbeddedLedger
from extproc.ledger.journal import Journal, JournalCorruptError
from extproc.ledger.memory import MemoryLedger
from extproc.ledger.port import Account, Denied, Granted, Hold, LedgerUnavailableError
from extproc.values.limit import Breach, BreachKind, Limit, Unit
from extproc.values.window import parse_window

NOW = 1_790_000_000_000
BLOCK = Breach(BreachKind.HARD_BLOCK)


def limit(key: str, ceiling: int, window: str = "1m", unit: Unit = Unit.TOKENS) -> Limit:
    return Limit(key, key, unit, ceiling, parse_window(window), (), BLOCK, fallback_ceiling=ceiling)


def hold(limit: Limit, value: str = "") -> Hold:
    return Hold(limit, value, limit.ceiling)


def amounts(tokens: int) -> tuple[int, int, int, int, int]:
    return (1, tokens, tokens, 0, tokens * 10, tokens * 10)


@pytest.fixture(params=["memory", "embedded"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path):
    return MemoryLedger() if request.param == "memory" else EmbeddedLedger(Journal(tmp_path))


def take(ledger, name: str, tokens: int, *holds: Hold, now: int = NOW):
    return ledger.reserve(name, Account(holds, {}), amounts(tokens), now, now + 1000)


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


def test_a_late_charge_counts_in_a_counter_that_was_forgotten_and_opened_again(
    tmp_path: Path,
) -> None:
    ledger = EmbeddedLedger(Journal(tmp_path))
    only = limit("only", 100, "30s")
    take(ledger, "a", 5, hold(only))
    ledger.release("a", NOW, "")
    ledger.tend(NOW)
    later = NOW + 5_000  # another slot of the window
    take(ledger, "b", 7, hold(only), now=later)
    assert ledger.settle("a", amounts(20), later, {}).late
    assert ledger.peek([hold(only)], later)[0].settled == 20
    # It leaves with the slot it belongs to.
    assert ledger.peek([hold(only)], NOW + 31_000)[0].settled == 0
    ledger.close()


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


# -- against the reference ------------------------------------------------------------------------

LIMITS = (
    limit("sliding", 100, "1m"),
    limit("requests", 4, "30s", Unit.REQUESTS),
    limit("money", 1_500, "daily", Unit.MICRO_USD),
)


class Comparison(RuleBasedStateMachine):
    """Both ledgers do the same, step by step, and over crashes."""

    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.reference = MemoryLedger()
        self.ledger = EmbeddedLedger(Journal(Path(self.folder.name), 2_000))
        self.now = NOW
        self.names: list[str] = []
        self.made = 0
        self.accounts: dict[tuple[Hold, ...], Account] = {}
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
        two = self.ledger.reserve(name, account, amounts(tokens), self.now, lease)
        assert type(one) is type(two)
        if isinstance(one, Denied) and isinstance(two, Denied):
            assert [s[:3] for s in one.standings] == [s[:3] for s in two.standings]
        else:
            self.names.append(name)

    @rule(data=st.data(), tokens=st.integers(0, 80))
    def settle(self, data: st.DataObject, tokens: int) -> None:
        if self.names:
            name = data.draw(st.sampled_from(self.names))
            one = self.reference.settle(name, amounts(tokens), self.now, {})
            assert one == self.ledger.settle(name, amounts(tokens), self.now, {})
            self.overrun = True

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        if self.names:
            name = data.draw(st.sampled_from(self.names))
            assert (self.reference.release(name, self.now, "") is None) == (
                self.ledger.release(name, self.now, "") is None
            )

    @rule(milliseconds=st.integers(0, 25_000))
    def time_passes(self, milliseconds: int) -> None:
        self.now += milliseconds
        one = {ended.reservation_id for ended in self.reference.expire(self.now)}
        assert one == {ended.reservation_id for ended in self.ledger.expire(self.now)}
        self.ledger.tend(self.now)

    @rule()
    def crash(self) -> None:
        self.ledger.flush()
        os.close(self.ledger._journal._lock)
        self.ledger = EmbeddedLedger(Journal(Path(self.folder.name), 2_000))
        # What had ended is history after a crash: nobody is left to settle it again.
        self.names = [name for name in self.names if name in self.ledger._open]

    @invariant()
    def the_same_counters(self) -> None:
        if not hasattr(self, "ledger"):
            return
        for each in LIMITS:
            for user in "ab":
                one = self.reference.used(hold(each, user), self.now)
                standing = self.ledger.peek([hold(each, user)], self.now)[0]
                assert standing.settled + standing.reserved == one
                if not self.overrun:
                    assert one <= each.ceiling

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            self.ledger.close()
            self.folder.cleanup()


TestComparison = Comparison.TestCase
TestComparison.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


# -- durability -----------------------------------------------------------------------------------

CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_embedded import *
ledger = EmbeddedLedger(Journal(Path(sys.argv[1])))
for n in range(1_000_000):
    take(ledger, f"r{n}", 1, hold(limit("all", 10**9, "daily")))
    if n % 3 == 0:
        ledger.settle(f"r{n}", amounts(2), NOW, {})
    ledger.flush()
    print(n, flush=True)
"""


def test_F66_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path), str(Path(__file__).parent)],
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    for line in child.stdout:
        if int(line) >= 500:
            break
    child.send_signal(signal.SIGKILL)
    rest = child.stdout.read().split()
    child.wait()
    last = int(rest[-1]) if rest else 500
    ledger = EmbeddedLedger(Journal(tmp_path))
    standing = ledger.peek([hold(limit("all", 10**9, "daily"))], NOW)[0]
    settled = 2 * (last // 3 + 1)
    assert settled <= standing.settled <= settled + 2
    assert last + 1 - (last // 3 + 1) <= standing.reserved
    ledger.close()


def test_F66_a_segment_is_marked_complete_only_when_it_is_written(
    tmp_path: Path, monkeypatch
) -> None:
    ledger = EmbeddedLedger(Journal(tmp_path / "living", 1_000))
    only = limit("only", 1_000_000, "1h")
    crashed: list[Path] = []
    touch = Path.touch

    def dies_after_touch(path: Path) -> None:
        touch(path)
        crashed.append(tmp_path / f"crashed-{len(crashed)}")
        shutil.copytree(tmp_path / "living", crashed[-1])

    monkeypatch.setattr(Path, "touch", dies_after_touch)
    for number in range(40):
        take(ledger, f"r{number}", 7, hold(only))
        ledger.flush()
        ledger.tend(NOW)
    assert len(crashed) > 1
    for folder in crashed[-2:]:
        # What a process leaves that dies right after the marker: nothing that was counted is lost.
        again = EmbeddedLedger(Journal(folder))
        standing = again.peek([hold(only)], NOW)[0]
        assert standing.reserved == 7 * again.open_count > 0
        again.close()
    ledger.close()


def test_F66_a_forgotten_counter_is_not_declared_over_its_successor(tmp_path: Path) -> None:
    ledger = EmbeddedLedger(Journal(tmp_path, 300))
    only = limit("only", 100, "30s")
    ledger.reserve("old", Account([hold(only)], {}), amounts(5), NOW, NOW + 900_000)
    later = NOW + 40_000  # its slot has left the window, so its counter is empty and forgotten
    ledger.tend(later)
    take(ledger, "new", 70, hold(only), now=later)
    for _ in range(4):
        ledger.renew("old", NOW + 900_000)
        ledger.flush()
        ledger.tend(later)
    ledger.close()
    again = EmbeddedLedger(Journal(tmp_path))
    assert again.open_count == 2
    assert again.peek([hold(only)], later)[0].reserved == 70
    again.close()


def test_a_torn_last_record_is_cut_off(tmp_path: Path) -> None:
    ledger = EmbeddedLedger(Journal(tmp_path))
    take(ledger, "a", 5, hold(limit("all", 100, "daily")))
    ledger.close()
    newest = sorted(tmp_path.glob("*.log"))[-1]
    with newest.open("ab") as file:
        file.write(b'12345678 ["r","torn"')
    ledger = EmbeddedLedger(Journal(tmp_path))
    assert ledger.peek([hold(limit("all", 100, "daily"))], NOW)[0].reserved == 5
    ledger.close()


def test_damage_in_the_middle_is_refused_with_file_and_line(tmp_path: Path) -> None:
    ledger = EmbeddedLedger(Journal(tmp_path))
    for n in range(5):
        take(ledger, str(n), 5, hold(limit("all", 100, "daily")))
    ledger.close()
    newest = sorted(tmp_path.glob("*.log"))[-1]
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    with pytest.raises(JournalCorruptError, match=r"usage-000001\.log:\d+"):
        EmbeddedLedger(Journal(tmp_path))


def test_two_processes_cannot_share_a_ledger(tmp_path: Path) -> None:
    ledger = EmbeddedLedger(Journal(tmp_path))
    with pytest.raises(LedgerUnavailableError, match="in use"):
        Journal(tmp_path)
    ledger.close()


def test_a_full_disk_admits_nothing_more(tmp_path: Path) -> None:
    ledger = EmbeddedLedger(Journal(tmp_path))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = sorted(tmp_path.glob("*.log"))[-1].stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, before[1]))
    try:
        take(ledger, "a", 5, hold(limit("all", 100, "daily")))
        with pytest.raises(LedgerUnavailableError):
            ledger.flush()
        with pytest.raises(LedgerUnavailableError):
            take(ledger, "b", 5, hold(limit("all", 100, "daily")))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_F44_without_a_file_for_the_next_segment_the_old_one_goes_on(
    tmp_path: Path, monkeypatch
) -> None:
    ledger = EmbeddedLedger(Journal(tmp_path, 300))
    only = limit("only", 1_000, "daily")

    def no_file(*_: object) -> int:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", no_file)
        for number in range(10):
            take(ledger, f"early {number}", 5, hold(only))
            ledger.flush()
            ledger.tend(NOW)
    take(ledger, "late", 5, hold(only))
    ledger.tend(NOW)
    ledger.close()
    assert len(list(tmp_path.glob("*.log"))) == 2
    ledger = EmbeddedLedger(Journal(tmp_path))
    assert ledger.peek([hold(only)], NOW)[0].reserved == 55
    ledger.close()


def test_F72_amounts_out_of_range_are_refused(tmp_path: Path) -> None:
    ledger = EmbeddedLedger(Journal(tmp_path))
    for wrong in (-1, 2**53):
        with pytest.raises(ValueError, match="out of range"):
            take(ledger, f"x{wrong}", wrong, hold(limit("all", 100)))
    ledger.close()


def test_F78_an_edited_window_gives_nobody_a_fresh_allowance(tmp_path: Path) -> None:
    ledger = EmbeddedLedger(Journal(tmp_path))
    take(ledger, "a", 60, hold(limit("all", 100, "1h")))
    take(ledger, "b", 30, hold(limit("all", 100, "1h")), now=NOW + 60_000)
    assert isinstance(
        take(ledger, "c", 20, hold(limit("all", 100, "1d")), now=NOW + 61_000), Denied
    )
    ledger.settle("a", amounts(10), NOW + 62_000, {})
    assert isinstance(
        take(ledger, "d", 20, hold(limit("all", 100, "1d")), now=NOW + 63_000), Granted
    )
    ledger.close()


def test_a_hundred_thousand_sessions_leave_nothing_behind(tmp_path: Path) -> None:
    ledger = EmbeddedLedger(Journal(tmp_path))
    each = limit("session", 1000, "1s")
    for n in range(100_000):
        now = NOW + n
        take(ledger, str(n), 1, hold(each, f"s{n}"), now=now)
        ledger.settle(str(n), amounts(1), now, {})
        if n % 1_000 == 0:
            ledger.flush()
            ledger.tend(now)
    for n in range(60):
        ledger.tend(NOW + 200_000 + n)
    assert list(ledger.counters()) == []
    ledger.close()
