from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.ledger.redis_names import Names, quoted, window_name
from extproc.values.window import parse_window

pairs = st.tuples(st.text(max_size=40), st.text(max_size=300))


@given(one=pairs, two=pairs)
def test_F13_no_two_pairs_share_a_key(one: tuple[str, str], two: tuple[str, str]) -> None:
    names = Names("n")
    same = names.counter("e", *one) == names.counter("e", *two)
    assert same == (one == two)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (("a:b", "c"), ("a", "b:c")),
        (("a", "1:b"), ("a:1", "b")),
        (("a", "é"), ("a", "%C3%A9")),
        (("a", "\ud800"), ("a", "?")),
        (("a", "x" * 300), ("a", "x" * 301)),
    ],
)
def test_F13_boundaries_and_lookalikes_are_told_apart(
    one: tuple[str, str], two: tuple[str, str]
) -> None:
    names = Names("n")
    assert names.counter("e", *one) != names.counter("e", *two)


@given(st.text(max_size=2_000))
def test_F12_a_value_is_one_printable_word_of_bounded_length(value: str) -> None:
    word = quoted(value)
    assert len(word) <= 200
    assert word.isascii()
    assert not set(word) & set(" \r\n\t{}*?[]'\"\\")


def test_every_key_of_a_policy_is_in_one_slot_of_a_cluster() -> None:
    names = Names("team.policy")
    keys = [
        names.meta, names.members, names.joined, names.pushed, names.leases("e"),
        names.counter("e", "{x}", "{y}"), names.record("e", "{z}"),
    ]  # fmt: skip
    assert {key.split(b"}")[0] for key in keys} == {b"{team.policy"}


def test_a_namespace_that_breaks_out_is_refused() -> None:
    with pytest.raises(ValueError, match="is not"):
        Names("a}b")


def test_windows_are_told_apart_by_length_period_and_zone() -> None:
    windows = [
        parse_window("1h"), parse_window("60m"), parse_window("1d"), parse_window("daily"),
        parse_window("daily", "Europe/Berlin"),
    ]  # fmt: skip
    names = [window_name(window) for window in windows]
    assert names[0] == names[1]
    assert len(set(names)) == 4
