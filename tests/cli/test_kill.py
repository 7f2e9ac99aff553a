"""``tokenweir kill`` against a gateway that runs."""

from __future__ import annotations

import json

import pytest
from command import tokenweir
from gateway import Gateway, base_policy

from extproc.__main__ import main

Capture = pytest.CaptureFixture[str]
POLICY = """
name: k
type: gateway-config
kill_switch: [{team: red, reason: written in policy}]
"""


@pytest.fixture
def gateway(module_gateway) -> Gateway:
    return module_gateway(base_policy(kill=POLICY))


def test_a_user_is_stopped_listed_and_revived(gateway: Gateway) -> None:
    console = ("--console", gateway.console)
    headers = {"x-tfy-user-id": "mallory"}
    assert gateway.post(headers=headers).status_code == 200
    printed = tokenweir("kill", "user_id", "mallory", "--reason", "ran away", *console)
    assert (printed.returncode, printed.stdout) == (0, "user_id mallory is stopped\n")
    refused = gateway.post(headers=headers)
    assert refused.status_code == 403
    assert refused.json()["error"]["code"] == "killed"
    listed = tokenweir("kill", *console)
    assert listed.returncode == 0
    first, second = listed.stdout.splitlines()
    assert first == "team  red  policy  written in policy"
    assert second.startswith("user_id  mallory  console  20")
    assert second.endswith("Z  ran away")
    document = json.loads(tokenweir("kill", "--json", *console).stdout)
    assert [kill["value"] for kill in document["killed"]] == ["red", "mallory"]
    assert tokenweir("revive", "user_id", "mallory", *console).returncode == 0
    assert gateway.post(headers=headers).status_code == 200


def test_what_the_console_refuses_is_said(gateway: Gateway, capsys: Capture) -> None:
    assert main(["kill", "user_id", "m\x01", "--console", gateway.console]) == 1
    assert "value is no value of user_id" in capsys.readouterr().err


def test_a_misspelt_provider_is_warned_of(gateway: Gateway, capsys: Capture) -> None:
    console = ["--console", gateway.console]
    assert main(["kill", "provider", "antropic", *console]) == 0
    assert "no provider of that name" in capsys.readouterr().err
    assert main(["revive", "provider", "antropic", *console]) == 0


def test_a_field_needs_a_value(capsys: Capture) -> None:
    assert main(["kill", "user_id"]) == 2
    assert "needs a VALUE" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main(["kill", "planet", "earth"])
    assert caught.value.code == 2


def test_without_a_gateway_it_fails_in_one_line(capsys: Capture) -> None:
    assert main(["kill", "user_id", "m", "--console", "http://127.0.0.1:1"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
