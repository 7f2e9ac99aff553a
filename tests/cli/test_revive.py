"""``tokenweir revive``: the way back, and what it cannot take back."""

from __future__ import annotations

import json

import pytest
from gateway import Gateway, base_policy

from extproc.__main__ import main

Capture = pytest.CaptureFixture[str]
POLICY = "name: k\ntype: gateway-config\nkill_switch: [{team: red}]\n"


@pytest.fixture
def gateway(module_gateway) -> Gateway:
    return module_gateway(base_policy(kill=POLICY))


def test_it_undoes_a_kill_once(gateway: Gateway, capsys: Capture) -> None:
    console = ["--console", gateway.console]
    assert main(["kill", "model", "intent-fast", *console]) == 0
    assert gateway.post().status_code == 403
    capsys.readouterr()
    assert main(["revive", "model", "intent-fast", "--json", *console]) == 0
    assert json.loads(capsys.readouterr().out) == {"field": "model", "value": "intent-fast"}
    assert gateway.post().status_code == 200
    assert main(["revive", "model", "intent-fast", *console]) == 1
    assert "it is not stopped" in capsys.readouterr().err


def test_what_policy_stops_only_policy_revives(gateway: Gateway, capsys: Capture) -> None:
    assert main(["revive", "team", "red", "--console", gateway.console]) == 1
    assert "it is stopped by policy" in capsys.readouterr().err
    assert gateway.post(headers={"x-tfy-team": "red"}).status_code == 403
