"""Breakers: closed, open, half open, and nothing else; compared with a list of failures."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.core import breaker
from extproc.core.breaker import Breaker, Breakers, BreakerState
from extproc.policy.snapshot import BreakerPolicy

POLICY = BreakerPolicy(failure_threshold=3, window_ms=1_000, cooldown_ms=500)
ONCE = BreakerPolicy(failure_threshold=1, window_ms=1_000, cooldown_ms=500)


def opened(at_ms: int = 0) -> Breakers:
    breakers = Breakers()
    breakers.failed("t", ONCE, at_ms)
    return breakers


def test_failures_open_it_only_within_their_window() -> None:
    one = Breaker()
    for now in (0, 600, 1_000, 1_600, 2_000):
        one.failed(POLICY, now)  # at 1,000 the failure at 0 has just left the window
    assert one.state is BreakerState.CLOSED
    assert one.admits(POLICY, 2_000)
    one.failed(POLICY, 2_500)
    assert one.state is BreakerState.OPEN


def test_successes_between_failures_do_not_hide_them() -> None:
    breakers = Breakers()
    for now in (0, 10, 20):
        breakers.succeeded("t")
        breakers.failed("t", POLICY, now)
    assert not breakers.admits("t", POLICY, 20)


def test_it_is_open_for_its_cooldown_to_the_millisecond() -> None:
    breakers = opened(at_ms=100)
    assert not breakers.all_closed
    assert not breakers.admits("t", ONCE, 599)
    assert breakers.retry_after_ms("t", ONCE, 350) == 250
    assert breakers.admits("t", ONCE, 600)
    assert breakers.retry_after_ms("t", ONCE, 600) == 0
    assert breakers.admits("another", ONCE, 100)
    assert breakers.retry_after_ms("another", ONCE, 100) == 0


def test_asking_takes_no_probe_but_sending_does_and_there_is_only_one() -> None:
    breakers = opened()
    assert breakers.admits("t", ONCE, 500)
    assert breakers.admits("t", ONCE, 500)
    breakers.sent("t", ONCE, 500)
    assert not breakers.admits("t", ONCE, 500)
    assert not breakers.admits("t", ONCE, 999)
    assert breakers.retry_after_ms("t", ONCE, 700) == 300
    assert breakers.admits("t", ONCE, 1_000)  # the probe was never heard of again


def test_a_probe_that_succeeds_closes_it_and_forgets_the_failures() -> None:
    breakers = opened()
    breakers.sent("t", ONCE, 500)
    breakers.succeeded("t")
    assert breakers.all_closed
    assert breakers.states() == {"t": "closed"}
    breakers.failed("t", POLICY, 510)
    breakers.failed("t", POLICY, 520)
    assert breakers.all_closed


def test_a_probe_that_fails_opens_it_again_whatever_the_threshold() -> None:
    breakers = opened()
    breakers.sent("t", ONCE, 500)
    breakers.failed("t", POLICY, 600)
    assert breakers.states() == {"t": "open"}
    assert not breakers.admits("t", POLICY, 1_099)
    assert breakers.admits("t", POLICY, 1_100)


def test_a_late_success_does_not_close_an_open_one() -> None:
    breakers = opened()
    breakers.succeeded("t")
    assert not breakers.admits("t", ONCE, 1)


def test_sending_to_a_closed_one_changes_nothing() -> None:
    breakers = Breakers()
    breakers.failed("t", POLICY, 0)
    breakers.sent("t", POLICY, 1)
    assert breakers.states() == {"t": "closed"}
    assert breakers.all_closed


def test_breakers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker, "MAX_BREAKERS", 2)
    breakers = Breakers()
    for name in "abcd":
        breakers.failed(name, ONCE, 0)
    assert breakers.states() == {"a": "open", "b": "open"}
    assert breakers.admits("c", ONCE, 0)


STEPS = st.lists(
    st.tuples(st.sampled_from(["fail", "succeed", "send"]), st.integers(0, 700)), max_size=40
)


@given(STEPS, st.integers(1, 4))
def test_it_behaves_like_a_list_of_failures(steps: list[tuple[str, int]], threshold: int) -> None:
    policy = BreakerPolicy(threshold, 1_000, 500)
    breakers = Breakers()
    failures: list[int] = []
    opened_ms: int | None = None
    probe_until_ms: int | None = None
    now = 0
    for step, later in steps:
        now += later
        if opened_ms is None:
            admits = True
        elif probe_until_ms is None:
            admits = now >= opened_ms + 500
        else:
            admits = now >= probe_until_ms
        assert breakers.admits("t", policy, now) == admits
        assert breakers.all_closed == (opened_ms is None)
        assert (breakers.retry_after_ms("t", policy, now) == 0) == admits
        if step == "send" and admits:
            breakers.sent("t", policy, now)
            if opened_ms is not None:
                probe_until_ms = now + 500
        elif step == "succeed":
            breakers.succeeded("t")
            if probe_until_ms is not None:
                opened_ms = probe_until_ms = None
                failures = []
        elif step == "fail":
            breakers.failed("t", policy, now)
            failures = [then for then in [*failures, now] if then > now - 1_000]
            if probe_until_ms is not None or len(failures) >= threshold:
                opened_ms, probe_until_ms, failures = now, None, []
