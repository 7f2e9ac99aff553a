"""The kill switch with the real Envoy: how fast, and what it outlives."""

from __future__ import annotations

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anthropic
import httpx
import openai
import pytest
from gateway import HEADERS, KEY, Gateway, base_policy, chat

MALLORY = {"field": "user_id", "value": "mallory"}
MALLORYS = {"x-tfy-user-id": "mallory"}
POLICY = "name: k\ntype: gateway-config\nkill_switch: [{user_id: eve, reason: ran away}]\n"


@pytest.fixture
def gateway(module_gateway) -> Gateway:
    gateway = module_gateway(base_policy())
    gateway.clear_faults()
    for kill in httpx.get(f"{gateway.console}/kill-switch").json()["killed"]:
        if kill["by"] == "console":
            change(gateway, "DELETE", {"field": kill["field"], "value": kill["value"]})
    return gateway


def change(gateway: Gateway, method: str, body: dict[str, str]) -> None:
    answer = httpx.request(method, f"{gateway.console}/kill-switch", json=body)
    assert answer.status_code == 200, answer.text


class Load:
    """Callers that ask without pause: when each request began, and its status."""

    def __init__(self, gateway: Gateway, headers: dict[str, str], callers: int) -> None:
        self.seen: list[tuple[float, float, int]] = []
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(gateway, headers)) for _ in range(callers)
        ]

    def _ask(self, gateway: Gateway, headers: dict[str, str]) -> None:
        with httpx.Client(headers={**HEADERS, **headers}) as client:
            while not self._stop.is_set():
                began = time.monotonic()
                answer = client.post(gateway.url + "/v1/chat/completions", json=chat())
                self.seen.append((began, time.monotonic(), answer.status_code))

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def test_under_load_nothing_that_begins_after_the_kill_passes(gateway: Gateway) -> None:
    with (
        Load(gateway, MALLORYS, 6) as mallory,
        Load(gateway, {"x-tfy-user-id": "alice"}, 2) as alice,
    ):
        time.sleep(0.7)
        began = time.monotonic()
        change(gateway, "POST", MALLORY)
        confirmed = time.monotonic()
        time.sleep(0.7)
    assert confirmed - began < 1.0
    before = [status for start, _, status in mallory.seen if start < began]
    after = [status for start, _, status in mallory.seen if start > confirmed]
    assert before.count(200) > 20
    assert len(after) > 20
    assert set(after) == {403}
    last_passed = max(start for start, _, status in mallory.seen if status == 200)
    print(
        f"kill confirmed in {(confirmed - began) * 1000:.1f} ms; the last request that passed "
        f"began {(last_passed - began) * 1000:.1f} ms after the order"
    )
    assert last_passed < began + 1.0
    assert {status for _, _, status in alice.seen} == {200}


def test_policy_stops_within_a_second_and_revives(gateway: Gateway) -> None:
    assert gateway.post(headers={"x-tfy-user-id": "eve"}).status_code == 200
    with Load(gateway, {"x-tfy-user-id": "eve"}, 2) as eve:
        time.sleep(0.3)
        saved = time.monotonic()
        gateway.save_policy("kill.yaml", POLICY)
        time.sleep(1.5)
    assert {status for start, _, status in eve.seen if start > saved + 1.0} == {403}
    (gateway.policy / "kill.yaml").unlink()
    deadline = time.monotonic() + 5
    while gateway.post(headers={"x-tfy-user-id": "eve"}).status_code == 403:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_it_survives_kill_9_before_anything_is_admitted(gateway: Gateway) -> None:
    change(gateway, "POST", MALLORY)
    with Load(gateway, MALLORYS, 4) as mallory:
        time.sleep(0.2)
        gateway.child("sidecar").send_signal(signal.SIGKILL)
        deadline = time.monotonic() + 20
        while gateway.post(headers={"x-tfy-user-id": "alice"}).status_code != 200:
            assert time.monotonic() < deadline, "the sidecar did not come back"
            time.sleep(0.05)
        time.sleep(0.3)
    statuses = {status for _, _, status in mallory.seen}
    assert 200 not in statuses
    assert statuses <= {403, 503}
    assert mallory.seen[-1][2] == 403
    # A revival is as durable.
    change(gateway, "DELETE", MALLORY)
    assert gateway.post(headers=MALLORYS).status_code == 200


def test_a_later_attempt_is_refused_and_a_stream_that_runs_is_not_cut(gateway: Gateway) -> None:
    for name in ("anthropic", "bedrock"):
        gateway.faults(name, output_tokens=20, chunk_delay_ms=60)
    slow = {**MALLORYS, "x-demo-delay-ms": "900", "x-demo-status": "503"}
    with ThreadPoolExecutor(2) as pool:
        stream = pool.submit(gateway.post, chat(stream=True, max_tokens=30), headers=MALLORYS)
        failing = pool.submit(gateway.post, chat(), headers=slow)
        time.sleep(0.4)
        change(gateway, "POST", MALLORY)
        assert failing.result().status_code == 403
        assert failing.result().json()["error"]["code"] == "killed"
        assert stream.result().status_code == 200
        assert stream.result().text.rstrip().endswith("data: [DONE]")
    assert gateway.post(headers=MALLORYS).status_code == 403


def test_a_killed_provider_gets_nothing_and_others_serve(gateway: Gateway) -> None:
    change(gateway, "POST", {"field": "provider", "value": "anthropic"})
    resolved = set()
    for _ in range(12):
        answer = gateway.post()
        assert answer.status_code == 200
        resolved.add(answer.headers["x-tfy-resolved-model"])
    assert resolved == {"bedrock/anthropic.claude-haiku-4-5"}


def test_refusals_are_what_the_sdks_expect_and_say_little(gateway: Gateway) -> None:
    change(gateway, "POST", {**MALLORY, "reason": "bob said so"})
    refused = gateway.post(headers=MALLORYS)
    assert refused.headers["x-should-retry"] == "false"
    assert "retry-after" not in refused.headers
    assert refused.json()["error"]["metadata"]["field"] == "user_id"
    for secret in ("mallory", "bob"):
        assert secret not in refused.text
    messages: Any = [{"role": "user", "content": "x"}]
    client = openai.OpenAI(base_url=gateway.url + "/v1", api_key=KEY, default_headers=MALLORYS)
    with pytest.raises(openai.PermissionDeniedError) as caught:
        client.chat.completions.create(model="intent-fast", messages=messages)
    assert caught.value.code == "killed"
    claude = anthropic.Anthropic(base_url=gateway.url, api_key=KEY, default_headers=MALLORYS)
    with pytest.raises(anthropic.PermissionDeniedError):
        claude.messages.create(model="intent-fast", max_tokens=5, messages=messages)
