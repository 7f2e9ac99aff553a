from __future__ import annotations

import pytest
from policies import codes, compiled, snapshot

from extproc.policy.snapshot import PolicySnapshot, VelocityRule
from extproc.values.envelope import Envelope
from extproc.values.limit import Scope

NOBODY = Envelope()


def document(*rules: str) -> str:
    listed = "".join(f"\n  - {rule}" for rule in rules)
    return f"name: v\ntype: gateway-budget-config\nvelocity:{listed}\n"


def rules(*texts: str, envelope: Envelope = NOBODY) -> tuple[VelocityRule, ...]:
    return snapshot(v=document(*texts)).velocity.matching(envelope, "app", "intent-fast", "openai")


def test_a_rule_as_written() -> None:
    (rule,) = rules(
        "{id: r, scope: [project, user], max_usd_per_minute: 20, times_baseline: 2.5,"
        " baseline: 6h, min_usd_per_minute: 0.5, cooldown: 10m, enforce: shadow,"
        " notify: [slack:#money]}"
    )
    assert rule == VelocityRule(
        "r",
        (Scope.PROJECT, Scope.USER),
        20_000_000,
        250,
        21_600_000,
        500_000,
        600_000,
        False,
        ("slack:#money",),
    )


def test_what_is_left_out() -> None:
    (rule,) = rules("{id: r, times_baseline: 5}")
    assert rule == VelocityRule("r", (), 0, 500, 3_600_000, 1_000_000, 300_000, True)
    # A ceiling below the usual minimum is meant as it stands.
    (rule,) = rules("{id: r, max_usd_per_minute: 0.10}")
    assert (rule.max_micro_usd, rule.min_micro_usd) == (100_000, 100_000)


def test_conditions_are_those_of_limits() -> None:
    text = "{id: r, max_usd_per_minute: 1, when: {metadata: {X-TFY-Project: [a, b-*]}}}"
    assert len(rules(text, envelope=Envelope(project="a"))) == 1
    assert len(rules(text, envelope=Envelope(project="b-7"))) == 1
    assert rules(text, envelope=Envelope(project="c")) == ()


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        ("{id: r}", "missing_key"),
        ("{max_usd_per_minute: 1}", "missing_key"),
        ("{id: r, max_usd_per_minute: 0}", "out_of_range"),
        ("{id: r, max_usd_per_minute: -1}", "out_of_range"),
        ("{id: r, max_usd_per_minute: 10000000000}", "out_of_range"),
        ("{id: r, times_baseline: 1}", "out_of_range"),
        ("{id: r, times_baseline: 1001}", "out_of_range"),
        ("{id: r, max_usd_per_minute: 1, min_usd_per_minute: 2}", "out_of_range"),
        ("{id: r, max_usd_per_minute: 1, baseline: 5m}", "bad_duration"),
        ("{id: r, max_usd_per_minute: 1, baseline: 8d}", "bad_duration"),
        ("{id: r, max_usd_per_minute: 1, cooldown: soon}", "bad_duration"),
        ("{id: r, max_usd_per_minute: 1, scope: galaxy}", "bad_scope"),
        ("{id: r, max_usd_per_minute: 1, enforce: maybe}", "bad_value"),
        ("{id: r, max_usd_per_minut: 1, times_baseline: 5}", "unknown_key"),
        ("{id: r, max_usd_per_minute: fast}", "wrong_type"),
    ],
)
def test_what_is_refused(rule: str, code: str) -> None:
    assert codes(v=document(rule)) == [code]


def test_ids_are_unique_over_limits_and_breakers() -> None:
    rule = "{id: r, max_usd_per_minute: 1}"
    assert codes(v=document(rule, rule)) == ["duplicate_id"]


def test_a_budget_document_needs_budgets_or_velocity() -> None:
    assert codes(v="name: v\ntype: gateway-budget-config\n") == ["missing_key"]


def test_a_breaker_per_session_is_warned_of() -> None:
    policy = compiled(v=document("{id: r, max_usd_per_minute: 1, scope: session}"))
    assert isinstance(policy, PolicySnapshot)
    assert policy.watches_sessions
    assert "session_without_companion" in {warning.code for warning in policy.warnings}
    both = snapshot(v=document("{id: r, max_usd_per_minute: 1, scope: [session, user]}"))
    assert both.watches_sessions
    assert not snapshot(v=document("{id: r, max_usd_per_minute: 1}")).watches_sessions
