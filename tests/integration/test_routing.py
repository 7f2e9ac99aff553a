"""Choices between targets that are made of what a running gateway has seen."""

from __future__ import annotations

import time
from collections.abc import Iterator

import openai
import pytest
from gateway import KEY, Gateway, base_policy

MODELS = """
name: budgets
type: gateway-budget-config
budgets:
  - {id: spent, scope: {metadata: {X-TFY-Project: p2}}, per: user, ceiling_usd: 1, window: monthly}
---
name: quick
type: gateway-load-balancing-config
rule_type: latency-based
rules:
  - {id: a, target: {provider: anthropic, model: claude-haiku-4-5}, timeout_ms: 5000}
  - {id: b, target: {provider: openai, model: gpt-4o-mini}, timeout_ms: 5000}
---
name: timely
type: gateway-load-balancing-config
rule_type: priority-based
rules:
  - id: a
    target: {provider: vertex, model: gemini-2.0-flash}
    sla: {first_token_ms: 250}
    timeout_ms: 5000
  - {id: b, priority: 1, target: {provider: openai, model: gpt-4o-mini}, timeout_ms: 5000}
---
name: after-failure
type: gateway-load-balancing-config
rule_type: priority-based
rules:
  - {id: a, target: {provider: bedrock, model: claude-haiku-4-5}, timeout_ms: 5000}
  - id: b
    priority: 1
    target: {provider: vertex, model: gemini-2.0-flash}
    sla: {first_token_ms: 250}
    timeout_ms: 5000
---
name: kept
type: gateway-load-balancing-config
sticky: session
rules:
  - {id: a, target: {model: intent-fast}}
  - {id: b, target: {provider: openai, model: gpt-4o}}
---
name: thrifty
type: gateway-load-balancing-config
rule_type: priority-based
rules:
  - id: cheap
    when: {budget_used_pct_above: {spent: 50}}
    target: {provider: openai, model: gpt-4o-mini}
  - {id: dear, priority: 1, target: {provider: openai, model: gpt-4o}}
"""
HAIKU, FLASH = "anthropic/claude-haiku-4-5", "vertex/gemini-2.0-flash"
MINI, GPT = "openai/gpt-4o-mini", "openai/gpt-4o"


@pytest.fixture
def gateway(module_gateway) -> Iterator[Gateway]:
    gateway = module_gateway(base_policy(more=MODELS))
    yield gateway
    gateway.clear_faults()


def ask(gateway: Gateway, model: str, max_tokens: int = 20, **headers: str) -> str:
    """The target that answered, once the gateway has heard of the stream's end."""
    client = openai.OpenAI(base_url=gateway.url + "/v1", api_key=KEY, max_retries=0)
    raw = client.chat.completions.with_raw_response.create(
        model=model,
        messages=[{"role": "user", "content": "hello"}],
        max_tokens=max_tokens,
        stream=True,
        extra_headers={f"x-tfy-{name.replace('_', '-')}": value for name, value in headers.items()},
    )
    for _ in raw.parse():
        pass
    time.sleep(0.1)
    return raw.headers["x-tfy-resolved-model"]


def test_latency_based_leaves_the_slow_provider_alone_once_it_knows(gateway: Gateway) -> None:
    gateway.faults("anthropic", delay_ms=400)
    first = [ask(gateway, "quick") for _ in range(24)]
    # Each is known after three calls; until then it counts as fast, as the slow one does alone.
    assert HAIKU in first
    assert {ask(gateway, "quick") for _ in range(10)} == {MINI}


def test_an_sla_is_measured_on_the_attempt_that_answered(gateway: Gateway) -> None:
    # The time that the first target took to fail is not the second one's.
    gateway.faults("bedrock", delay_ms=600, status=503)
    assert {ask(gateway, "after-failure") for _ in range(3)} == {FLASH}
    gateway.clear_faults()
    assert ask(gateway, "timely") == FLASH
    gateway.faults("vertex", delay_ms=400)
    for _ in range(9):  # the mean of twelve calls is above 250 ms
        ask(gateway, "timely")
    assert ask(gateway, "timely") == MINI


def test_a_session_stays_through_a_nested_model(gateway: Gateway) -> None:
    for session in ("one", "two", "three", "four"):
        assert len({ask(gateway, "kept", session_id=session) for _ in range(5)}) == 1


def test_a_budget_that_is_nearly_spent_moves_requests_within_seconds(gateway: Gateway) -> None:
    gateway.faults("openai", output_tokens=14_000)
    who = {"project": "p2", "user_id": "u"}
    for _ in range(4):  # 14 cents each of a dollar
        assert ask(gateway, "thrifty", 14_000, **who) == GPT
    deadline = time.monotonic() + 10
    answered = ""
    gateway.clear_faults()
    while answered != MINI and time.monotonic() < deadline:
        answered = ask(gateway, "thrifty", **who)
    assert answered == MINI
    assert ask(gateway, "thrifty", project="p2", user_id="v") == GPT
