"""Velocity breakers with the real Envoy: money that runs away stops, and comes back by itself."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anthropic
import httpx
import openai
import pytest
from gateway import KEY, Gateway, base_policy, chat
from receivers import Answer, Receiver, Request, slack

POLICY = """
name: v
type: gateway-budget-config
velocity:
  - id: runaway
    when: {metadata: {X-TFY-Workflow-Tag: loop}}
    scope: user
    max_usd_per_minute: 0.03
    cooldown: 5m
  - id: brief
    when: {metadata: {X-TFY-Workflow-Tag: brief}}
    scope: user
    max_usd_per_minute: 0.03
    cooldown: 4s
  - id: watching
    when: {metadata: {X-TFY-Workflow-Tag: watched}}
    scope: user
    max_usd_per_minute: 0.03
    enforce: shadow
"""


@pytest.fixture
def gateway(module_gateway) -> Gateway:
    gateway = module_gateway(base_policy(velocity=POLICY))
    gateway.clear_faults()
    return gateway


def breakers(gateway: Gateway) -> dict[str, dict[str, Any]]:
    return {one["scope_value"]: one for one in gateway.policy_report()["velocity"]}


def spend_until_refused(gateway: Gateway, headers: dict[str, str]) -> httpx.Response:
    """A loop as a runaway agent makes it: the same call again and again."""
    for _ in range(50):
        answer = gateway.post(chat(max_tokens=3_000), headers=headers)
        if answer.status_code != 200:
            return answer
        time.sleep(0.05)
    raise AssertionError("nothing stopped the loop")


def test_a_loop_of_spending_trips_and_others_go_on(gateway: Gateway) -> None:
    gateway.faults("anthropic", output_tokens=1_500)
    gateway.faults("bedrock", output_tokens=1_500)
    before = gateway.billed_micro_usd()
    headers = {"x-tfy-workflow-tag": "loop", "x-tfy-user-id": "agent"}
    refused = spend_until_refused(gateway, headers)
    assert refused.status_code == 429
    error = refused.json()["error"]
    assert error["code"] == error["type"] == "spend_velocity_exceeded"
    metadata = error["metadata"]
    assert (metadata["rule_id"], metadata["scope"]) == ("runaway", "user")
    assert (metadata["window"], metadata["unit"], metadata["limit"]) == ("1m", "usd", "0.03")
    assert float(metadata["spent"]) + float(metadata["reserved"]) > 0.03
    assert metadata["resets_at"].endswith("Z")
    # Five minutes are beyond a client's patience.
    assert refused.headers["x-should-retry"] == "false"
    assert "retry-after" not in refused.headers
    spent = gateway.billed_micro_usd() - before
    assert 30_000 < spent < 60_000, "it let more pass than the last calls"
    other = {"x-tfy-workflow-tag": "loop", "x-tfy-user-id": "human"}
    assert gateway.post(headers=other).status_code == 200
    shown = breakers(gateway)["agent"]
    assert (shown["rule_id"], shown["state"]) == ("runaway", "open")
    text = httpx.get(f"{gateway.console}/metrics").text
    assert 'tokenweir_velocity_trips_total{rule="runaway"} 1.0' in text
    assert 'tokenweir_refused_total{code="spend_velocity_exceeded"}' in text


def test_many_slow_streams_trip_it_before_one_has_ended_and_it_heals(gateway: Gateway) -> None:
    """Nothing is settled while they run; what they really cost turns out to be little."""
    for name in ("anthropic", "bedrock"):
        gateway.faults(name, output_tokens=20, chunk_delay_ms=100)
    headers = {"x-tfy-workflow-tag": "brief", "x-tfy-user-id": "swarm"}

    def stream(_: int) -> int:
        time.sleep(_ * 0.05)
        return gateway.post(chat(stream=True, max_tokens=3_000), headers=headers).status_code

    with ThreadPoolExecutor(12) as pool:
        statuses = list(pool.map(stream, range(12)))
    assert statuses[:5] == [200] * 5
    assert 429 in statuses
    assert breakers(gateway)["swarm"]["state"] == "open"
    refused = gateway.post(headers=headers)
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["retry-after"]) <= 4
    assert "x-should-retry" not in refused.headers
    gateway.clear_faults()
    # Half open: while the probe is under way nobody else passes.
    time.sleep(int(refused.headers["retry-after"]) + 0.1)
    gateway.faults("anthropic", delay_ms=700, output_tokens=5)
    gateway.faults("bedrock", delay_ms=700, output_tokens=5)
    with ThreadPoolExecutor(4) as pool:
        statuses = sorted(pool.map(lambda _: gateway.post(headers=headers).status_code, range(4)))
    assert statuses == [200, 429, 429, 429]
    deadline = time.monotonic() + 2
    while "swarm" in breakers(gateway):
        assert time.monotonic() < deadline, "the probe's settlement did not close it"
        time.sleep(0.02)
    gateway.clear_faults()
    assert [gateway.post(headers=headers).status_code for _ in range(4)] == [200] * 4


def test_a_later_attempt_is_refused_when_the_breaker_opened_meanwhile(gateway: Gateway) -> None:
    headers = {"x-tfy-workflow-tag": "loop", "x-tfy-user-id": "retrier"}
    slow = {**headers, "x-demo-delay-ms": "900", "x-demo-status": "503", "x-demo-rate": "1"}
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(gateway.post, chat(), headers=slow)
        time.sleep(0.3)
        for name in ("anthropic", "bedrock"):
            gateway.faults(name, output_tokens=2_500)
        assert spend_until_refused(gateway, headers).status_code == 429
        answer = waiting.result()
    assert answer.status_code == 429, answer.text
    assert answer.json()["error"]["code"] == "spend_velocity_exceeded"


def test_a_shadow_breaker_tells_and_lets_pass(gateway: Gateway) -> None:
    for name in ("anthropic", "bedrock"):
        gateway.faults(name, output_tokens=2_500)
    headers = {"x-tfy-workflow-tag": "watched", "x-tfy-user-id": "tester"}
    for _ in range(6):
        assert gateway.post(chat(max_tokens=3_000), headers=headers).status_code == 200
        time.sleep(0.05)
    assert breakers(gateway)["tester"]["enforce"] == "shadow"
    text = httpx.get(f"{gateway.console}/metrics").text
    assert 'tokenweir_would_block_total{rule="watching"}' in text


def test_the_sdks_raise_their_rate_limit_error_and_do_not_retry(gateway: Gateway) -> None:
    for name in ("anthropic", "bedrock"):
        gateway.faults(name, output_tokens=2_500)
    headers = {"x-tfy-workflow-tag": "loop", "x-tfy-user-id": "sdk"}
    spend_until_refused(gateway, headers)
    before = gateway.metric_sum("tokenweir_refused_total")
    messages: Any = [{"role": "user", "content": "x"}]
    client = openai.OpenAI(base_url=gateway.url + "/v1", api_key=KEY, default_headers=headers)
    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(model="intent-fast", messages=messages, max_tokens=5)
    assert caught.value.code == "spend_velocity_exceeded"
    claude = anthropic.Anthropic(base_url=gateway.url, api_key=KEY, default_headers=headers)
    with pytest.raises(anthropic.RateLimitError) as told:
        claude.messages.create(model="intent-fast", max_tokens=5, messages=messages)
    body: Any = told.value.body
    assert body["error"]["metadata"]["code"] == "spend_velocity_exceeded"
    assert gateway.metric_sum("tokenweir_refused_total") == before + 2


def test_operators_hear_of_it_once(start_gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Request] = []

    def take(request: Request) -> Answer:
        taken.append(request)
        return slack(request)

    receiver = Receiver(take)
    try:
        monkeypatch.setenv("SLACK_WEBHOOK", f"{receiver.url}/services/x")
        for name in ("HTTP_PROXY", "http_proxy"):
            monkeypatch.delenv(name, raising=False)
        channels = 'channels: {slack: {webhook: "env:SLACK_WEBHOOK"}}\n'
        gateway = start_gateway(
            base_policy(
                velocity=POLICY.replace("cooldown: 5m", 'cooldown: 5m\n    notify: "slack:#x"'),
                channels="name: c\ntype: gateway-config\n" + channels,
            )
        )
        for name in ("anthropic", "bedrock"):
            gateway.faults(name, output_tokens=2_500)
        headers = {"x-tfy-workflow-tag": "loop", "x-tfy-user-id": "loud"}
        spend_until_refused(gateway, headers)
        deadline = time.monotonic() + 10
        while not taken:
            assert time.monotonic() < deadline, "nobody was told"
            time.sleep(0.05)
        assert gateway.post(headers=headers).status_code == 429
        time.sleep(1.5)
        (told,) = taken
        assert "The velocity breaker runaway stopped runaway spending" in told.json["text"]
        assert "loud" in str(told.json)
    finally:
        receiver.close()
