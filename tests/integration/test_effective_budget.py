"""``GET /v1/budget/effective`` through Envoy, asked as agents ask: plain HTTP and the SDKs."""

from __future__ import annotations

from typing import Any

import anthropic
import httpx
import openai
import pytest
from gateway import HEADERS, KEY, Gateway, base_policy, chat

from extproc.core.effective_budget import empty_prompt

POLICY = """
name: budgets
type: gateway-budget-config
budgets:
  - {id: each, scope: user, ceiling_usd: 0.02, window: daily}
  - {id: all, ceiling_usd: 100, window: monthly}
---
name: limits
type: gateway-rate-limit-config
rules:
  - {id: pace, limit: {requests: 1000, window: 1m}, scope: user}
"""
PATH = "/v1/budget/effective"


@pytest.fixture
def gateway(module_gateway) -> Gateway:
    return module_gateway(base_policy(policy=POLICY))


def ask(gateway: Gateway, query: str = "", **headers: str) -> httpx.Response:
    names = {f"x-tfy-{name.replace('_', '-')}": value for name, value in headers.items()}
    return httpx.get(gateway.url + PATH + query, headers={**HEADERS, **names})


def test_what_is_left_shrinks_with_what_is_spent(gateway: Gateway) -> None:
    before = ask(gateway, "?model=intent-fast", user_id="shrink")
    assert before.status_code == 200
    assert before.headers["content-type"] == "application/json"
    assert before.headers["x-tfy-policy-generation"] == "1"
    assert before.headers["x-request-id"]
    assert before.json()["usd_remaining"] == "0.02"
    answer = gateway.post(headers={"x-tfy-user-id": "shrink"})
    assert answer.status_code == 200
    spent = gateway.settled("each/usd@shrink")
    after = ask(gateway, "?model=intent-fast", user_id="shrink").json()
    limits = {entry["rule_id"]: entry for entry in after["limits"]}
    assert limits["each"]["settled"] == f"{spent / 1e6:.6f}".rstrip("0").ljust(4, "0")
    assert float(limits["each"]["remaining"]) == pytest.approx(0.02 - spent / 1e6)
    assert limits["pace"]["settled"] == 1
    assert after["max_tokens"] < before.json()["max_tokens"]


def test_an_agent_that_plans_with_it_is_never_refused_and_uses_all(gateway: Gateway) -> None:
    for name in ("anthropic", "bedrock"):
        gateway.faults(name, output_tokens=100_000)
    spoken: list[int] = []
    for _ in range(20):
        most = ask(gateway, "?model=intent-fast", user_id="planner").json()["max_tokens"]
        if most < 50:
            break
        content = empty_prompt("intent-fast", min(most, 900))
        answer = httpx.post(
            gateway.url + "/v1/chat/completions",
            content=content,
            headers={**HEADERS, "x-tfy-user-id": "planner"},
        )
        assert answer.status_code == 200, answer.text
        spoken.append(answer.json()["usage"]["completion_tokens"])
        gateway.settled("each/usd@planner")
    gateway.clear_faults()
    assert most < 50, "the budget was not used up"
    assert sum(spoken) > 3_000
    # One more than it says is refused.
    answer = httpx.post(
        gateway.url + "/v1/chat/completions",
        content=empty_prompt("intent-fast", 64_000),
        headers={**HEADERS, "x-tfy-user-id": "planner"},
    )
    assert answer.status_code == 429


def test_it_costs_nothing_and_counts_nowhere(gateway: Gateway) -> None:
    for _ in range(3):
        assert ask(gateway, user_id="curious").status_code == 200
    assert not [name for name in gateway.usage() if "curious" in name]


def test_the_official_sdks_can_ask(gateway: Gateway) -> None:
    client = openai.OpenAI(base_url=gateway.url + "/v1", api_key=KEY)
    answer: Any = client.get("/budget/effective", cast_to=dict[str, Any])
    assert answer["object"] == "budget.effective"
    claude = anthropic.Anthropic(base_url=gateway.url, api_key=KEY)
    document: Any = claude.get(PATH + "?model=intent-fast", cast_to=dict[str, Any])
    assert document["max_tokens"] > 0
    wrong = anthropic.Anthropic(base_url=gateway.url, api_key="wrong")
    with pytest.raises(anthropic.AuthenticationError) as told:
        wrong.get(PATH, cast_to=dict[str, Any])
    body: Any = told.value.body
    assert body["error"]["metadata"]["code"] == "invalid_credential"
    stranger = openai.OpenAI(base_url=gateway.url + "/v1", api_key="wrong")
    with pytest.raises(openai.AuthenticationError) as caught:
        stranger.get("/budget/effective", cast_to=dict[str, Any])
    assert caught.value.code == "invalid_credential"


def test_it_needs_a_credential_the_envelope_and_a_known_model(gateway: Gateway) -> None:
    assert httpx.get(gateway.url + PATH).status_code == 401
    conflict = ask(gateway, project="p9")
    assert (conflict.status_code, conflict.json()["error"]["code"]) == (403, "identity_conflict")
    unknown = ask(gateway, "?model=nope")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "unknown_model")
    long = httpx.get(
        gateway.url + "/api/llm/api/inference/openai/budget/effective", headers=HEADERS
    )
    assert long.status_code == 200


def test_a_body_does_not_hurt(gateway: Gateway) -> None:
    assert gateway.post(chat(), path=PATH).status_code == 200
