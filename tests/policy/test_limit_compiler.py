"""What rules and budgets fall back to."""

from __future__ import annotations

import pytest
from policies import codes, rule, snapshot


def test_F76_a_fallback_cycle_is_refused() -> None:
    text = """
name: r
type: gateway-rate-limit-config
rules:
  - {id: a, when: {models: intent-fast}, limit: {requests: 1, window: 1m}, on_breach: fallback_to_v}
  - {id: b, when: {models: v}, limit: {requests: 1, window: 1m}, on_breach: fallback_to_intent-fast}
---
name: v
type: gateway-load-balancing-config
rules:
  - {id: v, target: {provider: openai, model: gpt-4o}}
"""
    assert set(codes(x=text)) == {"fallback_cycle"}


@pytest.mark.parametrize(
    ("text", "dearer"),
    [
        ("{id: a, limit: {requests: 1, window: 1m}, on_breach: fallback_to_gpt-4o}", True),
        ("{id: a, limit: {requests: 1, window: 1m}, on_breach: fallback_to_gpt-4o-mini}", False),
        ("{id: a, limit: {requests: 1, window: 1m}, on_breach: fallback_to_haiku}", False),
        (
            "{id: a, when: {models: [dear]}, limit: {requests: 1, window: 1m},"
            " on_breach: fallback_to_gpt-4o}",
            False,
        ),
        ("{id: a, limit: {requests: 1, window: 1m}, on_breach: fallback_to_dear}", True),
    ],
)
def test_a_fallback_that_costs_more_than_what_was_asked_is_warned_of(
    text: str, dearer: bool
) -> None:
    model = (
        "name: dear\ntype: gateway-load-balancing-config\nrules:\n"
        "  - {id: big, target: {provider: openai, model: gpt-4o}}\n"
    )
    warnings = snapshot(more=rule(text), model=model).warnings
    found = [warning for warning in warnings if warning.code == "dearer_fallback"]
    assert bool(found) is dearer
    if dearer:
        assert "openai/gpt-4o" in found[0].message
        assert "intent-fast" in found[0].message
        assert found[0].line > 0
