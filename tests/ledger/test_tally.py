"""The proof's own counters, against sums made from scratch."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from extproc.ledger.tally import Tally
from extproc.values.window import parse_window

NOW = 1_790_000_000_000


@given(
    st.sampled_from(["10s", "1m", "daily"]),
    st.lists(st.tuples(st.integers(0, 40_000), st.integers(0, 9)), max_size=30),
)
def test_a_sum_is_that_of_the_slots_that_count(text: str, steps: list[tuple[int, int]]) -> None:
    window = parse_window(text)
    tally = Tally("a", "", window, window.slot(NOW))
    made, now = [], NOW
    for wait, amount in steps:
        now += wait
        made.append((tally.add_reserved(amount, now), amount))
        oldest = window.oldest_slot(window.slot(now))
        expected = sum(amount for slot, amount in made if slot >= oldest)
        assert tally.total == tally.reserved == tally.total_at(now) == expected
        assert sum(pair[1] for pair in tally.slots.values()) == expected


def test_a_correction_takes_settled_amounts_only_newest_first() -> None:
    window = parse_window("1m")
    tally = Tally("a", "", window, window.slot(NOW))
    tally.change(tally.newest - 2, 5, 0)
    tally.change(tally.newest, 3, 4)
    tally.correct(-6)
    assert list(tally.slots_as_pairs().values()) == [(2, 0), (0, 4)]
    tally.correct(1)
    assert tally.slots_as_pairs()[tally.newest] == (1, 4)


def test_what_is_taken_over_stays_in_its_slots() -> None:
    window = parse_window("1m")
    old, new = (Tally(key, "", window, window.slot(NOW)) for key in "ab")
    old.add_reserved(5, NOW)
    new.take_over(old, NOW + 30_000)
    assert (old.total, new.total) == (0, 5)
    new.advance(NOW + 62_000)
    assert new.total == 0
