"""The embedded ledger by itself: through crashes, and on a dying disk."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from ledger_words import NOW, amounts, hold, limit, take

from extproc.ledger.embedded import EmbeddedLedger
from extproc.ledger.journal import Journal, JournalCorruptError
from extproc.ledger.port import Account, Denied, Granted, LedgerUnavailableError

SUPPORT = Path(__file__).parents[1] / "support"


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


# -- durability -----------------------------------------------------------------------------------

CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from ledger_words import *
from extproc.ledger.embedded import EmbeddedLedger
from extproc.ledger.journal import Journal
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
        [sys.executable, "-c", CHILD, str(tmp_path), str(SUPPORT)],
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


def test_a_journal_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    ledger = EmbeddedLedger(Journal(tmp_path))
    assert ledger.state.condition == "ok"
    os.close(ledger._journal._file)
    take(ledger, "a", 5, hold(limit("all", 100, "daily")))
    with pytest.raises(LedgerUnavailableError):
        ledger.flush()
    assert (ledger.state.condition, ledger.state.reason) == ("closed", "journal")
    os.close(ledger._journal._lock)


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
