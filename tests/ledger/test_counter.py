"""Counters over edited windows: nothing that had left comes back, nothing that counts is lost."""

from __future__ import annotations

from usage_logs import NOW

from extproc.ledger.counter import Counter
from extproc.values.window import parse_window

MINUTE, DAY = parse_window("1m"), parse_window("daily")


def counter(window=MINUTE, amount: int = 0) -> Counter:
    made = Counter("a", "", window, NOW)
    made.cell.amount += amount
    made.total += amount
    return made


def test_what_had_left_before_an_edit_counts_no_more() -> None:
    one = counter(amount=5)
    taken = one.cell
    one.advance(NOW + 120_000)
    assert one.total == 0
    one.rewindow(DAY, NOW + 120_000)
    assert one.slot_now(taken.slot, taken.era) is None


def test_what_counted_at_two_edits_counts_where_the_last_one_put_it() -> None:
    one = counter(amount=5)
    taken = one.cell
    one.rewindow(DAY, NOW + 1)
    one.rewindow(MINUTE, NOW + 2)
    slot = one.slot_now(taken.slot, taken.era)
    assert slot == MINUTE.slot(NOW + 2)
    assert one.cell_at(slot) is one.cell
    assert (one.total, one.cell.amount) == (5, 5)


def test_a_counter_takes_over_another_slot_by_slot() -> None:
    old, new = counter(amount=5), counter(amount=1)
    old.advance(NOW + 30_000)
    old.cell.amount += 2
    old.total += 2
    new.absorb(old, NOW + 40_000)
    assert (new.total, old.total) == (8, 0)
    new.advance(NOW + 61_000 + MINUTE.slot_ms)
    assert new.total == 2
    assert old.successor == (new, 0)


def test_a_counter_of_another_window_is_taken_over_from_now_on() -> None:
    old, new = counter(MINUTE, 5), counter(DAY, 1)
    new.absorb(old, NOW + 40_000)
    assert new.total == 6
    assert [cell.slot for cell in new.cells] == [DAY.slot(NOW)]


def test_a_correction_takes_from_the_newest_slots_first_and_never_what_is_reserved() -> None:
    one = counter(amount=5)
    one.advance(NOW + 5_000)
    one.cell.amount, one.cell.reserved = 7, 4
    one.total += 7
    one.correct(-6)
    assert [(cell.amount, cell.reserved) for cell in one.cells] == [(2, 0), (4, 4)]
    assert one.total == 6
