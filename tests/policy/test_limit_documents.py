"""Rate rules and budgets: every key is read, and every mistake is named."""

from __future__ import annotations

import pytest
from policies import budget, codes, limits, rule, snapshot

from extproc.values.limit import Alert, StoreFailure, Unit


def test_a_rule_without_the_rarer_keys_has_the_stricter_defaults() -> None:
    limit = limits(more=rule("{id: a, limit: {requests: 1000, window: 1h}}"))["a/requests"]
    assert limit.on_store_failure is StoreFailure.CLOSED
    assert (limit.max_wait_ms, limit.emergency_amount, limit.alerts) == (10_000, 10, ())
    assert limit.renamed_from == ""


def test_a_rule_says_how_long_to_wait_and_what_an_absent_store_means() -> None:
    text = rule(
        "{id: b, renamed_from: a, limit: {requests: 1000, tokens: 50, window: 1h}, max_wait: 1m,"
        " on_breach: queue_then_429, on_store_failure: emergency_quota, emergency_quota_pct: 5}"
    )
    found = limits(more=text)
    assert found["b/requests"].max_wait_ms == 60_000
    assert found["b/requests"].on_store_failure is StoreFailure.EMERGENCY_QUOTA
    assert found["b/requests"].emergency_amount == 50
    assert found["b/tokens"].emergency_amount == 2
    assert found["b/tokens"].renamed_from == "a/tokens"


def test_a_quota_that_rounds_to_nothing_is_warned_of() -> None:
    text = "{{id: a, limit: {{requests: {}, window: 1h}}, on_store_failure: {}}}"
    for ceiling, failure, warned in (
        (99, "emergency_quota", True),
        (100, "emergency_quota", False),
        (99, "closed", False),
    ):
        policy = snapshot(more=rule(text.format(ceiling, failure)))
        warned_of = [warning.code for warning in policy.warnings]
        assert ("empty_emergency_quota" in warned_of) is warned


def test_a_statistical_budget_counts_likely_dollars_under_the_same_key() -> None:
    strict = limits(more=budget("{id: a, ceiling_usd: 1, window: daily}"))
    likely = limits(more=budget("{id: a, ceiling_usd: 1, window: daily, mode: statistical}"))
    assert strict["a/usd"].unit is Unit.MICRO_USD
    assert likely["a/usd"].unit is Unit.LIKELY_MICRO_USD


def test_alerts_keep_their_thresholds_and_channels() -> None:
    text = budget(
        '{id: a, ceiling_usd: 1, window: daily, alerts: [{at_pct: 80, notify: ["slack:#x"]}]}'
    )
    assert limits(more=text)["a/usd"].alerts == (Alert(80, ("slack:#x",)),)


def test_degraded_answers_have_a_length_and_a_share_of_their_own() -> None:
    text = budget("{id: a, ceiling_usd: 1, window: daily, on_exceed: degrade}")
    found = limits(more=text)["a/usd"]
    assert found.degrade_max_output_tokens == 2_048
    assert found.fallback_ceiling == 900_000
    text = rule(
        "{id: a, limit: {requests: 9, window: 1h}, on_breach: degrade,"
        " degrade_max_output_tokens: 300}"
    )
    found = limits(more=text)["a/requests"]
    assert found.degrade_max_output_tokens == 300
    assert found.fallback_ceiling == 9
    assert snapshot(more=text).warnings == ()


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (rule("{id: a, limit: {usd: 1, window: 1h}, on_store_failure: open}"), "open_money"),
        (budget("{id: a, ceiling_usd: 1, window: daily, on_store_failure: open}"), "open_money"),
        (rule("{id: a, limit: {requests: 1, window: 1h}, on_store_failure: shut}"), "bad_value"),
        (rule("{id: a, limit: {requests: 1, window: 1h}, max_wait: soon}"), "bad_duration"),
        (rule("{id: a, limit: {requests: 1, window: 1h}, max_wait: 2m}"), "bad_duration"),
        (rule("{id: a, limit: {requests: 1, window: 1h}, max_wait: daily}"), "bad_duration"),
        (
            rule("{id: a, limit: {requests: 1, window: 1h}, emergency_quota_pct: 99}"),
            "out_of_range",
        ),
        (budget("{id: a, ceiling_usd: 1, window: daily, mode: likely}"), "bad_value"),
        (
            budget("{id: a, ceiling_usd: 1, window: daily, degrade_max_output_tokens: 0}"),
            "out_of_range",
        ),
        (rule("{id: a, limit: {requests: 1, window: 1h}, mode: statistical}"), "unknown_key"),
    ],
)
def test_what_cannot_be_meant_is_refused(text: str, code: str) -> None:
    assert codes(more=text) == [code]


def test_F78_a_rule_is_renamed_from_one_that_is_gone_and_by_one() -> None:
    a, b, c = (
        f"{{id: {new}, limit: {{tokens: 5, window: 1h}}{more}}}"
        for new, more in (("a", ""), ("b", ", renamed_from: a"), ("c", ", renamed_from: a"))
    )
    assert codes(more=rule(b)) == []
    assert codes(one=rule(a), two=rule(b)) == ["rename_of_a_rule"]
    assert codes(one=rule(b), two=rule(c)) == ["rename_to_several"] * 2
    assert codes(more=rule(b.replace("renamed_from: a", "renamed_from: b"))) == ["rename_of_a_rule"]
