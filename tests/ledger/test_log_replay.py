"""Planted faults: each is found, at the entry that breaks the rule. And a ledger that is wrong in
some way writes a log that convicts it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from usage_logs import NOW, account, amounts, limit, records, rewrite, verified

import extproc
from extproc.ledger.embedded import EmbeddedLedger
from extproc.ledger.journal import Journal
from extproc.ledger.port import Granted
from extproc.ledger.usage_log import LogDamagedError
from extproc.values.limit import NO_CEILING, Unit

DOLLAR = limit("dollar", 1_000_000, "monthly", Unit.MICRO_USD)
TOKENS = limit("tokens", 10**9)
MINUTE_MS = 60_000


def write(folder: Path, *, segment_bytes: int = 2_500, requests: int = 60) -> EmbeddedLedger:
    """A log of several segments with every kind of end in it. The ledger is still open."""
    ledger = EmbeddedLedger(Journal(folder, segment_bytes))
    both = account(DOLLAR, TOKENS, value="p1")
    for n in range(requests):
        now = NOW + n * 1_000
        granted = ledger.reserve(f"r{n}", both, amounts(500), now, now + MINUTE_MS)
        assert isinstance(granted, Granted)
        if n % 5 == 0:
            ledger.release(f"r{n}", now + 5, "status 500")
        elif n % 5 == 1:
            ledger.settle(f"r{n}", amounts(500), now + 5, {"without_usage": 0})
        elif n % 5 != 2:
            ledger.settle(f"r{n}", amounts(400), now + 5, {"usage": [400, 0]})
        ledger.expire(now)
        ledger.tend(now)
        ledger.flush()
    return ledger


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path).close()
    return tmp_path


def found(folder: Path) -> LogDamagedError:
    with pytest.raises(LogDamagedError) as caught:
        verified(folder)
    return caught.value


def place(content: list[list[Any]], kind: str, skip: int = 0) -> int:
    """Where the record of a kind stands, from 0."""
    return [at for at, record in enumerate(content) if record[0] == kind][skip]


def test_a_sound_log_is_proven(folder: Path) -> None:
    report = verified(folder)
    assert report.reserved == 60
    assert report.settled + report.released + report.open + report.expired == 60
    assert report.unproven == []
    assert report.debts == []
    peak = report.peaks["dollar"]
    assert (peak.ceiling, peak.unit) == (1_000_000, "micro-USD")
    assert 200_000 < peak.highest <= 1_000_000
    assert len(list(folder.glob("*.log"))) > 3


# -- planted faults -------------------------------------------------------------------------------

Edit = Callable[[list[list[Any]]], int]
"""Spoils the records of segment 1, and says which line is to be named, from 1."""


def settled_twice(content: list[list[Any]]) -> int:
    at = place(content, "s")
    content.insert(at + 3, content[at])
    return at + 4


def released_after_settled(content: list[list[Any]]) -> int:
    at = place(content, "s")
    content.insert(at + 1, ["l", content[at][1], content[at][2], [0] * 6, {}])
    return at + 2


def end_of_nothing(content: list[list[Any]]) -> int:
    at = place(content, "s")
    content[at][1] = "nobody"
    return at + 1


def name_used_twice(content: list[list[Any]]) -> int:
    at = place(content, "r", 2)
    content[at][1] = "r0"
    return at + 1


def released_at_a_price(content: list[list[Any]]) -> int:
    at = place(content, "l")
    content[at][3][Unit.MICRO_USD] = 1
    return at + 1


def charged_less_without_usage(content: list[list[Any]]) -> int:
    at = next(n for n, record in enumerate(content) if record[0] == "s" and record[1] == "r1")
    content[at][3][Unit.MICRO_USD] -= 1
    return at + 1


def negative_amount(content: list[list[Any]]) -> int:
    at = place(content, "s", 2)
    content[at][3][Unit.MICRO_USD] = -4_000
    return at + 1


def float_amount(content: list[list[Any]]) -> int:
    at = place(content, "s", 2)
    content[at][3][Unit.MICRO_USD] = 4_000.0
    return at + 1


def true_amount(content: list[list[Any]]) -> int:
    at = place(content, "r", 2)
    content[at][4][0] = True
    return at + 1


def above_2_53(content: list[list[Any]]) -> int:
    at = place(content, "r", 2)
    content[at][4][Unit.TOKENS] = 2**53
    return at + 1


def one_micro_usd_too_much(content: list[list[Any]]) -> int:
    """The ceiling in force was one micro-USD below what the last request of the segment needed."""
    used, highest, at = 0, 0, 0
    held = {}
    for number, record in enumerate(content):
        if record[0] == "r":
            held[record[1]] = record[4][Unit.MICRO_USD]
            used += held[record[1]]
            if used > highest:
                highest, at = used, number
        elif record[0] in "sl":
            used += record[3][Unit.MICRO_USD] - held[record[1]]
    for booking in (record for record in content if record[0] == "a"):
        assert booking[2][2] == 1_000_000
        booking[2][2] = highest - 1
    return at + 1


def negative_correction(content: list[list[Any]]) -> int:
    number = next(r[1] for r in content if r[0] == "c" and r[2] == "dollar")
    at = place(content, "l")
    content.insert(at + 1, ["k", number, content[at][2], -1, {"reason": "x"}])
    return at + 2


def lowered_hold(content: list[list[Any]]) -> int:
    at = place(content, "r", 2)
    content.insert(at + 1, ["b", "r2", content[at][3], [0] * 6])
    return at + 2


def unknown_kind(content: list[list[Any]]) -> int:
    content.insert(3, ["z"])
    return 4


def mangled(content: list[list[Any]]) -> int:
    at = place(content, "r")
    content[at] = content[at][:4]
    return at + 1


@pytest.mark.parametrize(
    "edit",
    [
        settled_twice, released_after_settled, end_of_nothing, name_used_twice,
        released_at_a_price, charged_less_without_usage, negative_amount, float_amount,
        true_amount, above_2_53, one_micro_usd_too_much, negative_correction, lowered_hold,
        unknown_kind, mangled,
    ],
)  # fmt: skip
def test_a_planted_fault_is_named_at_its_entry(folder: Path, edit: Edit) -> None:
    line = 0

    def plant(content: list[list[Any]]) -> None:
        nonlocal line
        line = edit(content)

    rewrite(folder, plant)
    assert found(folder).where == f"{folder}/usage-000001.log:{line}"


def test_an_admission_above_the_ceiling_says_what_was_expected_and_found(folder: Path) -> None:
    rewrite(folder, lambda content: one_micro_usd_too_much(content) and None)
    error = found(folder)
    assert error.what == "dollar p1: settled + reserved is above the ceiling"
    bound = int(error.expected.removeprefix("at most ").removesuffix(" micro-USD"))
    assert int(error.found) == bound + 1


def test_F64_a_missing_end_is_found_where_the_next_segment_disagrees(folder: Path) -> None:
    rewrite(folder, lambda content: content.pop(place(content, "s")) and None)
    error = found(folder)
    assert error.where.startswith(f"{folder}/usage-000002.log:")
    assert "add up to" in error.what


def test_F64_a_missing_end_is_found_in_the_last_segment_once_the_lease_is_long_over(
    tmp_path: Path,
) -> None:
    write(tmp_path, segment_bytes=10**9, requests=180).close()
    last = 0

    def plant(content: list[list[Any]]) -> None:
        nonlocal last
        content.pop(next(n for n, r in enumerate(content) if r[0] == "s" and r[1] == "r3"))
        ends = NOW + 3_000 + MINUTE_MS
        last = next(
            n for n, r in enumerate(content) if r[0] in "rsxl" and r[2] > ends + MINUTE_MS + 1_000
        )

    rewrite(tmp_path, plant)
    error = found(tmp_path)
    assert "r3 is open long after its lease" in error.what
    assert abs(int(error.where.rpartition(":")[2]) - 1 - last) <= 3


@pytest.mark.parametrize("kind", ["r", "s", "k", "c"])
def test_an_edited_amount_whose_checksum_was_made_to_fit_breaks_the_chain(
    tmp_path: Path, kind: str
) -> None:
    ledger = write(tmp_path)
    ledger.correct(DOLLAR, "p1", 7, NOW + MINUTE_MS, {"reason": "mispriced"})
    ledger.release("r57", NOW + MINUTE_MS, "")
    ledger.close()
    newest = sorted(tmp_path.glob("*.log"))[-1]
    segment = int(newest.stem[-6:])
    line = 0

    def plant(content: list[list[Any]]) -> None:
        nonlocal line
        at = place(content, kind)
        line = at + 1
        if kind == "k":
            content[at][3] -= 1
        elif kind == "c":
            content[at][6][-1][1] += 1
        else:
            content[at][4 if kind == "r" else 3][Unit.MICRO_USD] -= 1

    count = len(records(newest))
    rewrite(tmp_path, plant, segment, chain=False)
    error = found(tmp_path)
    # The line itself is sound; the next one is not, unless nothing follows yet.
    named = int(error.where.rpartition(":")[2])
    assert named in ((line, line + 1) if line < count else (line,))


def test_an_edited_amount_with_all_checksums_made_to_fit_is_found_at_the_next_declaration(
    folder: Path,
) -> None:
    def plant(content: list[list[Any]]) -> None:
        at = next(n for n, r in enumerate(content) if r[0] == "s" and r[1] == "r3")
        content[at][3][Unit.MICRO_USD] -= 1

    rewrite(folder, plant)
    error = found(folder)
    assert error.where.startswith(f"{folder}/usage-000002.log:")
    assert "dollar p1: declared otherwise" in error.what


def test_a_dropped_segment_is_found(folder: Path) -> None:
    (folder / "usage-000002.log").unlink()
    error = found(folder)
    assert (error.where, error.what) == (f"{folder}/usage-000003.log", "a segment is missing")


def test_a_dropped_segment_is_found_when_the_others_were_renumbered(folder: Path) -> None:
    (folder / "usage-000002.log").unlink()
    for path in sorted(folder.glob("*.log"))[1:]:
        number = int(path.stem[-6:])
        path.rename(folder / f"usage-{number - 1:06d}.log")
    error = found(folder)
    assert error.where == f"{folder}/usage-000002.log:1"
    assert "does not go on" in error.what


def test_a_log_whose_beginning_is_gone_is_proven_from_there_and_says_so(folder: Path) -> None:
    (folder / "usage-000001.log").unlink()
    report = verified(folder)
    assert report.on_trust > 0
    assert report.unproven == [f"{folder}/usage-000002.log: what was before it is taken as it is "
                               "declared"]  # fmt: skip


# -- ledgers that are wrong -----------------------------------------------------------------------


def test_a_ledger_that_admits_too_much_is_convicted(tmp_path: Path) -> None:
    ledger = EmbeddedLedger(Journal(tmp_path))
    small = account(limit("small", 1_000))
    ledger.reserve("a", small, amounts(900), NOW, NOW + MINUTE_MS)
    booking = small.memo
    booking.entries = [(c, unit, NO_CEILING, shown) for c, unit, _, shown in booking.entries]
    assert isinstance(ledger.reserve("b", small, amounts(101), NOW, NOW + MINUTE_MS), Granted)
    ledger.close()
    error = found(tmp_path)
    assert records(tmp_path / "usage-000001.log")[int(error.where.rpartition(":")[2]) - 1][1] == "b"
    assert (error.expected, error.found) == ("at most 1000 tokens", "1001")


WRONG = {
    "a release gives nothing back": (
        "books.py", "change = amounts[unit] - held[unit]", "change = 0"),
    "what is settled is counted one too low": (
        "books.py", "cell.amount += change", "cell.amount += change - 1"),
    "a released reservation stays reserved": (
        "books.py", "cell.reserved -= held[unit]", "cell.reserved -= amounts[unit]"),
    "usage is forgotten a slot too early": (
        "counter.py", "cells[0].slot < oldest:", "cells[0].slot < slot:"),
    "a hold is raised without being counted": (
        "books.py", "cell.reserved += change", "pass"),
    "a reservation's end is not written": (
        "embedded.py", "self._journal.append([kind, reservation_id, now_ms, amounts, about])",
        "kind == 'l' or self._journal.append([kind, reservation_id, now_ms, amounts, about])"),
    "a correction is counted twice": (
        "embedded.py", "counter.correct(amount)", "counter.correct(amount * 2)"),
    "an edited window starts afresh": (
        "counter.py", "self.cell = Cell(slot, total, reserved, len(self.edits))",
        "self.cell = Cell(slot, 0, 0, len(self.edits)); self.total = 0"),
    "a renamed rule starts afresh": (
        "counter.py", "mine.amount += cell.amount", "mine.amount += 0"),
}  # fmt: skip
"""Ways to be wrong: a module of the ledger, a piece of its text, and what stands there instead."""

CHILD = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from test_log_replay import everything
everything(Path(sys.argv[1]))
"""


def everything(folder: Path) -> None:
    """Every kind of change, and segments behind them."""
    ledger = write(folder, requests=30)
    day = limit("tokens", 10**9, "daily")
    new = limit("new", 10**9, "daily", renamed_from="tokens")
    for n in range(30, 130):
        now = NOW + n * 1_000
        third = TOKENS if n < 60 else day if n < 90 else new
        name = f"r{n}"
        ledger.reserve(name, account(third, value="p1"), amounts(5), now, now + MINUTE_MS)
        if n % 4 == 0:
            ledger.renew(name, now + MINUTE_MS, amounts(9))
        if n % 10 == 3:
            ledger.correct(third, "p1", 3, now, {"reason": "mispriced"})
        if n % 3:
            ledger.settle(name, amounts(4), now + 5, {"usage": [4, 0]})
        else:
            ledger.release(name, now + 5, "status 500")
        ledger.expire(now)
        ledger.tend(now)
        ledger.flush()
    ledger.close()


def test_a_ledger_that_is_right_is_not_convicted(tmp_path: Path) -> None:
    everything(tmp_path)
    report = verified(tmp_path)
    assert (report.correction_count, report.adopted) == (10, 1)


@pytest.mark.parametrize("wrong", WRONG)
def test_a_ledger_that_counts_wrongly_is_convicted_by_its_log(tmp_path: Path, wrong: str) -> None:
    # In a copy of the sources, so that it is the same where the ledger itself is compiled.
    module, text, instead = WRONG[wrong]
    copy = tmp_path / "copy"
    shutil.copytree(
        Path(extproc.__file__).parent, copy / "extproc", ignore=shutil.ignore_patterns("*.so")
    )
    path = copy / "extproc" / "ledger" / module
    assert text in path.read_text()
    path.write_text(path.read_text().replace(text, instead))
    tests = Path(__file__).parents[1]
    paths = [str(copy), str(tests / "support"), str(tests / "ledger")]
    subprocess.run([sys.executable, "-c", CHILD, str(tmp_path / "log"), *paths], check=True)
    words = "add up to|is negative|out of range|is said to be declared"
    assert re.search(words, found(tmp_path / "log").what)


def test_a_ledger_that_charges_expired_reservations_nothing_is_convicted(tmp_path: Path) -> None:
    ledger = EmbeddedLedger(Journal(tmp_path))
    ledger.reserve("a", account(DOLLAR), amounts(5), NOW, NOW + 1)
    ledger._end("a", "x", amounts(0), NOW + 1, {})
    ledger.close()
    assert found(tmp_path).what == "an expired reservation is charged in full"


def test_an_overrun_is_debt_and_listed_with_its_entry(tmp_path: Path) -> None:
    ledger = EmbeddedLedger(Journal(tmp_path))
    small = account(limit("small", 1_000), value="u1")
    ledger.reserve("a", small, amounts(900), NOW, NOW + MINUTE_MS)
    ledger.settle("a", amounts(1_250), NOW, {"usage": [1_250, 0]})
    ledger.close()
    (debt,) = verified(tmp_path).debts
    assert (debt.limit, debt.scope_value, debt.amount, debt.unit) == ("small", "u1", 250, "tokens")
    record = records(tmp_path / "usage-000001.log")[int(debt.where.rpartition(":")[2]) - 1]
    assert record[:2] == ["s", "a"]


def test_a_clock_that_steps_back_over_a_restart_breaks_nothing(tmp_path: Path) -> None:
    write(tmp_path, requests=10).close()
    ledger = EmbeddedLedger(Journal(tmp_path))
    earlier = NOW - 3_600_000
    ledger.reserve("b", account(TOKENS, value="p1"), amounts(5), earlier, earlier + MINUTE_MS)
    ledger.close()
    EmbeddedLedger(Journal(tmp_path)).close()
    verified(tmp_path)
