"""``tokenweir alerts test``: whether a channel works, before the night it matters."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from certificates import Authority
from command import ROOT, tokenweir
from receivers import ROUTING_KEY, Answer, Receiver, pagerduty, slack

POLICY = """
name: c
type: gateway-config
channels:
  slack: {{webhook: "env:HOOK"}}
  pagerduty: {{routing_keys: {{platform: "env:KEY"}}, api_url: "{url}"}}
"""


@pytest.fixture
def slack_server() -> Iterator[Receiver]:
    receiver = Receiver(slack)
    yield receiver
    receiver.close()


@pytest.fixture
def pagerduty_server(tmp_path: Path) -> Iterator[Receiver]:
    receiver = Receiver(pagerduty, tls=Authority(tmp_path, "ours").server("127.0.0.1"))
    yield receiver
    receiver.close()


@pytest.fixture
def ask(tmp_path: Path, slack_server: Receiver, pagerduty_server: Receiver):
    folder = tmp_path / "policy"
    folder.mkdir()
    for path in (ROOT / "configs").glob("*.yaml"):
        text = path.read_text()
        (folder / path.name).write_text(text.partition("channels:")[0] + "\n")
    (folder / "channels.yaml").write_text(POLICY.format(url=pagerduty_server.url))

    def run(destination: str, *more: str, **environ: str) -> subprocess.CompletedProcess[str]:
        known = {
            "HOOK": slack_server.url + "/services/T0/B0/canary",
            "KEY": ROUTING_KEY,
            **dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"), ""),
        }
        ca_file = tmp_path / "ours.pem"
        return tokenweir(
            "alerts", "test", destination, "--policy", folder, "--ca-file", ca_file, *more,
            **{**known, **environ},
        )  # fmt: skip

    return run


def test_a_channel_that_works_says_so(ask, slack_server: Receiver) -> None:
    result = ask("slack:#ops")
    assert (result.returncode, result.stdout, result.stderr) == (0, "slack:#ops: taken\n", "")
    [request] = slack_server.requests
    assert "A test of this channel" in request.json["text"]


def test_what_is_opened_at_pagerduty_is_closed_again(ask, pagerduty_server: Receiver) -> None:
    result = ask("pagerduty:platform", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == {"destination": "pagerduty:platform", "problem": None}
    actions = [request.json["event_action"] for request in pagerduty_server.requests]
    assert actions == ["trigger", "resolve"]


def test_what_is_wrong_is_said_without_the_secret(ask, slack_server: Receiver) -> None:
    slack_server.script.append(Answer(404, b"no_service"))
    result = ask("slack:#ops")
    assert result.returncode == 1
    assert result.stdout == "slack:#ops: Slack answered 404 (no_service)\n"
    result = ask("slack:#ops", HOOK="http://127.0.0.1:1/canary")
    assert result.returncode == 1
    assert "cannot be reached" in result.stdout
    result = ask("slack:#ops", HOOK="")
    assert (result.returncode, result.stdout) == (1, "slack:#ops: the variable HOOK is not set\n")
    assert "canary" not in result.stdout + result.stderr


def test_a_channel_that_is_none_is_a_wrong_use_and_an_unknown_one_a_finding(ask) -> None:
    result = ask("teams:x")
    assert (result.returncode, result.stdout) == (2, "")
    assert "is no destination" in result.stderr
    for destination in ("pagerduty:other", "email:a@b.example"):
        result = ask(destination, "--json")
        assert result.returncode == 1
        assert json.loads(result.stdout)["problem"]


def test_a_policy_that_is_refused_sends_nothing(tmp_path: Path, slack_server: Receiver) -> None:
    (tmp_path / "a.yaml").write_text("name: a\n")
    result = tokenweir("alerts", "test", "slack:#x", "--policy", tmp_path)
    assert result.returncode == 1
    assert "missing_key" in result.stderr
