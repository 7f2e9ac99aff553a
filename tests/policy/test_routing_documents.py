"""What a virtual model says about the choice between its rules, and what cannot be meant."""

from __future__ import annotations

import pytest
from policies import codes, snapshot

from extproc.policy.routing_rules import Hours, RuleType, Sla, Sticky, StickyBy
from extproc.policy.snapshot import VirtualModel

MODEL = """
name: v
type: gateway-load-balancing-config
MORE
rules:
  - {id: one, RULE target: {provider: openai, model: gpt-4o-mini}}
"""


def model(more: str = "", rule: str = "") -> VirtualModel:
    return snapshot(more=text(more, rule)).virtual_models["v"]


def text(more: str = "", rule: str = "") -> str:
    return MODEL.replace("MORE", more).replace("RULE", rule and rule + ",")


def test_a_model_is_drawn_by_weight_unless_it_says_more() -> None:
    plain = model("rule_type: weight-based")
    assert (plain.rule_type, plain.sticky, plain.weights_only) == (RuleType.WEIGHT, None, True)
    assert not plain.learns_speed
    assert not plain.learns_caches
    for more in ("rule_type: priority-based", "sticky: session"):
        assert not model(more).weights_only
    assert not model(rule="when: {workflow_tag: a}").weights_only
    assert model("rule_type: latency-based").learns_speed
    assert model(rule="sla: {first_token_ms: 9}").learns_speed
    assert model("rule_type: cost-based").learns_caches


def test_sticky_is_a_word_or_a_word_and_a_time() -> None:
    assert model("sticky: session").sticky == Sticky(StickyBy.SESSION, 3_600_000)
    assert model("sticky: {by: user, ttl: 30m}").sticky == Sticky(StickyBy.USER, 1_800_000)


def test_an_sla_names_one_time_or_both() -> None:
    rule = model(rule="priority: 3, sla: {time_per_output_token_ms: 50}").rules[0]
    assert (rule.priority, rule.sla) == (3, Sla(50, 0))
    both = "sla: {time_per_output_token_ms: 50, first_token_ms: 900}"
    assert model(rule=both).rules[0].sla == Sla(50, 900)


def test_hours_that_are_left_out_are_the_whole_day_of_every_day() -> None:
    when = model(rule="when: {time: {from: '22:00', days: [sat, sun]}}").rules[0].when
    assert when is not None
    assert when.hours == Hours(1_320, 1_440, "UTC", frozenset({5, 6}))
    when = model(rule="when: {time: {to: '06:30', zone: Europe/Berlin}}").rules[0].when
    assert when is not None
    assert when.hours == Hours(0, 390, "Europe/Berlin", frozenset(range(7)))


@pytest.mark.parametrize(
    ("more", "rule", "code"),
    [
        ("rule_type: random", "", "bad_value"),
        ("sticky: ip", "", "bad_value"),
        ("sticky: {by: ip}", "", "bad_value"),
        ("sticky: {by: user, ttl: 2d}", "", "bad_duration"),
        ("sticky: {user: ttl}", "", "unknown_key"),
        ("", "priority: -1", "out_of_range"),
        ("", "sla: {}", "missing_key"),
        ("", "sla: {first_token_ms: 0}", "out_of_range"),
        ("", "when: {team: a}", "unknown_key"),
        ("", "when: {metadata: {X-TFY-Plan: a}}", "unknown_field"),
        ("", "when: {prompt_tokens_above: many}", "wrong_type"),
        ("", "when: {budget_used_pct_above: 80}", "wrong_type"),
        ("", "when: {time: {from: '9'}}", "bad_value"),
        ("", "when: {time: {from: '24:30'}}", "bad_value"),
        ("", "when: {time: {from: '09:00', to: '09:00'}}", "bad_value"),
        ("", "when: {time: {zone: Mars}}", "bad_zone"),
        ("", "when: {time: {days: monday}}", "bad_value"),
    ],
)
def test_what_cannot_be_meant_is_refused(more: str, rule: str, code: str) -> None:
    assert code in codes(more=text(more, rule))
