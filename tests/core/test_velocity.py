"""The velocity breaker as a machine over dollars per minute, and in the decision on a request."""

from __future__ import annotations

from typing import Any

import pytest
from gateway import chat
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from policies import codes
from world import NOW, World

from extproc.core import settlement, velocity
from extproc.core.commands import Forward, Refuse, Reserve, SendAttempt
from extproc.core.events import Ending, RequestGoesOn
from extproc.core.velocity import MINUTE_MS, Counted, TooFast, Velocity, VelocityState
from extproc.policy.snapshot import VelocityRule
from extproc.values.limit import Scope
from extproc.values.refusal import RefusalCode

USD = 1_000_000
RULE = VelocityRule("fast", (Scope.PROJECT,), 20 * USD, 0, 3_600_000, 1 * USD, 300_000)
MULTIPLE = VelocityRule("usual", (Scope.PROJECT,), 0, 500, 3_600_000, 1 * USD, 300_000)


def spend(breakers: Velocity, usd: float, now: int, rule: VelocityRule = RULE) -> Any:
    """One call that costs just what was likely, settled at once."""
    found = breakers.admit([(rule, "p")], int(usd * USD), now)
    if isinstance(found, list):
        breakers.ended(found, int(usd * USD), now)
    return found


def state(breakers: Velocity, rule: VelocityRule = RULE) -> VelocityState:
    meter = breakers.meter(rule.id, "p")
    assert meter is not None
    return meter.state


def tripped() -> Velocity:
    breakers = Velocity()
    assert isinstance(spend(breakers, 21, NOW), list)
    assert state(breakers) is VelocityState.OPEN
    breakers.take_changes()
    return breakers


def test_it_opens_above_the_ceiling_and_not_at_it() -> None:
    breakers = Velocity()
    for second in range(20):
        assert isinstance(spend(breakers, 1, NOW + second), list)
    assert state(breakers) is VelocityState.CLOSED
    assert isinstance(spend(breakers, 0.000001, NOW + 30_000), list)
    assert state(breakers) is VelocityState.OPEN
    refused = spend(breakers, 1, NOW + 31_000)
    assert refused == TooFast(RULE, 20 * USD, 20 * USD + 1, 0, NOW + 30_000 + 300_000)


def test_spending_at_a_steady_rate_below_the_ceiling_never_opens_it() -> None:
    breakers = Velocity()
    for second in range(3_600):
        assert isinstance(spend(breakers, 0.32, NOW + second * 1_000), list)
    assert state(breakers) is VelocityState.CLOSED


def test_calls_under_way_count_at_what_they_will_likely_cost() -> None:
    breakers = Velocity()
    for _ in range(21):
        assert isinstance(breakers.admit([(RULE, "p")], USD, NOW), list)
    refused = breakers.admit([(RULE, "p")], USD, NOW)
    assert isinstance(refused, TooFast)
    assert (refused.spent, refused.reserved) == (0, 21 * USD)


def test_what_a_call_really_cost_replaces_what_was_likely() -> None:
    breakers = Velocity()
    calls = [breakers.admit([(RULE, "p")], USD, NOW) for _ in range(20)]
    for call in calls:
        assert isinstance(call, list)
        breakers.ended(call, USD // 10, NOW + 1_000)
    meter = breakers.meter("fast", "p")
    assert meter is not None
    assert meter.rate(NOW + 1_000) == 2 * USD
    dear = breakers.admit([(RULE, "p")], USD, NOW + 1_000)
    assert isinstance(dear, list)
    breakers.ended(dear, 19 * USD, NOW + 2_000)
    assert state(breakers) is VelocityState.OPEN


def test_a_stream_that_runs_away_opens_it_before_it_ends() -> None:
    breakers = Velocity()
    call = breakers.admit([(RULE, "p")], USD // 100, NOW)
    assert isinstance(call, list)
    for beat in range(1, 60):
        breakers.known(call, beat * 2 * USD, NOW + beat * 5_000)
        if state(breakers) is VelocityState.OPEN:
            break
    # $24 a minute: the first minute is enough.
    assert beat * 5_000 <= MINUTE_MS
    breakers.ended(call, beat * 2 * USD, NOW + beat * 5_000 + 1)
    meter = breakers.meter("fast", "p")
    assert meter is not None
    assert meter.rate(NOW + beat * 5_000 + 1) == beat * 2 * USD


def test_an_old_overestimate_takes_nothing_from_the_present_minute() -> None:
    breakers = Velocity()
    old = breakers.admit([(RULE, "p")], 15 * USD, NOW)
    assert isinstance(old, list)
    later = NOW + 10 * MINUTE_MS
    spend(breakers, 12, later)
    breakers.ended(old, 0, later)
    meter = breakers.meter("fast", "p")
    assert meter is not None
    assert meter.rate(later) == 12 * USD


def test_after_the_cooldown_one_probe_passes_and_closes_it() -> None:
    breakers = tripped()
    assert isinstance(spend(breakers, 1, NOW + 299_999), TooFast)
    after = NOW + 300_000
    probe = breakers.admit([(RULE, "p")], USD, after)
    assert isinstance(probe, list)
    assert state(breakers) is VelocityState.HALF_OPEN
    waiting = breakers.admit([(RULE, "p")], USD, after + 1)
    assert isinstance(waiting, TooFast)
    assert waiting.retry_at_ms == after + 1 + velocity.PROBE_RETRY_MS
    breakers.ended(probe, USD, after + 2)
    assert state(breakers) is VelocityState.CLOSED
    (change,) = breakers.take_changes()
    assert (change.rule.id, change.state) == ("fast", VelocityState.CLOSED)
    assert isinstance(spend(breakers, 1, after + 3), list)


def test_a_probe_that_is_too_dear_opens_it_again() -> None:
    breakers = tripped()
    probe = breakers.admit([(RULE, "p")], USD, NOW + 300_000)
    assert isinstance(probe, list)
    breakers.ended(probe, 25 * USD, NOW + 300_001)
    assert state(breakers) is VelocityState.OPEN
    assert isinstance(spend(breakers, 1, NOW + 600_000), TooFast)
    assert breakers.take_changes() == []


def test_calls_that_were_under_way_keep_it_open_while_they_cost_too_much() -> None:
    breakers = Velocity()
    late = breakers.admit([(RULE, "p")], USD, NOW)
    spend(breakers, 21, NOW)
    assert isinstance(late, list)
    breakers.known(late, 30 * USD, NOW + 299_000)
    assert isinstance(spend(breakers, 1, NOW + 300_000), TooFast)
    assert isinstance(spend(breakers, 1, NOW + 599_999), TooFast)
    assert isinstance(spend(breakers, 1, NOW + 600_000), list)


def test_a_probe_that_is_never_heard_of_is_given_up_after_a_cooldown() -> None:
    breakers = tripped()
    assert isinstance(breakers.admit([(RULE, "p")], USD, NOW + 300_000), list)
    assert isinstance(spend(breakers, 1, NOW + 599_999), TooFast)
    assert isinstance(spend(breakers, 1, NOW + 600_000), list)
    assert state(breakers) is VelocityState.CLOSED


def test_a_probe_that_was_never_sent_is_given_to_the_next() -> None:
    breakers = tripped()
    probe = breakers.admit([(RULE, "p")], USD, NOW + 300_000)
    assert isinstance(probe, list)
    breakers.give_back(probe, NOW + 300_000)
    again = breakers.admit([(RULE, "p")], USD, NOW + 300_001)
    assert isinstance(again, list)
    assert again[0].probe


def usual(breakers: Velocity, usd_per_minute: float, minutes: int, begin: int = NOW) -> int:
    for minute in range(minutes):
        assert isinstance(spend(breakers, usd_per_minute, begin + minute * 60_000, MULTIPLE), list)
    return begin + minutes * 60_000


def test_a_multiple_of_what_is_usual_opens_it() -> None:
    breakers = Velocity()
    now = usual(breakers, 2, 30) + 60_000
    assert isinstance(spend(breakers, 9, now, MULTIPLE), list)
    assert state(breakers, MULTIPLE) is VelocityState.CLOSED
    assert isinstance(spend(breakers, 1.1, now, MULTIPLE), list)
    assert state(breakers, MULTIPLE) is VelocityState.OPEN
    refused = spend(breakers, 1, now + 1, MULTIPLE)
    assert isinstance(refused, TooFast)
    assert refused.limit == 10 * USD


def test_nothing_is_usual_before_enough_was_seen() -> None:
    breakers = Velocity()
    now = usual(breakers, 0.5, velocity.MIN_BASELINE_SLOTS - 1) + 60_000
    spend(breakers, 500, now, MULTIPLE)
    assert state(breakers, MULTIPLE) is VelocityState.CLOSED


def test_a_pause_does_not_make_the_usual_rate_a_runaway() -> None:
    breakers = Velocity()
    now = usual(breakers, 4, 12) + 45 * 60_000
    # Twelve busy minutes of the last hour, a long pause, and the work goes on as before.
    usual(breakers, 4, 5, now)
    assert state(breakers, MULTIPLE) is VelocityState.CLOSED


def test_below_the_minimum_it_never_opens() -> None:
    breakers = Velocity()
    now = usual(breakers, 0.01, 30) + 60_000
    assert isinstance(spend(breakers, 1, now, MULTIPLE), list)
    assert state(breakers, MULTIPLE) is VelocityState.CLOSED
    spend(breakers, 0.01, now, MULTIPLE)
    assert state(breakers, MULTIPLE) is VelocityState.OPEN


def test_a_shadow_rule_lets_everything_pass_and_counts_it() -> None:
    shadow = RULE.__class__("fast", (Scope.PROJECT,), 20 * USD, 0, 3_600_000, USD, 60_000, False)
    breakers = Velocity()
    for second in range(30):
        assert isinstance(spend(breakers, 1, NOW + second, shadow), list)
    assert breakers.take_would_block() == {"fast": 9}
    assert [change.state for change in breakers.take_changes()] == [VelocityState.OPEN]
    assert isinstance(spend(breakers, 1, NOW + 70_000, shadow), list)
    assert state(breakers) is VelocityState.CLOSED


def test_the_probes_own_later_attempt_passes() -> None:
    breakers = tripped()
    assert isinstance(breakers.admit([(RULE, "p")], USD, NOW + 300_000), list)
    later = breakers.admit([(RULE, "p")], USD, NOW + 300_001, probing=True)
    assert isinstance(later, list)
    breakers.ended(later, USD, NOW + 300_002)
    assert state(breakers) is VelocityState.CLOSED


def test_an_edited_rule_begins_closed_and_keeps_what_was_spent() -> None:
    breakers = tripped()
    raised = RULE.__class__("fast", (Scope.PROJECT,), 30 * USD, 0, 7_200_000, USD, 300_000)
    assert isinstance(spend(breakers, 8, NOW + 1_000, raised), list)
    assert isinstance(spend(breakers, 2, NOW + 2_000, raised), list)
    assert isinstance(spend(breakers, 1, NOW + 3_000, raised), TooFast)
    again = tripped()
    same = RULE.__class__(*(getattr(RULE, name) for name in RULE.__slots__))
    assert same is not RULE
    assert isinstance(spend(again, 1, NOW + 1_000, same), TooFast)


def test_memory_is_bounded_and_open_breakers_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(velocity, "MAX_METERS", 50)
    breakers = tripped()
    for number in range(500):
        found = breakers.admit([(RULE, f"other{number}")], 1, NOW + number)
        assert isinstance(found, list)
    assert isinstance(spend(breakers, 1, NOW + 600), TooFast)
    assert len(breakers._meters) == 50


def test_changes_nobody_takes_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(velocity, "MAX_CHANGES", 5)
    breakers = Velocity()
    for number in range(20):
        found = breakers.admit([(RULE, str(number))], 21 * USD, NOW)
        assert isinstance(found, list)
        breakers.ended(found, 21 * USD, NOW)
    assert len(breakers.take_changes()) == 5


@given(
    st.lists(
        st.tuples(
            st.integers(0, 20_000),
            st.integers(0, 12 * USD),
            st.integers(0, 12 * USD),
            st.integers(0, 90_000),
        ),
        max_size=60,
    )
)
def test_the_rate_is_what_a_plain_sum_says(calls: list[tuple[int, int, int, int]]) -> None:
    """Against a model that keeps every amount with its time: the slot of a second is the only
    difference there may be."""
    never = VelocityRule("fast", (), 10**15, 0, 3_600_000, 0, 1_000)
    breakers = Velocity()
    known: list[tuple[int, int]] = []
    pending: list[tuple[int, list[Counted], int, int]] = []
    now = NOW
    for pause, likely, cost, takes in calls:
        now += pause
        for end in [one for one in sorted(pending, key=lambda one: one[0]) if one[0] <= now]:
            pending.remove(end)
            breakers.ended(end[1], end[2], end[0])
            begun, guessed = end[3], known[end[3]][1]
            change = end[2] - guessed
            if change > 0:
                known.append((end[0], change))
            else:
                known[begun] = (known[begun][0], end[2])
        found = breakers.admit([(never, "")], likely, now)
        assert isinstance(found, list)
        known.append((now, likely))
        pending.append((now + takes, found, cost, len(known) - 1))
        meter = breakers.meter("fast", "")
        assert meter is not None
        least = sum(amount for at, amount in known if at > now - MINUTE_MS)
        most = sum(amount for at, amount in known if at > now - MINUTE_MS - 2_000)
        assert least <= meter.rate(now) <= most


class Breaker(RuleBasedStateMachine):
    """Any mix of calls, ends, pauses and probes: what must hold at every moment."""

    def __init__(self) -> None:
        super().__init__()
        self.breakers = Velocity()
        self.now = NOW
        self.under_way: list[list[Counted]] = []
        self.opened_at = 0
        self.was = VelocityState.CLOSED

    @rule(ms=st.integers(0, 120_000))
    def time_passes(self, ms: int) -> None:
        self.now += ms

    @rule(likely=st.integers(0, 8 * USD))
    def ask(self, likely: int) -> None:
        meter = self.breakers.meter("fast", "p")
        before = meter.state if meter else VelocityState.CLOSED
        until = meter.retry_at_ms if meter else 0
        found = self.breakers.admit([(RULE, "p")], likely, self.now)
        if isinstance(found, TooFast):
            assert found.limit == RULE.max_micro_usd
            assert found.retry_at_ms > self.now
        else:
            self.under_way.append(found)
            if before is not VelocityState.CLOSED:
                assert self.now >= until
                assert found[0].probe

    @precondition(lambda self: self.under_way)
    @rule(cost=st.integers(0, 15 * USD), data=st.data())
    def end(self, cost: int, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from(self.under_way))
        self.under_way.remove(call)
        self.breakers.ended(call, max(cost, call[0].known - call[0].likely), self.now)

    @precondition(lambda self: self.under_way)
    @rule(cost=st.integers(0, 15 * USD), data=st.data())
    def goes_on(self, cost: int, data: st.DataObject) -> None:
        self.breakers.known(data.draw(st.sampled_from(self.under_way)), cost, self.now)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def take_back(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from(self.under_way))
        if call[0].known == call[0].likely:
            self.under_way.remove(call)
            self.breakers.give_back(call, self.now)

    @invariant()
    def nothing_is_negative_and_closed_means_slow(self) -> None:
        meter = self.breakers.meter("fast", "p")
        if meter is None:
            return
        rate = meter.rate(self.now)
        assert rate >= meter._minute.reserved >= 0
        assert all(cell.amount >= 0 <= cell.reserved for cell in meter._minute.cells)
        assert sum(cell.amount for cell in meter._minute.cells) == rate
        if meter.state is VelocityState.OPEN:
            assert meter.limit == RULE.max_micro_usd


TestBreaker = Breaker.TestCase


# -- in the decision ------------------------------------------------------------------------------

POLICY = """
name: v
type: gateway-budget-config
velocity:
  - {id: runaway, scope: project, max_usd_per_minute: 0.02, cooldown: 30s}
"""
COST = b'"usage":{"prompt_tokens":5,"completion_tokens":5000,"total_tokens":5005}}'
"""Two and a half cents of Claude Haiku."""


def test_a_runaway_is_refused_as_clients_can_read_it() -> None:
    world = World(POLICY)
    assert isinstance(world.ask(), Forward)
    world.end(usage_tail=COST)
    refused = world.ask(now=NOW + 1_000)
    assert isinstance(refused, Refuse)
    refusal = refused.refusal
    assert (refusal.code, refusal.status) == (RefusalCode.SPEND_VELOCITY_EXCEEDED, 429)
    assert (refusal.retryable, refusal.retry_after_s) == (True, 29)
    limit = refusal.limit
    assert limit is not None
    assert (limit.rule_id, limit.scope, limit.window) == ("runaway", "project", "1m")
    assert (limit.limit, limit.spent) == (20_000, 25_005)
    assert limit.resets_at_ms == NOW + 30_000
    assert refused.rules == "runaway"
    # Another project has a breaker of its own, and nothing was reserved for the refused call.
    assert isinstance(world.ask(project="p2", now=NOW + 1_000), Forward)


def test_a_cooldown_beyond_a_minute_says_not_to_retry() -> None:
    world = World(POLICY.replace("30s", "5m"))
    world.ask()
    world.end(usage_tail=COST)
    assert not world.ask().refusal.retryable


def test_a_later_attempt_passes_the_breaker_too() -> None:
    world = World(POLICY)
    first = world.ask(session_id="a")
    other = world.ask(session_id="b")
    assert isinstance(other, Forward)
    world.end(usage_tail=COST)
    world.requests = 1
    refused = world.attempt(first, 1)
    assert isinstance(refused, Refuse)
    assert refused.refusal.code is RefusalCode.SPEND_VELOCITY_EXCEEDED


def test_a_failed_attempt_gives_back_what_it_would_have_cost() -> None:
    world = World(POLICY)
    first = world.ask()
    meter = world.gate.velocity.meter("runaway", "p1")
    assert meter is not None
    first_likely = meter.rate(NOW)
    assert first_likely > 0
    assert isinstance(world.attempt(first, 1), SendAttempt)
    both = meter.rate(NOW)
    assert both > first_likely
    world.attempt_failed(1, Ending(503))
    assert meter.rate(NOW) == both - first_likely
    world.end(attempts=2, ending=Ending(503))
    assert meter.rate(NOW) == 0


def test_a_call_that_a_limit_refuses_counts_for_nothing() -> None:
    limit = "\n---\nname: l\ntype: gateway-rate-limit-config\nrules:\n"
    world = World(POLICY + limit + "  - {id: one, limit: {requests: 1, window: 1h}}\n")
    world.ask()
    meter = world.gate.velocity.meter("runaway", "p1")
    assert meter is not None
    before = meter.rate(NOW)
    assert isinstance(world.ask(), Refuse)
    assert meter.rate(NOW) == before


def test_a_heartbeat_of_a_stream_counts() -> None:
    world = World(POLICY)
    body = chat(stream=True, max_tokens=60_000)
    assert isinstance(world.ask(body), Forward)
    settlement.request_goes_on(world.gate, RequestGoesOn("r1", 2_000_000, NOW + 5_000))
    refused = world.ask(now=NOW + 5_001)
    assert isinstance(refused, Refuse)
    assert refused.refusal.code is RefusalCode.SPEND_VELOCITY_EXCEEDED


def test_without_a_rule_nothing_is_metered() -> None:
    world = World("")
    assert isinstance(world.ask(), Forward)
    assert world.gate.in_flight["r1"].attempts[1].counted == ()
    assert world.gate.velocity._meters == {}


def test_a_session_rule_derives_sessions_where_no_limit_does() -> None:
    world = World(POLICY.replace("scope: project", "scope: session"))
    world.ask()
    world.end(usage_tail=COST)
    grown = chat()
    grown["messages"] = [*grown["messages"], {"role": "assistant", "content": "x"}]
    assert isinstance(world.ask(grown), Refuse)
    other = chat(messages=[{"role": "user", "content": "another conversation"}])
    assert isinstance(world.ask(other), Forward)


def test_an_id_that_a_limit_has_is_refused() -> None:
    double = POLICY + "budgets:\n  - {id: runaway, ceiling_usd: 1, window: daily}\n"
    assert codes(v=double) == ["duplicate_id"]


def test_a_reservation_is_asked_for_only_after_the_breaker() -> None:
    world = World(POLICY)
    world.ask()
    world.end(usage_tail=COST)
    world.ask()
    assert not any(isinstance(command, Reserve) for command in world.reservations)
