"""What time and the policy's author do to usage: the reference and the embedded ledger alike."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from usage_logs import account, amounts, limit, verified

from extproc.ledger.embedded import EmbeddedLedger
from extproc.ledger.journal import Journal
from extproc.ledger.memory import MemoryLedger
from extproc.ledger.port import Account, Denied, Granted, Hold
from extproc.values.limit import NO_CEILING, Limit

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


def ms(*parts: int) -> int:
    return int(datetime(*parts, tzinfo=UTC).timestamp() * 1000)


NOW = ms(2026, 9, 21, 13)


class Subject:
    """One of the two ledgers, asked in few words."""

    def __init__(self, ledger) -> None:
        self.ledger = ledger
        self.made = 0

    def take(self, tokens: int, *limits: Limit, now: int = NOW, value: str = "") -> str:
        """The name of the reservation; empty when it was refused."""
        return self.book(tokens, account(*limits, value=value), now)

    def book(self, tokens: int, booked: Account, now: int = NOW) -> str:
        self.made += 1
        name = f"r{self.made}"
        outcome = self.ledger.reserve(name, booked, amounts(tokens), now, now + 900_000)
        assert isinstance(outcome, Granted | Denied)
        return name if isinstance(outcome, Granted) else ""

    def used(self, limit: Limit, now: int = NOW, value: str = "") -> tuple[int, int]:
        (standing,) = self.ledger.peek([Hold(limit, value, NO_CEILING)], now)
        return standing.settled, standing.reserved


@pytest.fixture(params=["memory", "embedded"])
def subject(request: pytest.FixtureRequest, tmp_path: Path):
    if request.param == "memory":
        yield Subject(MemoryLedger())
        return
    ledger = EmbeddedLedger(Journal(tmp_path))
    yield Subject(ledger)
    ledger.close()
    verified(tmp_path)


# -- time -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("zone", "last", "first"),
    [
        ("UTC", ms(2026, 9, 30, 23, 59), ms(2026, 10, 1)),
        ("Asia/Kathmandu", ms(2026, 9, 30, 18, 14), ms(2026, 9, 30, 18, 15)),
        ("America/Santiago", ms(2026, 9, 30, 23, 59), ms(2026, 10, 1, 3)),
        ("UTC", ms(2026, 1, 31, 23, 59), ms(2026, 2, 1)),
        ("UTC", ms(2028, 2, 29, 23, 59), ms(2028, 3, 1)),
    ],
)
def test_F71_what_was_reserved_before_midnight_is_settled_in_the_month_before(
    subject: Subject, zone: str, last: int, first: int
) -> None:
    month = limit("a", 100, "monthly", zone=zone)
    name = subject.take(80, month, now=last)
    assert not subject.take(21, month, now=last)
    assert subject.used(month, first) == (0, 0)
    other = subject.take(100, month, now=first)
    assert other
    subject.ledger.settle(name, amounts(95), first + 5, {"usage": [95, 0]})
    assert subject.used(month, first + 6) == (0, 100)
    subject.ledger.settle(other, amounts(60), first + 7, {"usage": [60, 0]})
    assert subject.used(month, first + 8) == (60, 0)


@pytest.mark.parametrize(
    ("zone", "midnight", "hours"),
    [
        ("Europe/Berlin", ms(2026, 3, 28, 23), 23),
        ("Europe/Berlin", ms(2026, 10, 24, 22), 25),
        ("Australia/Lord_Howe", ms(2026, 10, 3, 13, 30), 23.5),
        ("America/Santiago", ms(2026, 9, 6, 4), 23),
    ],
)
def test_F71_a_daily_budget_lasts_as_long_as_its_day(
    subject: Subject, zone: str, midnight: int, hours: float
) -> None:
    day = limit("a", 100, "daily", zone=zone)
    assert subject.take(100, day, now=midnight)
    end = midnight + int(hours * HOUR_MS)
    assert not subject.take(1, day, now=end - 1)
    assert subject.take(100, day, now=end)


@pytest.mark.parametrize("window", ["1h", "daily", "monthly"])
def test_F71_a_clock_that_is_set_back_an_hour_opens_no_window_again(
    subject: Subject, window: str
) -> None:
    each = limit("a", 100, window)
    start = ms(2026, 10, 1)
    assert subject.take(40, each, now=start - 1)
    assert subject.take(60, each, now=start)
    before = sum(subject.used(each, start))
    back = start - HOUR_MS
    assert not subject.take(101 - before, each, now=back)
    assert sum(subject.used(each, back)) == before
    assert subject.take(100 - before, each, now=back) or before == 100


# -- the policy's author --------------------------------------------------------------------------


def test_F78_a_lower_ceiling_admits_nothing_and_loses_nothing(subject: Subject) -> None:
    name = subject.take(80, limit("a", 100))
    assert not subject.take(1, limit("a", 50))
    assert subject.used(limit("a", 50)) == (0, 80)
    subject.ledger.settle(name, amounts(49), NOW, {"usage": [49, 0]})
    assert subject.take(1, limit("a", 50))
    assert not subject.take(1, limit("a", 50))
    assert subject.take(50, limit("a", 100))


@pytest.mark.parametrize(
    ("before", "after"),
    [("1h", "1d"), ("1d", "1h"), ("1h", "daily"), ("daily", "1h"), ("daily", "monthly")],
)
def test_F78_an_edited_window_gives_nobody_a_fresh_allowance(
    subject: Subject, before: str, after: str
) -> None:
    assert subject.take(60, limit("a", 100, before))
    old = subject.take(40, limit("a", 100, before), now=NOW + 1)
    new = limit("a", 100, after)
    assert not subject.take(1, new, now=NOW + 2)
    subject.ledger.settle(old, amounts(10), NOW + 3, {"usage": [10, 0]})
    assert subject.used(new, NOW + 4) == (10, 60)
    assert subject.take(30, new, now=NOW + 5)
    assert not subject.take(1, new, now=NOW + 6)


def test_F78_an_edited_zone_keeps_what_counts(subject: Subject) -> None:
    assert subject.take(60, limit("a", 100, "daily"))
    there = limit("a", 100, "daily", zone="Pacific/Kiritimati")
    assert not subject.take(41, there, now=NOW + 1)
    assert subject.take(40, there, now=NOW + 1)
    # It is the 22nd there until 10:00 UTC of the 22nd.
    assert not subject.take(1, there, now=ms(2026, 9, 22, 9, 59))
    assert subject.take(100, there, now=ms(2026, 9, 22, 10))


def test_F78_what_had_left_the_window_before_the_edit_does_not_come_back(subject: Subject) -> None:
    name = subject.take(60, limit("a", 100, "1m"))
    later = NOW + 120_000
    day = limit("a", 100, "daily")
    assert subject.take(100, day, now=later)
    subject.ledger.settle(name, amounts(5), later, {"usage": [5, 0]})
    assert subject.used(day, later) == (0, 100)


def test_F78_a_renamed_rule_takes_its_usage_along_for_every_scope_value(subject: Subject) -> None:
    old, new = limit("old", 100), limit("new", 100, renamed_from="old")
    names = [subject.take(70, old, value=value) for value in ("u1", "u2")]
    for value in ("u1", "u2"):
        assert subject.used(new, value=value) == (0, 70)
        assert not subject.take(31, new, value=value)
        assert subject.take(20, new, value=value)
    subject.ledger.settle(names[0], amounts(10), NOW, {"usage": [10, 0]})
    assert subject.used(new, value="u1") == (10, 20)
    assert subject.take(70, new, value="u1")


def test_F78_requests_of_the_policy_before_the_rename_count_with_the_others(
    subject: Subject,
) -> None:
    before = account(limit("old", 100))
    after = account(limit("new", 100, renamed_from="old"))
    assert subject.book(40, before)
    assert subject.book(40, after)
    assert not subject.book(21, before)
    assert subject.book(10, before)
    assert not subject.book(11, after)
    assert subject.book(10, after)
    assert not subject.book(1, before)


def test_F78_a_rename_with_another_window_keeps_what_counts(subject: Subject) -> None:
    assert subject.take(70, limit("old", 100, "1h"))
    new = limit("new", 100, "daily", renamed_from="old")
    assert not subject.take(31, new, now=NOW + 1)
    assert subject.take(30, new, now=NOW + 1)


def test_F78_renamed_there_and_back_again(subject: Subject) -> None:
    assert subject.take(50, limit("a", 100))
    assert subject.take(20, limit("b", 100, renamed_from="a"), now=NOW + 1)
    back = limit("a", 100, renamed_from="b")
    assert not subject.take(31, back, now=NOW + 2)
    assert subject.take(30, back, now=NOW + 2)
    assert subject.used(back, NOW + 3) == (0, 100)


def test_F78_both_names_with_usage_are_added_up(subject: Subject) -> None:
    assert subject.take(50, limit("a", 100))
    assert subject.take(30, limit("b", 100))
    assert not subject.take(21, limit("b", 100, renamed_from="a"))
    assert subject.take(20, limit("b", 100, renamed_from="a"))


def test_F78_a_rule_that_is_deleted_and_added_again_finds_its_usage(subject: Subject) -> None:
    assert subject.take(50, limit("a", 100), limit("other", 1_000))
    assert subject.take(50, limit("other", 1_000), now=NOW + 1)
    assert not subject.take(51, limit("a", 100), now=NOW + 2)


# -- what only the durable one can show -----------------------------------------------------------


def test_F78_a_rename_is_durable_and_happens_once(tmp_path: Path) -> None:
    new = limit("new", 100, renamed_from="old")
    ledger = EmbeddedLedger(Journal(tmp_path))
    subject = Subject(ledger)
    name = subject.take(70, limit("old", 100))
    subject.take(5, new)
    ledger.close()
    ledger = EmbeddedLedger(Journal(tmp_path))
    subject = Subject(ledger)
    subject.made = 100
    assert [key for key, *_ in ledger.counters()] == ["new"]
    assert subject.used(new) == (0, 75)
    ledger.settle(name, amounts(1), NOW, {"usage": [1, 0]})
    assert subject.used(new) == (1, 5)
    subject.take(1, new)
    assert subject.used(new) == (1, 6)
    ledger.close()
    assert verified(tmp_path).adopted == 1


def test_F78_old_counters_that_nobody_touches_do_not_linger(tmp_path: Path) -> None:
    ledger = EmbeddedLedger(Journal(tmp_path))
    subject = Subject(ledger)
    for n in range(50):
        subject.take(5, limit("old", 100), value=f"u{n}")
    subject.take(5, limit("new", 100, renamed_from="old"), value="u0")
    ledger.tend(NOW + 1)
    assert {key for key, *_ in ledger.counters()} == {"new"}
    # So a rule that takes the name of the first one over much later starts from nothing.
    later = NOW + 25 * 60_000
    ledger.tend(later)
    assert subject.take(100, limit("old", 100), value="u1", now=later)
    ledger.close()
    verified(tmp_path)


def test_F78_a_rename_with_a_segment_between_is_proven(tmp_path: Path) -> None:
    ledger = EmbeddedLedger(Journal(tmp_path, 400))
    subject = Subject(ledger)
    for n in range(40):
        name = subject.take(1, limit("old", 100), value="u", now=NOW + n)
        if n % 2:
            ledger.settle(name, amounts(1), NOW + n, {"usage": [1, 0]})
        ledger.flush()
        ledger.tend(NOW + n)
    assert len(list(tmp_path.glob("*.log"))) > 3
    assert not subject.take(61, limit("new", 100, renamed_from="old"), value="u", now=NOW + 50)
    assert subject.take(60, limit("new", 100, renamed_from="old"), value="u", now=NOW + 50)
    for n in range(60, 70):
        ledger.flush()
        ledger.tend(NOW + n)
    ledger.close()
    assert verified(tmp_path).peaks["new"].highest == 100
