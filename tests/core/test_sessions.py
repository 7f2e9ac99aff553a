"""Rotating session ids is no way around a session limit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.core import sessions
from extproc.core.sessions import MS_PER_DAY, Sessions

NOON = 20_000 * MS_PER_DAY + MS_PER_DAY // 2


def test_new_sessions_are_counted_and_known_ones_go_on() -> None:
    known = Sessions()
    assert known.admit("c", "one", 2, NOON)
    assert known.admit("c", "two", 2, NOON)
    assert not known.admit("c", "three", 2, NOON)
    assert known.admit("c", "one", 2, NOON + 1_000)
    assert not known.admit("c", "three", 2, NOON + 1_000)


def test_each_credential_has_its_own_allowance_and_its_own_sessions() -> None:
    known = Sessions()
    assert known.admit("a", "s", 1, NOON)
    assert known.admit("b", "t", 1, NOON)
    assert not known.admit("b", "s", 1, NOON)


def test_a_new_day_begins_at_midnight_utc_and_only_forwards() -> None:
    known = Sessions()
    midnight = NOON + MS_PER_DAY // 2
    assert known.admit("c", "one", 1, NOON)
    assert not known.admit("c", "two", 1, midnight - 1)
    assert known.admit("c", "two", 1, midnight)
    assert not known.admit("c", "three", 1, midnight)
    # A clock that steps back over midnight gives no second allowance.
    assert not known.admit("c", "three", 1, NOON)
    assert not known.admit("c", "three", 1, midnight)


def test_a_lowered_maximum_stops_new_sessions_at_once() -> None:
    known = Sessions()
    for name in "abc":
        assert known.admit("c", name, 3, NOON)
    assert not known.admit("c", "d", 2, NOON)
    assert known.admit("c", "a", 2, NOON)


def test_memory_is_bounded_and_a_forgotten_session_counts_as_new(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sessions, "MAX_KNOWN_SESSIONS", 2)
    known = Sessions()
    for name in ("one", "two", "three"):
        assert known.admit("c", name, 4, NOON)
    assert known.admit("c", "two", 0, NOON)
    assert known.admit("c", "three", 0, NOON)
    assert not known.admit("c", "one", 3, NOON)
    assert known.admit("c", "one", 4, NOON)
    assert not known.admit("c", "five", 4, NOON)


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 9), st.integers(0, 2))),
    st.integers(0, 5),
)
def test_no_more_distinct_sessions_a_day_than_the_maximum(
    asked: list[tuple[str, int, int]], maximum: int
) -> None:
    known = Sessions()
    admitted: dict[tuple[str, int], set[int]] = {}
    for credential, session, day in sorted(asked, key=lambda each: each[2]):
        opened = admitted.setdefault((credential, day), set())
        answer = known.admit(credential, str(session), maximum, NOON + day * MS_PER_DAY)
        assert answer == (session in opened or len(opened) < maximum)
        if answer:
            opened.add(session)
