"""The seed's story, with real Envoy: what the policy says is what happens."""

from __future__ import annotations

import threading
import time
from collections import Counter

import httpx
import pytest
from gateway import HEADERS, Gateway, base_policy, chat

LIMITS = """
name: limits
type: gateway-rate-limit-config
rules:
  - id: per-session-loop-guard
    when: {metadata: {X-TFY-Environment: production}}
    limit: {tokens: 200000, window: 1h}
    scope: session
    on_breach: hard_block
  - id: classify-intent-soft-cap
    when: {metadata: {X-TFY-Workflow-Tag: classify-intent}}
    limit: {requests: 3, window: 1h}
    on_breach: fallback_to_haiku
---
name: budgets
type: gateway-budget-config
budgets:
  - id: intern-sandbox-cap
    scope: {metadata: {X-TFY-Project: intern-sandbox}}
    ceiling_usd: 0.001
    window: monthly
    on_exceed: hard_block
---
name: strong
type: gateway-load-balancing-config
rules:
  - {id: strong, weight: 1, target: {provider: openai, model: gpt-4o}, timeout_ms: 2000}
"""


@pytest.fixture
def gateway(module_gateway) -> Gateway:
    gateway = module_gateway(base_policy(limits=LIMITS))
    gateway.clear_faults()
    return gateway


def test_a_virtual_model_splits_90_to_10_and_answers_say_who_served(gateway: Gateway) -> None:
    served: Counter[str] = Counter()
    with httpx.Client(base_url=gateway.url, headers=HEADERS) as client:
        for _ in range(200):
            answer = client.post("/v1/chat/completions", json=chat())
            assert answer.status_code == 200, answer.text
            served[answer.headers["x-tfy-resolved-model"]] += 1
    assert set(served) == {
        "anthropic/claude-haiku-4-5",
        "bedrock/anthropic.claude-haiku-4-5",
    }
    # Binomial(200, 0.1): outside of 4..45 once in ten million runs.
    assert 4 <= served["bedrock/anthropic.claude-haiku-4-5"] <= 45


def test_a_failing_primary_is_not_seen_by_the_client(gateway: Gateway) -> None:
    gateway.faults("anthropic", status=503)
    for body in (chat(), chat(stream=True)):
        answer = gateway.post(body)
        assert answer.status_code == 200, answer.text
        assert not answer.headers["x-tfy-resolved-model"].startswith("anthropic/")


def test_a_hanging_primary_is_left_after_its_timeout(gateway: Gateway) -> None:
    gateway.faults("anthropic", hang="before_headers")
    gateway.faults("bedrock", hang="before_headers")
    started = time.monotonic()
    answer = gateway.post()
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-tfy-resolved-model"] == "openai/gpt-4o-mini"
    assert 3.5 < time.monotonic() - started < 8


def test_a_looping_session_is_stopped_and_others_of_the_same_user_go_on(gateway: Gateway) -> None:
    def ask(session: str) -> httpx.Response:
        headers = {
            "x-tfy-environment": "production",
            "x-tfy-user-id": "u1",
            "x-tfy-session-id": session,
        }
        body = chat(messages=[{"role": "user", "content": "again and again " * 4000}])
        return gateway.post(body, headers=headers)

    statuses = []
    for _ in range(30):
        answer = ask("looping")
        statuses.append(answer.status_code)
        if answer.status_code == 429:
            break
    assert statuses[-1] == 429
    assert 200 in statuses
    error = answer.json()["error"]
    assert error["code"] == "rate_limit_exceeded"
    assert error["metadata"]["rule_id"] == "per-session-loop-guard"
    assert error["metadata"]["limit"] == 200_000
    assert "resets_at" in error["metadata"]
    assert ask("another").status_code == 200


def test_a_soft_cap_moves_traffic_to_haiku(gateway: Gateway) -> None:
    models = []
    for _ in range(5):
        answer = gateway.post(
            chat(model="strong"), headers={"x-tfy-workflow-tag": "classify-intent"}
        )
        assert answer.status_code == 200, answer.text
        models.append(answer.headers["x-tfy-resolved-model"])
    assert models[:3] == ["openai/gpt-4o"] * 3
    assert models[3:] == ["anthropic/claude-haiku-4-5"] * 2
    gateway.settled("classify-intent-soft-cap/requests")
    assert gateway.usage()["classify-intent-soft-cap/requests:overflow"]["settled"] == 2


def test_the_intern_sandbox_is_blocked_at_its_cap(gateway: Gateway) -> None:
    before = gateway.billed_micro_usd()
    answers = [
        gateway.post(chat(max_tokens=16), headers={"x-tfy-project": "intern-sandbox"})
        for _ in range(12)
    ]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    assert refused[0].json()["error"]["code"] == "budget_exceeded"
    assert refused[0].headers["x-should-retry"] == "false"
    assert gateway.settled("intern-sandbox-cap/usd") <= 1_000
    assert gateway.billed_micro_usd() - before <= 1_000


def test_settlement_equals_the_providers_bill(start_gateway) -> None:
    budget = """
name: b
type: gateway-budget-config
budgets:
  - {id: all, ceiling_usd: 100, window: monthly, on_exceed: hard_block}
"""
    gateway = start_gateway(base_policy(budget=budget))
    for stream in (False, True):
        assert gateway.post(chat(stream=stream)).status_code == 200
        message = chat(stream=stream)
        headers = {"anthropic-version": "2023-06-01"}
        assert gateway.post(message, path="/v1/messages", headers=headers).status_code == 200
        response = {"model": "intent-fast", "input": "hello", "stream": stream}
        answer = gateway.post(response, path="/v1/responses")
        assert answer.status_code == 200, answer.text
    gateway.post({"model": "intent-fast", "input": ["a", "b"]}, path="/v1/embeddings")
    assert gateway.settled("all/usd") == gateway.billed_micro_usd()
    assert gateway.metric("tokenweir_settled_without_usage_total") == 0


def test_editing_policy_under_load_takes_effect_within_a_second_and_fails_nothing(
    start_gateway,
) -> None:
    gateway = start_gateway(base_policy())
    statuses: Counter[int] = Counter()
    stop = threading.Event()

    def load() -> None:
        with httpx.Client(base_url=gateway.url, headers=HEADERS, timeout=30) as client:
            while not stop.is_set():
                statuses[client.post("/v1/chat/completions", json=chat()).status_code] += 1

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(0.5)
        models = (gateway.policy / "models.yaml").read_text()
        changed = models.replace(
            "provider: anthropic, model: claude-haiku-4-5", "provider: openai, model: gpt-4o"
        )
        changed = changed.replace("weight: 10", "weight: 0")
        saved = time.monotonic()
        gateway.save_policy("models.yaml", changed)
        while gateway.generation() == 1:
            assert time.monotonic() - saved < 5
            time.sleep(0.01)
        took = time.monotonic() - saved
        answer = gateway.post()
        assert answer.headers["x-tfy-resolved-model"] == "openai/gpt-4o"
        assert answer.headers["x-tfy-policy-generation"] == "2"

        gateway.save_policy("models.yaml", changed.replace("weight: 90", "wieght: 90"))
        deadline = time.monotonic() + 5
        while not gateway.policy_report()["problems"]:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        problem = gateway.policy_report()["problems"][0]
        assert problem.startswith("models.yaml:7: unknown_key")
        assert "weight" in problem
        assert gateway.generation() == 2
        assert gateway.post().status_code == 200
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert set(statuses) == {200}, statuses
    assert sum(statuses.values()) > 20
    assert took < 1.0
