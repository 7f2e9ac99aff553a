"""Every header that the contract promises, on answers and refusals, in both dialects."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from gateway import Gateway, base_policy, chat

POLICY = """
name: limits
type: gateway-rate-limit-config
rules:
  - {id: pace, limit: {requests: 1000, tokens: 1000000, window: 1m}, scope: user}
  - id: twice
    when: {metadata: {X-TFY-Project: p2}}
    limit: {requests: 2, window: 1h}
    scope: user
---
name: budgets
type: gateway-budget-config
budgets:
  - {id: strict, ceiling_usd: 50, window: monthly}
  - id: likely
    when: {metadata: {X-TFY-Workflow-Tag: loose}}
    ceiling_usd: 2
    window: monthly
    mode: statistical
  - id: broke
    when: {metadata: {X-TFY-Project: intern-sandbox}}
    ceiling_usd: 0.000001
    window: monthly
"""
ALWAYS = {"x-request-id", "x-tfy-policy-generation"}
COUNTED = {
    "x-tfy-applied-rules",
    "x-budget-remaining-usd",
    *(
        f"x-ratelimit-{what}-{unit}"
        for what in ("limit", "remaining", "reset")
        for unit in ("requests", "tokens")
    ),
}
PATHS = ("/v1/chat/completions", "/v1/messages")


@pytest.fixture
def gateway(module_gateway) -> Gateway:
    gateway = module_gateway(base_policy(policy=POLICY))
    gateway.clear_faults()
    return gateway


def ask(
    gateway: Gateway, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> httpx.Response:
    """One call; Anthropic's own clients name a version."""
    return gateway.post(
        body, path=path, headers={"anthropic-version": "2023-06-01", **(headers or {})}
    )


def named(answer: httpx.Response) -> set[str]:
    promised = ("x-tfy-", "x-ratelimit-", "x-budget-", "x-request-id")
    return {name for name in answer.headers if name.startswith(promised)}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", PATHS)
def test_answers_carry_all_of_them(gateway: Gateway, path: str, stream: bool) -> None:
    answer = ask(gateway, path, chat(stream=stream))
    assert answer.status_code == 200
    assert named(answer) == ALWAYS | COUNTED | {"x-tfy-resolved-model"}
    assert answer.headers["x-tfy-applied-rules"] == "pace,strict"
    assert answer.headers["x-ratelimit-limit-requests"] == "1000"
    assert answer.headers["x-ratelimit-reset-tokens"].endswith("s")
    assert 49 < float(answer.headers["x-budget-remaining-usd"]) < 50


@pytest.mark.parametrize("path", PATHS)
def test_after_a_failover_they_name_who_answered(gateway: Gateway, path: str) -> None:
    for name in ("anthropic", "bedrock"):
        gateway.faults(name, status=503)
    answer = ask(gateway, path)
    assert answer.status_code == 200
    assert answer.headers["x-tfy-resolved-model"] == "openai/gpt-4o-mini"
    assert named(answer) == ALWAYS | COUNTED | {"x-tfy-resolved-model"}


@pytest.mark.parametrize("path", PATHS)
def test_a_providers_own_error_carries_them_too(gateway: Gateway, path: str) -> None:
    for name in ("anthropic", "bedrock", "openai", "vertex"):
        gateway.faults(name, status=500)
    answer = ask(gateway, path)
    assert answer.status_code == 500
    assert named(answer) == ALWAYS | COUNTED | {"x-tfy-resolved-model"}


@pytest.mark.parametrize("path", PATHS)
def test_the_tightest_budget_is_shown_whatever_its_mode(gateway: Gateway, path: str) -> None:
    answer = ask(gateway, path, headers={"x-tfy-workflow-tag": "loose"})
    assert 1 < float(answer.headers["x-budget-remaining-usd"]) < 2
    # What it is in is no token count of anything.
    assert answer.headers["x-ratelimit-limit-tokens"] == "1000000"


@pytest.mark.parametrize("path", PATHS)
def test_refusals_of_a_limit_carry_what_refused(gateway: Gateway, path: str) -> None:
    headers = {"x-tfy-project": "p2", "x-tfy-user-id": path.replace("/", ".")}
    for _ in range(2):
        assert ask(gateway, path, headers=headers).status_code == 200
    refused = ask(gateway, path, headers=headers)
    assert refused.status_code == 429
    requests = {f"x-ratelimit-{what}-requests" for what in ("limit", "remaining", "reset")}
    assert named(refused) == ALWAYS | requests | {"x-tfy-applied-rules"}
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert refused.headers["x-tfy-applied-rules"] == "pace,twice,strict"


@pytest.mark.parametrize("path", PATHS)
def test_refusals_of_a_budget_carry_what_is_left(gateway: Gateway, path: str) -> None:
    refused = ask(gateway, path, headers={"x-tfy-project": "intern-sandbox"})
    assert refused.status_code == 429
    assert named(refused) == ALWAYS | {"x-tfy-applied-rules", "x-budget-remaining-usd"}
    assert refused.headers["x-budget-remaining-usd"] == "0.000001"


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (chat(), {"x-tfy-project": "p9"}, 403),
        (chat(), {"authorization": "Bearer wrong"}, 401),
        (chat(model="nope"), {}, 404),
        ({"model": 7}, {}, 400),
    ],
)
def test_other_refusals_name_the_request_and_the_policy(
    gateway: Gateway, path: str, body: Any, headers: dict[str, str], status: int
) -> None:
    refused = ask(gateway, path, body, headers)
    assert refused.status_code == status
    assert named(refused) == ALWAYS
    error = refused.json()["error"]
    assert error["metadata"]["request_id"] == refused.headers["x-request-id"]


@pytest.mark.parametrize("path", ["/v1/models", "/v1/budget/effective"])
def test_what_the_gateway_answers_itself_names_them_too(gateway: Gateway, path: str) -> None:
    answer = httpx.get(gateway.url + path, headers={"x-api-key": "tw-test-key"})
    assert answer.status_code == 200
    assert named(answer) == ALWAYS
