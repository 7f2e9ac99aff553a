"""Logs of the format before are taken over; logs of this one are replayed through every edit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from usage_logs import NOW, account, amounts, limit, records, rewrite, verified

from extproc.ledger.embedded import EmbeddedLedger
from extproc.ledger.journal import Journal, JournalCorruptError
from extproc.ledger.port import Denied, Hold
from extproc.ledger.usage_log import LogDamagedError, segments
from extproc.values.limit import Unit

FORMAT_1 = Path(__file__).parent / "usage_log_v1"
"""Written by the last program of format 1: 41 requests on two counters, one of whose windows was
edited, a correction, a raised hold. ``STANDINGS`` and ``OPEN`` are what that program said then."""
STANDINGS = {"tokens": (158, 157), "usd": (1_530, 1_570)}
OPEN = "r3 r7 r11 r15 r19 r23 r27 r30 r31 r34 r35 r38 r39 w1"
THEN = NOW + 70_000


@pytest.fixture
def upgraded(tmp_path: Path) -> Path:
    shutil.copytree(FORMAT_1, tmp_path / "ledger")
    return tmp_path / "ledger"


def test_a_log_of_format_1_is_taken_over_to_the_last_micro_usd(upgraded: Path) -> None:
    ledger = EmbeddedLedger(Journal(upgraded))
    for each in (limit("tokens", 1_000, "1d"), limit("usd", 10**5, "monthly", Unit.MICRO_USD)):
        standing = ledger.peek([Hold(each, "p1", each.ceiling)], THEN)[0]
        assert (standing.settled, standing.reserved) == STANDINGS[each.key]
    assert set(ledger._open) == set(OPEN.split())
    # The reservation from before the edit still counts in the edited counter when it ends.
    ledger.settle("r30", amounts(0), THEN, {})
    ledger.close()
    again = EmbeddedLedger(Journal(upgraded))
    assert "r30" not in again._open
    tokens = limit("tokens", 1_000, "1d")
    standing = again.peek([Hold(tokens, "p1", 0)], THEN)[0]
    assert standing.settled + standing.reserved == sum(STANDINGS["tokens"]) - 10
    again.close()


def test_what_format_1_cannot_prove_is_said_and_the_rest_is_proven(upgraded: Path) -> None:
    report = verified(upgraded)
    assert [text.partition(" ")[0] for text in report.unproven] == [f"{upgraded}/usage-000001.log"]
    ledger = EmbeddedLedger(Journal(upgraded))
    ledger.tend(THEN)
    usd = account(limit("usd", 10**5, "monthly", Unit.MICRO_USD), value="p1")
    ledger.reserve("new", usd, amounts(5), THEN, THEN + 1_000)
    ledger.close()
    newest = segments(upgraded)[-1]
    assert records(newest)[0][:2] == ["h", 2]
    report = verified(upgraded)
    assert report.reserved == 1
    assert report.on_trust > 0
    assert [str(newest) in text for text in report.unproven] == [False, True]
    newest.write_bytes(newest.read_bytes()[:-1] + b" \n")
    with pytest.raises(LogDamagedError, match=f"{newest.name}:"):
        verified(upgraded)


def test_a_log_of_a_later_program_is_refused(tmp_path: Path) -> None:
    EmbeddedLedger(Journal(tmp_path)).close()

    def later(content: list[list[object]]) -> None:
        content[0][1] = 3

    rewrite(tmp_path, later)
    with pytest.raises(JournalCorruptError, match="format 3"):
        EmbeddedLedger(Journal(tmp_path))


def test_F78_an_edit_of_the_window_survives_a_restart_with_its_open_reservations(
    tmp_path: Path,
) -> None:
    ledger = EmbeddedLedger(Journal(tmp_path))
    ledger.reserve("a", account(limit("all", 100, "1h")), amounts(60), NOW, NOW + 99_000)
    day = account(limit("all", 100, "daily"))
    ledger.reserve("b", day, amounts(10), NOW + 1, NOW + 99_000)
    ledger.flush()
    ledger.close()
    ledger = EmbeddedLedger(Journal(tmp_path))
    assert isinstance(ledger.reserve("c", day, amounts(31), NOW + 2, NOW + 99_000), Denied)
    ledger.settle("a", amounts(20), NOW + 3, {})
    standing = ledger.peek([Hold(limit("all", 100, "daily"), "", 100)], NOW + 4)[0]
    assert (standing.settled, standing.reserved) == (20, 10)
    ledger.close()
    verified(tmp_path)


def test_the_checksum_goes_on_over_a_restart_and_a_torn_line(tmp_path: Path) -> None:
    for n in range(3):
        ledger = EmbeddedLedger(Journal(tmp_path))
        ledger.reserve(f"r{n}", account(limit("all", 100)), amounts(1), NOW + n, NOW + 99_000)
        ledger.close()
        with segments(tmp_path)[-1].open("ab") as file:
            file.write(b'0123abcd ["r","torn"')
    assert verified(tmp_path).reserved == 3
    first = segments(tmp_path)[0]
    first.write_bytes(b"".join(first.read_bytes().splitlines(keepends=True)[:-1]))
    with pytest.raises(LogDamagedError, match=r"usage-000002\.log:1: .* does not go on"):
        verified(tmp_path)
