"""Clamped, degraded and moved requests through Envoy: what the provider got, what the SDK shows."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest
from gateway import KEY, Gateway, base_policy

LIMITS = """
name: limits
type: gateway-rate-limit-config
rules:
  - id: two-then-short
    when: {metadata: {X-TFY-Workflow-Tag: drafts}}
    limit: {requests: 1, window: 1h}
    scope: user
    on_breach: degrade
    degrade_max_output_tokens: 1500
  - id: one-then-mini
    when: {metadata: {X-TFY-Workflow-Tag: moves}}
    limit: {requests: 1, window: 1h}
    scope: user
    on_breach: fallback_to_gpt-4o-mini
---
name: budgets
type: gateway-budget-config
budgets:
  - {id: tight, scope: {metadata: {X-TFY-Project: p2}}, per: user, ceiling_usd: 0.01, window: 1d}
  - {id: wide, ceiling_usd: 100, window: monthly}
---
name: fails-over
type: gateway-load-balancing-config
rules:
  - {id: cheap, weight: 1, target: {provider: bedrock, model: claude-haiku-4-5}, timeout_ms: 900}
fallbacks:
  - {id: dear, provider: openai, model: gpt-4o, timeout_ms: 900}
  - {id: newer, provider: vertex, model: gpt-5, timeout_ms: 900}
---
name: prices
type: gateway-config
prices:
  - provider: vertex
    model: gpt-5
    input_usd_per_mtok: 1.25
    output_usd_per_mtok: 10
    context_tokens: 400000
    max_output_tokens: 128000
"""
MESSAGES = [{"role": "user", "content": "hello"}]
USERS = (f"u{number}" for number in itertools.count())


@pytest.fixture
def gateway(module_gateway) -> Iterator[Gateway]:
    gateway = module_gateway(base_policy(limits=LIMITS))
    for provider in ("anthropic", "bedrock", "openai", "vertex"):
        gateway.faults(provider, output_tokens=100_000, keep_bodies=True)
    yield gateway
    gateway.clear_faults()


def tight() -> dict[str, str]:
    """The headers of a user with one cent."""
    return {"x-tfy-project": "p2", "x-tfy-user-id": next(USERS)}


def openai_client(gateway: Gateway) -> openai.OpenAI:
    return openai.OpenAI(base_url=gateway.url + "/v1", api_key=KEY, max_retries=0)


def anthropic_client(gateway: Gateway) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=gateway.url, api_key=KEY, max_retries=0)


def maximum(headers: Any) -> int:
    """What the answer says its output was cut to."""
    name, _, tokens = headers["x-tfy-clamped"].partition("=")
    assert name == "max_tokens"
    return int(tokens)


def received(gateway: Gateway) -> dict[str, Any]:
    """What the provider got last."""
    body: dict[str, Any] = json.loads(gateway.bill()[-1]["body"])
    return body


@pytest.mark.parametrize("fields", [{"max_tokens": 4000}, {"max_completion_tokens": 4000}, {}])
def test_a_clamped_openai_answer_is_whole_and_says_so(
    gateway: Gateway, fields: dict[str, int]
) -> None:
    raw = openai_client(gateway).chat.completions.with_raw_response.create(
        model="intent-fast", messages=MESSAGES, extra_headers=tight(), **fields
    )
    answer = raw.parse()
    tokens = maximum(raw.headers)
    assert 256 <= tokens < 4000
    assert answer.usage is not None
    assert answer.usage.completion_tokens == tokens
    assert answer.choices[0].finish_reason == "length"
    named = {key: value for key, value in received(gateway).items() if key.startswith("max_")}
    assert named == {next(iter(fields), "max_tokens"): tokens}


def test_a_clamped_openai_stream_is_whole_and_says_so(gateway: Gateway) -> None:
    raw = openai_client(gateway).chat.completions.with_raw_response.create(
        model="intent-fast",
        messages=MESSAGES,
        max_tokens=4000,
        stream=True,
        stream_options={"include_usage": True},
        extra_headers=tight(),
    )
    chunks = list(raw.parse())
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == maximum(raw.headers)


def test_a_clamped_response_is_whole_and_says_so(gateway: Gateway) -> None:
    raw = openai_client(gateway).responses.with_raw_response.create(
        model="intent-fast", input="hello", max_output_tokens=4000, extra_headers=tight()
    )
    answer = raw.parse()
    assert answer.usage is not None
    assert answer.usage.output_tokens == maximum(raw.headers)
    assert received(gateway)["max_output_tokens"] == maximum(raw.headers)


def test_a_clamped_anthropic_answer_is_whole_and_keeps_its_thinking(gateway: Gateway) -> None:
    client = anthropic_client(gateway)
    raw = client.messages.with_raw_response.create(
        model="intent-fast",
        messages=MESSAGES,
        max_tokens=4000,
        thinking={"type": "enabled", "budget_tokens": 1024},
        extra_headers=tight(),
    )
    answer = raw.parse()
    tokens = maximum(raw.headers)
    assert 1024 + 256 <= tokens < 4000
    assert answer.usage.output_tokens == tokens
    assert answer.stop_reason == "max_tokens"
    assert received(gateway)["thinking"] == {"type": "enabled", "budget_tokens": 1024}
    with client.messages.stream(
        model="intent-fast", messages=MESSAGES, max_tokens=4000, extra_headers=tight()
    ) as stream:
        usage = stream.get_final_message().usage
        assert usage.output_tokens == maximum(stream.response.headers)


def test_a_spent_budget_refuses_what_would_be_cut_too_short(gateway: Gateway) -> None:
    headers = tight()
    ask = openai_client(gateway).chat.completions.create
    ask(model="intent-fast", messages=MESSAGES, max_tokens=4000, extra_headers=headers)
    with pytest.raises(openai.RateLimitError) as refused:
        ask(model="intent-fast", messages=MESSAGES, max_tokens=4000, extra_headers=headers)
    assert refused.value.code == "budget_exceeded"


def test_a_degraded_answer_is_short_and_says_by_which_rule(gateway: Gateway) -> None:
    headers = {"x-tfy-workflow-tag": "drafts", "x-tfy-user-id": next(USERS)}
    ask = openai_client(gateway).chat.completions.with_raw_response.create
    fields: dict[str, Any] = {"max_tokens": 4000, "reasoning_effort": "high"}
    for expected in (
        None,
        "max_tokens=1500, reasoning_effort=low, degraded_by=two-then-short",
    ):
        raw = ask(model="intent-fast", messages=MESSAGES, extra_headers=headers, **fields)
        assert raw.headers.get("x-tfy-clamped") == expected
    got = received(gateway)
    assert (got["max_tokens"], got["reasoning_effort"]) == (1500, "low")
    user = headers["x-tfy-user-id"]
    assert gateway.settled(f"two-then-short/requests:overflow@{user}") == 1
    assert gateway.settled(f"two-then-short/requests@{user}") == 1


def test_an_answer_of_a_fallback_names_the_rule_and_is_counted(gateway: Gateway) -> None:
    headers = {"x-tfy-workflow-tag": "moves", "x-tfy-user-id": next(USERS)}
    ask = openai_client(gateway).chat.completions.with_raw_response.create
    moved = gateway.metric("tokenweir_breached_fallbacks_total")
    for expected in (None, "one-then-mini"):
        raw = ask(model="intent-fast", messages=MESSAGES, max_tokens=9, extra_headers=headers)
        assert raw.headers.get("x-tfy-fallback-from") == expected
    assert raw.headers["x-tfy-resolved-model"] == "openai/gpt-4o-mini"
    assert gateway.metric("tokenweir_breached_fallbacks_total") == moved + 1


def test_a_later_attempt_is_clamped_to_what_the_first_one_leaves(gateway: Gateway) -> None:
    # It times out, so it stays charged: an error status might be released in time for the next one.
    gateway.faults("bedrock", hang="before_headers")
    headers = tight()
    raw = openai_client(gateway).chat.completions.with_raw_response.create(
        model="fails-over", messages=MESSAGES, max_tokens=400, extra_headers=headers
    )
    assert raw.headers["x-tfy-resolved-model"] == "openai/gpt-4o"
    tokens = maximum(raw.headers)
    assert 256 <= tokens < 400
    assert raw.parse().usage.completion_tokens == tokens
    assert received(gateway)["max_tokens"] == tokens
    # What was said of the first attempt stays said.
    assert raw.headers["x-tfy-policy-generation"] == "1"
    assert "tight" in raw.headers["x-tfy-applied-rules"]


def test_a_stream_of_a_clamped_later_attempt_still_hides_what_was_not_asked_for(
    gateway: Gateway,
) -> None:
    gateway.faults("bedrock", hang="before_headers")
    raw = openai_client(gateway).chat.completions.with_raw_response.create(
        model="fails-over", messages=MESSAGES, max_tokens=400, stream=True, extra_headers=tight()
    )
    chunks = list(raw.parse())
    assert maximum(raw.headers) < 400
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


def test_F58_an_injected_maximum_follows_the_model_family(gateway: Gateway) -> None:
    gateway.faults("bedrock", status=503)
    gateway.faults("openai", status=503)
    raw = openai_client(gateway).chat.completions.with_raw_response.create(
        model="fails-over", messages=MESSAGES
    )
    assert raw.headers["x-tfy-resolved-model"] == "vertex/gpt-5"
    named = {key: value for key, value in received(gateway).items() if key.startswith("max_")}
    assert named == {"max_completion_tokens": 4096}
