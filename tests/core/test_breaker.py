"""Breakers: closed, open, half open, and nothing else; compared with a list of failures."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.core import breaker
from extproc.core.breaker import (
    CLOSED_KEPT_MS,
    MAX_REST_MS,
    PROBE_HOLD_MS,
    Breaker,
    Breakers,
    BreakerState,
    Word,
    WordKind,
)
from extproc.policy.snapshot import BreakerPolicy, Provider, Target
from extproc.values.money import Price, Rates

POLICY = BreakerPolicy(failure_threshold=3, window_ms=1_000, cooldown_ms=500)
ONCE = BreakerPolicy(failure_threshold=1, window_ms=1_000, cooldown_ms=500)


HALF = BreakerPolicy(0, 1_000, 500, failure_percentage=50, minimum_requests=4)
A, B = (
    Target(name, Provider(name, {}), "m", "m", Price(Rates(1, 1, 1, 1)), 1_000, {})
    for name in ("a", "b")
)
"""Their names are ``a/m`` and ``b/m``."""


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
        breakers.succeeded("t", POLICY, 0)
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
    breakers.succeeded("t", POLICY, 0)
    assert breakers.all_closed
    assert breakers.states(0) == {"t": "closed"}
    breakers.failed("t", POLICY, 510)
    breakers.failed("t", POLICY, 520)
    assert breakers.all_closed


def test_a_probe_that_fails_opens_it_again_whatever_the_threshold() -> None:
    breakers = opened()
    breakers.sent("t", ONCE, 500)
    breakers.failed("t", POLICY, 600)
    assert breakers.states(0) == {"t": "open"}
    assert not breakers.admits("t", POLICY, 1_099)
    assert breakers.admits("t", POLICY, 1_100)


def test_a_late_success_does_not_close_an_open_one() -> None:
    breakers = opened()
    breakers.succeeded("t", POLICY, 0)
    assert not breakers.admits("t", ONCE, 1)


def test_sending_to_a_closed_one_changes_nothing() -> None:
    breakers = Breakers()
    breakers.failed("t", POLICY, 0)
    breakers.sent("t", POLICY, 1)
    assert breakers.states(0) == {"t": "closed"}
    assert breakers.all_closed


def test_breakers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker, "MAX_BREAKERS", 2)
    breakers = Breakers()
    for name in "abcd":
        breakers.failed(name, ONCE, 0)
    assert breakers.states(0) == {"a": "open", "b": "open"}
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
            breakers.succeeded("t", POLICY, 0)
            if probe_until_ms is not None:
                opened_ms = probe_until_ms = None
                failures = []
        elif step == "fail":
            breakers.failed("t", policy, now)
            failures = [then for then in [*failures, now] if then > now - 1_000]
            if probe_until_ms is not None or len(failures) >= threshold:
                opened_ms, probe_until_ms, failures = now, None, []


# -- a share of the calls -------------------------------------------------------------------------


def calls(breakers: Breakers, outcomes: str, now_ms: int = 0, policy: BreakerPolicy = HALF) -> None:
    """``.`` for a call that was answered, ``x`` for one that failed."""
    for outcome in outcomes:
        if outcome == "x":
            breakers.failed("t", policy, now_ms)
        else:
            breakers.succeeded("t", policy, now_ms)


@pytest.mark.parametrize(
    ("outcomes", "is_open"),
    [
        ("xxx", False),  # too few to say
        ("xxxx", True),
        ("..xx", True),
        ("...xx", False),
        ("....xxx", False),
        ("....xxxx", True),
        ("x" + "." * 100, False),
    ],
)
def test_a_share_of_failures_opens_it_once_enough_were_made(outcomes: str, is_open: bool) -> None:
    breakers = Breakers()
    calls(breakers, outcomes)
    assert breakers.all_closed is not is_open


def test_the_share_is_that_of_the_window() -> None:
    breakers = Breakers()
    calls(breakers, "." * 50, now_ms=0)
    calls(breakers, "xxx", now_ms=1_099)
    assert breakers.all_closed
    calls(breakers, "x", now_ms=1_100)
    assert not breakers.all_closed


def test_a_count_and_a_share_each_open_it() -> None:
    both = BreakerPolicy(3, 1_000, 500, failure_percentage=50, minimum_requests=4)
    for outcomes in ("." * 20 + "xxx", "..xx"):
        breakers = Breakers()
        calls(breakers, outcomes, policy=both)
        assert not breakers.all_closed


def test_what_closed_again_begins_to_count_anew() -> None:
    breakers = Breakers()
    calls(breakers, "xxxx")
    breakers.sent("t", HALF, 500)
    calls(breakers, ".", now_ms=600)
    calls(breakers, "xx", now_ms=600)
    assert breakers.all_closed
    calls(breakers, "x", now_ms=600)
    assert not breakers.all_closed


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 300)), max_size=60))
def test_the_share_is_right_to_a_tenth_of_the_window(outcomes: list[tuple[bool, int]]) -> None:
    policy = BreakerPolicy(0, 1_000, 10**9, failure_percentage=50, minimum_requests=4)
    breakers = Breakers()
    seen: list[tuple[int, bool]] = []
    now = 0
    for failed, later in outcomes:
        now += later
        seen.append((now, failed))
        calls(breakers, "x" if failed else ".", now, policy)
        if not breakers.all_closed:
            # Whatever the slices made of it, some window of nearly the length says so.
            windows = [[bad for at, bad in seen if at > now - length] for length in (900, 1_000)]
            windows += [[bad for at, bad in seen if at > now - step] for step in range(900, 1_001)]
            assert any(len(w) >= 4 and 2 * sum(w) >= len(w) for w in windows)
            return


# -- one probe ------------------------------------------------------------------------------------


def chain(breakers: Breakers, now_ms: int, *ordered: Target, policy: BreakerPolicy = ONCE) -> str:
    """The first letters of the chain that is made of these targets."""
    out, trials = breakers.left_out(ordered, policy, now_ms)
    able = [target for target in ordered if target not in out]
    return "".join(target.name[0] for target in breakers.led(able, trials, policy, now_ms))


def test_F57_of_many_requests_at_once_one_has_the_probe() -> None:
    breakers = Breakers()
    breakers.failed("a/m", ONCE, 0)
    assert chain(breakers, 499, A, B) == "b"
    assert chain(breakers, 500, A, B) == "ab"
    for _ in range(100):
        assert chain(breakers, 500, A, B) == "b"
    breakers.sent("a/m", ONCE, 510)
    assert chain(breakers, 1_009, A) == ""
    assert chain(breakers, 1_010, A) == "a"  # never heard of again


def test_F57_a_probe_that_a_limit_refused_is_another_requests() -> None:
    breakers = Breakers()
    breakers.failed("a/m", ONCE, 0)
    assert chain(breakers, 500, A) == "a"
    assert chain(breakers, 500 + PROBE_HOLD_MS - 1, A) == ""
    assert chain(breakers, 500 + PROBE_HOLD_MS, A) == "a"


def test_F57_a_fallback_on_trial_is_the_last_way_until_it_was_taken() -> None:
    breakers = Breakers()
    breakers.failed("b/m", ONCE, 0)
    for _ in range(3):
        assert chain(breakers, 500, A, B) == "ab"  # nobody is sent there as long as A answers
    breakers.sent("b/m", ONCE, 500)
    assert chain(breakers, 600, A, B) == "a"


def test_F57_with_all_on_trial_each_is_probed_by_one_request() -> None:
    breakers = Breakers()
    breakers.failed("a/m", ONCE, 0)
    breakers.failed("b/m", ONCE, 0)
    assert [chain(breakers, 500, A, B) for _ in range(3)] == ["ab", "b", ""]


def test_F57_a_request_decided_before_it_opened_is_no_probe() -> None:
    breakers = opened(at_ms=100)
    breakers.sent("t", ONCE, 150)
    breakers.succeeded("t", ONCE, 200)
    assert breakers.states(0) == {"t": "open"}


def test_F57_a_flapping_target_is_asked_once_per_cooldown() -> None:
    breakers = Breakers()
    breakers.failed("a/m", ONCE, 0)
    probes = []
    for now in range(0, 10_000, 10):
        if chain(breakers, now, A, B) == "ab":
            probes.append(now)
            breakers.sent("a/m", ONCE, now)
            breakers.failed("a/m", ONCE, now)
    assert probes == list(range(500, 10_000, 500))


def test_what_the_kill_switch_stops_is_left_out_and_never_probed() -> None:
    breakers = Breakers()
    breakers.failed("a/m", ONCE, 0)
    breakers.stopped = frozenset(["a/m"])
    assert chain(breakers, 10_000, A, B) == "b"


# -- rests ----------------------------------------------------------------------------------------


def test_F53_a_target_rests_for_as_long_as_it_said_and_then_serves() -> None:
    breakers = Breakers()
    breakers.rest("a/m", 2_000, 100)
    assert not breakers.all_closed
    assert chain(breakers, 2_099, A, B, policy=POLICY) == "b"
    assert breakers.retry_after_ms("a/m", POLICY, 600) == 1_500
    assert breakers.states(2_099) == {"a/m": "resting"}
    assert breakers.states(2_100) == {"a/m": "closed"}
    assert chain(breakers, 2_100, A, B, policy=POLICY) == "ab"
    assert breakers.all_closed


def test_F53_a_rest_is_never_longer_than_a_minute_and_never_shortened() -> None:
    breakers = Breakers()
    breakers.rest("a/m", 10**12, 0)
    breakers.rest("a/m", 1, 10)
    assert not breakers.admits("a/m", POLICY, MAX_REST_MS - 1)
    assert breakers.admits("a/m", POLICY, MAX_REST_MS)


def test_F53_success_ends_no_rest_and_a_rest_ends_no_cooldown() -> None:
    breakers = Breakers()
    breakers.failed("a/m", ONCE, 0)
    breakers.sent("a/m", ONCE, 500)
    breakers.rest("a/m", 5_000, 600)
    breakers.succeeded("a/m", ONCE, 700)
    assert breakers.states(700) == {"a/m": "resting"}
    assert not breakers.admits("a/m", ONCE, 5_599)
    breakers.failed("a/m", ONCE, 5_400)
    assert not breakers.admits("a/m", ONCE, 5_899)
    assert breakers.admits("a/m", ONCE, 5_900)


# -- several sidecars -----------------------------------------------------------------------------


class Store:
    """What the sidecars of one store have told each other; a lease for each probe."""

    def __init__(self, *sidecars: Breakers) -> None:
        self.sidecars = sidecars
        self.leases: dict[str, int] = {}
        for one in sidecars:
            one.shared = True

    def pass_on(self, now_ms: int) -> None:
        for one in self.sidecars:
            for word in one.untold():
                one.told(word)
                for other in self.sidecars:
                    if other is not one:
                        other.hear(word, now_ms)
            for target, lease_ms in one.wanted().items():
                if self.leases.get(target, 0) <= now_ms:
                    self.leases[target] = now_ms + lease_ms
                    one.grant(target, now_ms + lease_ms)


def test_F57_what_one_sidecar_found_broken_all_avoid() -> None:
    one, two = Breakers(), Breakers()
    store = Store(one, two)
    one.failed("a/m", ONCE, 100)
    one.rest("b/m", 3_000, 100)
    assert two.all_closed
    store.pass_on(200)
    assert chain(two, 200, A, B) == ""
    assert two.retry_after_ms("a/m", ONCE, 200) == one.retry_after_ms("a/m", ONCE, 200) == 400
    assert two.states(200) == {"a/m": "open", "b/m": "resting"}
    assert one.untold() == two.untold() == []


def test_F57_of_all_sidecars_one_probes_and_all_hear_how_it_went() -> None:
    sidecars = [Breakers() for _ in range(5)]
    store = Store(*sidecars)
    sidecars[3].failed("a/m", ONCE, 0)
    store.pass_on(1)

    def trials(now_ms: int) -> list[Breakers]:
        return [one for one in sidecars if chain(one, now_ms, A, B) == "ab"]

    assert trials(600) == []
    store.pass_on(601)
    (prober,) = trials(602)
    store.pass_on(603)
    assert trials(604) == []
    prober.sent("a/m", ONCE, 604)
    prober.failed("a/m", ONCE, 700)
    store.pass_on(701)
    assert {one.retry_after_ms("a/m", ONCE, 701) for one in sidecars} == {499}
    assert trials(1_200) == []
    store.pass_on(1_201)
    (prober,) = trials(1_202)
    prober.sent("a/m", ONCE, 1_202)
    prober.succeeded("a/m", ONCE, 1_210)
    store.pass_on(1_211)
    assert all(one.all_closed for one in sidecars)


def test_F57_a_sidecar_that_hears_nothing_more_goes_on_alone() -> None:
    one = Breakers()
    Store(one, Breakers())
    one.failed("a/m", ONCE, 0)
    assert chain(one, 600, A) == ""
    assert chain(one, 600, A, B) == "ba"
    assert not one.admits("a/m", ONCE, 600)
    one.shared = False
    assert chain(one, 600, A) == "a"


def test_a_grant_that_nobody_used_is_over_with_its_lease() -> None:
    one = Breakers()
    one.shared = True
    one.failed("a/m", ONCE, 0)
    one.grant("a/m", 1_000)
    one.grant("unknown", 1_000)
    assert chain(one, 1_000, A) == ""
    assert one.wanted() == {"a/m": 500}
    assert one.wanted() == {}


def test_ones_own_later_word_wins_until_it_is_told() -> None:
    one = Breakers()
    one.failed("a/m", ONCE, 1_000)
    one.hear(Word("a/m", WordKind.CLOSED, 900, 0), 1_010)
    assert one.states(0) == {"a/m": "open"}
    (word,) = one.untold()
    assert word == Word("a/m", WordKind.OPEN, 1_000, 1_000)
    one.failed("a/m", ONCE, 1_020)
    one.told(word)  # an older one: the newer is still to be told
    (word,) = one.untold()
    one.told(word)
    one.hear(Word("a/m", WordKind.CLOSED, 1_030, CLOSED_KEPT_MS), 1_040)
    assert one.states(0) == {"a/m": "closed"}


def test_what_is_heard_is_bounded_whatever_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Breakers()
    one.hear(Word("a/m", WordKind.RESTING, 10**15, 0), 0)
    one.hear(Word("b/m", WordKind.OPEN, 10**15, 0), 0)
    one.hear(Word("c/m", WordKind.CLOSED, 0, 0), 0)
    assert one.admits("a/m", ONCE, MAX_REST_MS)
    assert one.admits("b/m", ONCE, 500)
    monkeypatch.setattr(breaker, "MAX_BREAKERS", 2)
    for kind in WordKind:
        one.hear(Word("d/m", kind, 100, 0), 0)
    assert set(one.states(0)) == {"a/m", "b/m"}
    assert one.untold() == []
