"""``tokenweir correct`` against a running gateway."""

from __future__ import annotations

import json
import socket

import pytest
from command import tokenweir
from gateway import base_policy

BUDGET = """
name: b
type: gateway-budget-config
budgets:
  - {id: all, ceiling_usd: 1, window: monthly}
"""


def test_F78_mispriced_history_is_corrected_in_the_running_gateway(start_gateway) -> None:
    gateway = start_gateway(base_policy(budget=BUDGET))
    assert gateway.post().status_code == 200
    spent = gateway.settled("all/usd")
    console = gateway.console.removeprefix("http://")
    command = ("correct", "all", "--console", console, "--reason", "priced twice")
    result = tokenweir(*command, "--usd", f"-{(spent - 1) / 1e6:.6f}", "--operator", "ops")
    assert (result.returncode, result.stdout) == (0, "all/usd: 1 micro-USD settled now\n")
    assert gateway.usage()["all/usd"]["settled"] == 1
    refused = tokenweir(*command, "--usd", "-0.000002")
    assert refused.returncode == 1
    assert refused.stderr.startswith("tokenweir correct: below_zero: ")
    shown = json.loads(tokenweir(*command, "--usd", "0.5", "--json").stdout)
    assert (shown["settled"], shown["reason"]) == (500_001, "priced twice")
    assert '"operator":"ops"' in gateway.journal()


@pytest.mark.parametrize("amount", ["x", "0", "0.0000001", "NaN", "Infinity"])
def test_an_amount_that_is_none_is_a_usage_error(amount: str) -> None:
    result = tokenweir("correct", "all", "--reason", "x", "--usd", amount)
    assert result.returncode == 2
    assert "no amount of" in result.stderr


def test_no_gateway_there_is_said_in_one_line() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        console = f"127.0.0.1:{free.getsockname()[1]}"
        result = tokenweir("correct", "a", "--reason", "x", "--amount", "-1", "--console", console)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
