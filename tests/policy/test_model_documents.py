"""Virtual models as written: defaults, fallbacks, breaker, and what is refused."""

from __future__ import annotations

import pytest
from policies import codes, snapshot

MODEL = """
name: v
type: gateway-load-balancing-config
rules:
  - {id: one, target: {provider: openai, model: gpt-4o-mini}}
"""


def test_what_is_left_out_has_its_default() -> None:
    model = snapshot(more=MODEL).virtual_models["v"]
    assert [(target.id, target.weight, target.timeout_ms) for target in model.targets] == [
        ("one", 1, 60_000)
    ]
    assert model.fallbacks == ()
    assert (model.breaker.failure_threshold, model.breaker.window_ms) == (5, 60_000)


def test_a_fallback_is_named_by_its_target_unless_it_has_an_id() -> None:
    text = MODEL + (
        "fallbacks:\n"
        "  - {provider: openai, model: gpt-4o, timeout_ms: 5}\n"
        "  - {id: last, provider: anthropic, model: claude-haiku-4-5}\n"
        "circuit_breaker: {failure_threshold: 2, cooldown_seconds: 7}\n"
    )
    model = snapshot(more=text).virtual_models["v"]
    assert [target.id for target in model.fallbacks] == ["openai/gpt-4o", "last"]
    assert [target.weight for target in model.fallbacks] == [0, 0]
    assert model.breaker.cooldown_ms == 7_000


def test_what_a_target_lacks_is_what_its_model_lacks_and_what_is_said() -> None:
    text = MODEL.replace("gpt-4o-mini}", "gpt-4o-mini, lacks: [tools, vision]}")
    text += "fallbacks:\n  - {provider: anthropic, model: claude-haiku-4-5, lacks: vision}\n"
    model = snapshot(more=text).virtual_models["v"]
    assert model.targets[0].lacks == {"tools", "vision", "thinking"}
    assert model.fallbacks[0].lacks == {"vision"}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (("name: v", 'name: "v w"'), "bad_name"),
        (("{id: one,", "{id: one, weight: -1,"), "out_of_range"),
        (("{id: one,", "{id: one, timeout_ms: 600001,"), "out_of_range"),
        (("{id: one,", "{id: one, idle_timeout_seconds: 301,"), "out_of_range"),
        (("{id: one,", "{id: one, idle_timeout_seconds: 0,"), "out_of_range"),
        (("{id: one,", '{id: "a b",'), "bad_id"),
        (("model: gpt-4o-mini", "modle: gpt-4o-mini"), "missing_key"),
        (("model: gpt-4o-mini", "model: gpt-4o-mini, lacks: [eyes]"), "bad_value"),
    ],
)
def test_what_cannot_be_meant_is_refused(change: tuple[str, str], code: str) -> None:
    assert code in codes(more=MODEL.replace(*change))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{}", (5, 0, 20)),
        ("{failure_threshold: 3}", (3, 0, 20)),
        ("{failure_percentage: 50}", (0, 50, 20)),
        ("{failure_percentage: 100, minimum_requests: 1}", (0, 100, 1)),
        ("{failure_threshold: 3, failure_percentage: 25}", (3, 25, 20)),
    ],
)
def test_a_breaker_counts_failures_or_their_share_or_both(
    text: str, expected: tuple[int, int, int]
) -> None:
    breaker = snapshot(more=MODEL + f"circuit_breaker: {text}\n").virtual_models["v"].breaker
    found = (breaker.failure_threshold, breaker.failure_percentage, breaker.minimum_requests)
    assert found == expected


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{failure_threshold: 0}", "out_of_range"),
        ("{failure_percentage: 0}", "out_of_range"),
        ("{failure_percentage: 101}", "out_of_range"),
        ("{failure_percentage: 50.5}", "wrong_type"),
        ("{failure_percentage: 50, minimum_requests: 0}", "out_of_range"),
        ("{minimum_requests: 10}", "missing_key"),
        ("{window_seconds: 86401}", "out_of_range"),
        ("{cooldown_seconds: 0}", "out_of_range"),
        ("{failure_percent: 50}", "unknown_key"),
    ],
)
def test_a_breaker_that_cannot_be_meant_is_refused(text: str, code: str) -> None:
    assert codes(more=MODEL + f"circuit_breaker: {text}\n") == [code]


def test_F57_weights_that_are_all_0_are_refused_before_a_request_could_meet_them() -> None:
    assert codes(more=MODEL.replace("{id: one,", "{id: one, weight: 0,")) == ["no_weight"]


def test_a_target_has_its_own_longest_silence() -> None:
    text = MODEL.replace("{id: one,", "{id: one, idle_timeout_seconds: 7,")
    text += "fallbacks:\n  - {provider: openai, model: gpt-4o, idle_timeout_seconds: 9}\n"
    model = snapshot(more=text).virtual_models["v"]
    assert [target.idle_timeout_ms for target in model.all_targets] == [7_000, 9_000]
