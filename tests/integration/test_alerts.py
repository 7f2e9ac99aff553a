"""Alerts of a real gateway: one message per threshold, whatever is killed in between."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from certificates import Authority
from gateway import Gateway, base_policy, chat
from receivers import ROUTING_KEY, Answer, Receiver, Request, pagerduty, slack

CANARY = "canary0webhook0path"
PD_CANARY = ROUTING_KEY
BUDGET = """
name: b
type: gateway-budget-config
budgets:
  - id: cents
    ceiling_usd: 0.04
    window: monthly
    alerts:
      - {at_pct: 80, notify: ["slack:#x", "pagerduty:platform"]}
      - {at_pct: 100, notify: ["slack:#x", "pagerduty:platform"]}
"""
CHANNELS = """
name: c
type: gateway-config
channels:
  slack: {{webhook: "env:SLACK_WEBHOOK"}}
  pagerduty: {{routing_keys: {{platform: "file:{key}"}}, api_url: "{url}"}}
"""


class Outside:
    """Slack and PagerDuty, and what they took."""

    def __init__(self, folder: Path) -> None:
        self.taken: list[Request] = []
        self.authority = Authority(folder, "ours")
        self.slack = Receiver(self._taking(slack))
        certificate = self.authority.server("127.0.0.1")
        self.pagerduty = Receiver(self._taking(pagerduty), tls=certificate)
        self.key = folder / "routing-key"
        self.key.write_text(PD_CANARY)

    def _taking(self, answer: Callable[[Request], Answer]) -> Callable[[Request], Answer]:
        def take(request: Request) -> Answer:
            found = answer(request)
            if found.status < 300:
                self.taken.append(request)
            return found

        return take

    def titles(self, path: str) -> list[str]:
        """Of what was taken, in order."""
        return [
            request.json.get("payload", {}).get("summary") or request.json["text"]
            for request in self.taken
            if request.path.startswith(path)
        ]

    def wait_for(self, count: int, seconds: float = 20.0) -> None:
        """Until so many messages were taken."""
        deadline = time.monotonic() + seconds
        while len(self.taken) < count:
            assert time.monotonic() < deadline, self.taken
            time.sleep(0.05)


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Outside]:
    found = Outside(tmp_path)
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLACK_WEBHOOK", f"{found.slack.url}/services/{CANARY}")
    yield found
    found.slack.close()
    found.pagerduty.close()


@pytest.fixture
def gateway(start_gateway, outside: Outside) -> Gateway:
    channels = CHANNELS.format(key=outside.key, url=outside.pagerduty.url)
    policy = base_policy(budget=BUDGET, channels=channels)
    return start_gateway(policy, "--ca-file", str(outside.authority.file))


def spend_all(gateway: Gateway) -> None:
    """Until the budget refuses: some forty calls."""
    for provider in ("anthropic", "bedrock"):
        gateway.faults(provider, output_tokens=200)
    for _ in range(200):
        answer = gateway.post(chat(max_tokens=200))
        if answer.status_code == 429:
            return
        assert answer.status_code == 200, answer.text
    raise AssertionError("the budget never refused")


def check_each_threshold_once(outside: Outside) -> None:
    for path in ("/services/", "/v2/enqueue"):
        titles = outside.titles(path)
        assert len(titles) == 2, titles
        for pct in (80, 100):
            assert sum(f"Budget cents has reached {pct} %" in title for title in titles) == 1


def test_a_budget_tells_80_and_100_once_also_over_a_restart(
    gateway: Gateway, outside: Outside
) -> None:
    spend_all(gateway)
    outside.wait_for(4)
    assert gateway.metric("tokenweir_alerts_fired_total") == 2
    report = httpx.get(f"{gateway.console}/alerts").json()
    assert [entry["alert"] for entry in report["set_off"]] == ["80%", "100%"]
    assert [entry["outcome"] for entry in report["ended"]] == ["delivered"] * 4
    pages = [httpx.get(gateway.console + path).text for path in ("/alerts", "/policy", "/metrics")]

    gateway.stop()
    gateway.start()
    assert gateway.post(chat(max_tokens=200)).status_code == 429
    time.sleep(3)
    check_each_threshold_once(outside)
    keys = [r.json["dedup_key"] for r in outside.taken if r.path == "/v2/enqueue"]
    assert len(set(keys)) == 2
    assert all(key.startswith("tokenweir|cents/usd|") for key in keys)

    # I8: neither on a page of the console nor in any file.
    files = [path for path in gateway.state.rglob("*") if path.is_file()]
    assert any(path.name == "alerts.log" for path in files)
    text = "".join(pages) + "".join(path.read_bytes().decode("latin-1") for path in files)
    assert CANARY not in text
    assert PD_CANARY not in text


def test_F36_a_killed_sidecar_loses_no_alert_and_repeats_none(
    gateway: Gateway, outside: Outside
) -> None:
    outside.slack.refuse_all = Answer(503)
    spend_all(gateway)
    outside.wait_for(2)  # PagerDuty; Slack is down
    deadline = time.monotonic() + 10
    while not outside.slack.requests:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    gateway.child("sidecar").send_signal(signal.SIGKILL)
    outside.slack.refuse_all = None
    outside.wait_for(4)
    time.sleep(3)
    check_each_threshold_once(outside)
