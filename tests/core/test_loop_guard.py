"""Circles, and what only looks like one."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.core.loop_guard import (
    MAX_PERIOD,
    MAX_SESSIONS,
    MAX_SESSIONS_PER_CREDENTIAL,
    LoopGuard,
)
from extproc.policy.mcp_server import LoopGuardRule

RULE = LoopGuardRule(3, 60_000)
KEY = ("docs", "app", "s")


def passed(calls: Iterable[str], guard: LoopGuard | None = None, step_ms: int = 1) -> str:
    """Those that were let pass; a dot for each that was not."""
    guard = LoopGuard() if guard is None else guard
    return "".join(
        call if guard.look(KEY, RULE, call.encode(), number * step_ms) is None else "."
        for number, call in enumerate(calls, 1)
    )


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        ("AAAAA", "AAA.."),
        ("ABABABAB", "ABABAB.B"),
        ("ABCABCABCA", "ABCABCABC."),
        ("AABAABAABA", "AABAABAAB."),
        ("ABCDABCDABCDABCD", "ABCDABCDABCDABCD"),  # longer than a period: work, for all we know
        ("AABBAABBAABB", "AABBAABBAABB"),
        ("AAABAAAB", "AAABAAAB"),
        ("AAAABAAAA", "AAA.BAAA."),
    ],
)
def test_circles(calls: str, expected: str) -> None:
    assert passed(calls) == expected


def test_what_is_long_ago_does_not_count() -> None:
    assert passed("AAAAAA", step_ms=25_000) == "AAAAAA"
    guard = LoopGuard()
    assert passed("AAA", guard) == "AAA"
    loop = guard.look(KEY, RULE, b"A", 60_000)
    assert loop is not None
    assert (loop.since_ms, loop.ends_at_ms) == (1, 60_001)
    assert guard.look(KEY, RULE, b"A", loop.ends_at_ms) is None


def test_sessions_do_not_know_of_each_other() -> None:
    guard = LoopGuard()
    for session in "abcd":
        for _ in range(3):
            assert guard.look(("docs", "app", session), RULE, b"A", 1) is None


def test_a_call_that_was_not_made_is_taken_back() -> None:
    guard = LoopGuard()
    for _ in range(10):
        assert guard.look(KEY, RULE, b"A", 1) is None
        guard.take_back(KEY, b"A")
    guard.take_back(KEY, b"A")
    guard.take_back(("docs", "nobody", "s"), b"A")


def test_memory_is_bounded_and_each_credential_forgets_its_own() -> None:
    guard = LoopGuard()
    for _ in range(3):
        guard.look(KEY, RULE, b"A", 1)
    for number in range(MAX_SESSIONS_PER_CREDENTIAL + 100):
        guard.look(("docs", "greedy", str(number)), RULE, b"A", 1)
    assert len(guard) == MAX_SESSIONS_PER_CREDENTIAL + 1
    assert guard.look(KEY, RULE, b"A", 2) is not None
    for number in range(MAX_SESSIONS + 100):
        guard.look(("docs", f"c{number}", "s"), RULE, b"A", 3)
    assert len(guard) == MAX_SESSIONS
    held = sum(len(sessions) for sessions in guard._by_credential.values())
    assert held == MAX_SESSIONS


@settings(max_examples=100, deadline=None)
@given(st.text("ABC", max_size=40), st.integers(2, 5))
def test_nobody_is_let_go_round_more_often_than_the_rule_says(calls: str, repeats: int) -> None:
    guard, rule = LoopGuard(), LoopGuardRule(repeats, 60_000)
    made = ""
    for call in calls:
        if guard.look(KEY, rule, call.encode(), 1) is None:
            made += call
    for period in range(1, MAX_PERIOD + 1):
        for at in range(len(made)):
            block = made[at : at + period]
            turns = block * repeats + block[:1]
            assert made[at : at + len(turns)] != turns or len(block) < period
