"""Gateways that share a Redis which is paused, emptied and restarted while they are asked."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fleet import Fleet
from gateway import Gateway, base_policy, chat
from redis_server import RedisServer, running_redis

CEILING_MICRO_USD = 100_000
BUDGET = """
name: b
type: gateway-budget-config
budgets:
  - {id: dime, ceiling_usd: 0.10, window: monthly}
"""
KEY = "dime/usd"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with running_redis(tmp_path / "redis", "--appendfsync", "everysec") as running:
        yield running


@pytest.fixture
def fleet(server: RedisServer, start_gateway) -> Fleet:
    policy = base_policy(budget=BUDGET)
    made = Fleet([start_gateway(policy, "--store", server.url) for _ in range(2)])
    made.faults("anthropic", output_tokens=100)
    made.faults("bedrock", status=503)
    return made


def body(_: random.Random) -> dict[str, Any]:
    return chat(max_tokens=100)


def store(gateway: Gateway) -> dict[str, Any]:
    return httpx.get(f"{gateway.console}/usage").json()["store"]


def recovered(fleet: Fleet, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while {store(gateway)["condition"] for gateway in fleet.gateways} != {"ok"}:
        assert time.monotonic() < deadline, [store(gateway) for gateway in fleet.gateways]
        time.sleep(0.05)


def assert_bound(fleet: Fleet) -> None:
    assert fleet.billed_micro_usd() <= fleet.settled(KEY) <= CEILING_MICRO_USD
    fleet.stop()


def test_F60_a_paused_store_admits_nothing_and_loses_nothing(
    fleet: Fleet, server: RedisServer
) -> None:
    fleet.race(1, 20, body)
    server.pause()
    time.sleep(0.2)
    began = time.monotonic()
    refusals = [gateway.post(chat()) for gateway in fleet.gateways for _ in range(5)]
    assert time.monotonic() - began < 3
    assert {answer.status_code for answer in refusals} == {503}
    assert refusals[0].json()["error"]["code"] == "store_unavailable"
    metrics = httpx.get(f"{fleet.gateways[0].console}/metrics").text
    assert 'tokenweir_store_state{condition="closed"} 1.0' in metrics
    before = fleet.billed_micro_usd()
    fleet.race(2, 40, body)
    assert fleet.billed_micro_usd() == before
    server.go_on()
    recovered(fleet)
    assert fleet.gateways[1].post(chat()).status_code == 200
    assert_bound(fleet)


@pytest.mark.parametrize("fault", ["killed", "emptied", "restarted empty"])
def test_F67_a_store_that_fails_under_load_admits_no_dollar_too_many(
    fleet: Fleet, server: RedisServer, fault: str
) -> None:
    def fail() -> None:
        time.sleep(0.3)
        if fault == "emptied":
            server.client().flushall()
            return
        if fault == "killed":
            server.kill()
        else:
            server.forget()
        time.sleep(0.3)
        server.start()

    failing = threading.Thread(target=fail)
    failing.start()
    while failing.is_alive():
        fleet.race(3, 150, body)
    # An empty store is noticed by who asks it.
    for gateway in fleet.gateways:
        gateway.post(chat())
    recovered(fleet)
    statuses = fleet.race(4, 250, body)
    # A busy machine may keep an answer of the store for longer than a request waits.
    assert statuses[200] + statuses[429] >= 240, statuses
    assert statuses[429] > 0
    assert_bound(fleet)


def test_a_reload_does_not_change_the_store(server: RedisServer, start_gateway) -> None:
    policy = base_policy(budget=BUDGET)
    policy["store.yaml"] = f"name: store\ntype: gateway-config\nstore: {server.url}\n"
    gateway = start_gateway(policy)
    assert gateway.post(chat()).status_code == 200
    assert server.client().keys("{tokenweir}:*:c:*")
    (gateway.policy / "store.yaml").write_text("name: store\ntype: gateway-config\n")
    deadline = time.monotonic() + 5
    problems: list[str] = []
    while not problems and time.monotonic() < deadline:
        problems = httpx.get(f"{gateway.console}/policy").json()["problems"]
        time.sleep(0.05)
    assert "store_changed" in problems[0]
    assert gateway.post(chat()).status_code == 200
