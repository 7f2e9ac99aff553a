"""Sidecars of one store: each proves its own part, and together they prove the ceiling."""

from __future__ import annotations

from pathlib import Path

import pytest
from usage_logs import NOW, account, amounts, limit, verified

from extproc.ledger.embedded import EmbeddedLedger
from extproc.ledger.journal import Journal
from extproc.ledger.usage_log import LogDamagedError, UsageLog

SHARED = limit("shared", 100)
LEASE = NOW + 900_000


class Sidecar:
    """One sidecar's part of a store that judges elsewhere."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ledger = EmbeddedLedger(Journal(folder, arbiter="redis"))
        self.account = account(SHARED, value="p")

    def book(self, name: str, tokens: int, at: int) -> None:
        self.ledger.book(name, self.account, amounts(tokens), NOW + at, LEASE)
        self.ledger.flush()

    def settle(self, name: str, tokens: int, at: int) -> None:
        self.ledger.settle(name, amounts(tokens), NOW + at, {"usage": [tokens, 0]})
        self.ledger.flush()


@pytest.fixture
def sidecars(tmp_path: Path) -> list[Sidecar]:
    return [Sidecar(tmp_path / name) for name in "ab"]


def test_what_another_store_granted_is_booked_whatever_this_part_holds(tmp_path: Path) -> None:
    one = Sidecar(tmp_path)
    one.book("a", 60, 0)
    one.book("a", 60, 0)
    one.book("b", 60, 1)  # this part alone is above the ceiling: not judged here
    assert one.ledger.open_count == 2
    one.settle("a", 10, 2)
    with pytest.raises(ValueError, match="has ended"):
        one.book("a", 60, 3)
    with pytest.raises(LogDamagedError, match="above the ceiling"):
        verified(tmp_path)


def test_each_part_is_below_the_ceiling_and_both_together_are_not(sidecars) -> None:
    one, two = sidecars
    one.book("a", 60, 0)
    two.book("b", 41, 10)
    assert verified(one.folder).reserved == verified(two.folder).reserved == 1
    with pytest.raises(LogDamagedError, match="shared p: settled") as caught:
        verified(one.folder, two.folder)
    assert caught.value.where.startswith(f"{two.folder}/")
    assert (caught.value.expected, caught.value.found) == ("at most 100 tokens", "101")


def test_room_that_one_sidecar_gives_back_is_another_sidecars(sidecars) -> None:
    one, two = sidecars
    one.book("a", 100, 0)
    one.settle("a", 10, 50)
    two.book("b", 90, 50)  # an end counts before what is granted in the same millisecond
    report = verified(one.folder, two.folder)
    assert report.peaks["shared"].highest == 100
    assert len(report.unproven) == 2
    assert all("sidecar's part of redis" in text for text in report.unproven)


def test_room_that_was_not_given_back_yet_is_nobodys(sidecars) -> None:
    one, two = sidecars
    one.book("a", 100, 0)
    two.book("b", 1, 20_000)
    one.settle("a", 10, 30_000)
    with pytest.raises(LogDamagedError, match="above the ceiling"):
        verified(one.folder, two.folder)


def test_debt_of_one_sidecar_is_not_held_against_another(sidecars) -> None:
    one, two = sidecars
    one.book("a", 50, 0)
    one.settle("a", 90, 2_000)
    two.book("b", 50, 2_500)  # the store had not been told of the overrun yet
    report = verified(one.folder, two.folder)
    assert report.debt_count == 0  # it was below the ceiling when it was made
    two.book("c", 1, 2_600)
    with pytest.raises(LogDamagedError, match="above the ceiling"):
        verified(one.folder, two.folder)


def test_a_part_may_be_corrected_by_more_than_it_has(sidecars) -> None:
    one, two = sidecars
    one.book("a", 80, 0)
    one.settle("a", 80, 10)
    assert two.ledger.correct(SHARED, "p", -50, NOW + 20, {"reason": "mispriced"})
    two.ledger.flush()
    two.book("b", 70, 30)
    report = verified(one.folder, two.folder)
    assert report.correction_count == 1
    assert report.peaks["shared"].highest == 100
    two.ledger.close()
    again = EmbeddedLedger(Journal(two.folder, arbiter="redis"))
    assert sum(settled + reserved for *_, settled, reserved in again.counters()) == 20


def test_the_arbiter_is_read_from_the_log(sidecars, tmp_path: Path) -> None:
    sidecars[0].ledger.flush()
    assert UsageLog(sidecars[0].folder).arbiter == "redis"
    EmbeddedLedger(Journal(tmp_path / "own")).close()
    assert UsageLog(tmp_path / "own").arbiter == ""
