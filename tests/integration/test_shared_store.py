"""Gateways that share a Redis which is paused, emptied and restarted while they are asked."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fleet import PATH, Fleet
from gateway import HEADERS, Gateway, base_policy, chat
from redis_server import RedisServer, running_redis
from tcp_proxy import running_proxy

CEILING_MICRO_USD = 100_000
BUDGET = """
name: b
type: gateway-budget-config
budgets:
  - {id: dime, ceiling_usd: 0.10, window: monthly}
"""
KEY = "dime/usd"
PAUSE_S = float(os.environ.get("TOKENWEIR_PAUSE_S", "0.5"))
"""How long the store is away. ``make soak`` has it away for 30 seconds."""
QUOTA_PCT = 10


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
    time.sleep(PAUSE_S / 2)
    began = time.monotonic()
    refusals = [gateway.post(chat()) for gateway in fleet.gateways for _ in range(5)]
    assert time.monotonic() - began < 3
    assert {answer.status_code for answer in refusals} == {503}
    assert refusals[0].json()["error"]["code"] == "store_unavailable"
    metrics = httpx.get(f"{fleet.gateways[0].console}/metrics").text
    assert 'tokenweir_store_state{condition="closed"} 1.0' in metrics
    before = fleet.billed_micro_usd()
    deadline = time.monotonic() + PAUSE_S / 2
    while time.monotonic() < deadline:
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


def test_F68_a_failover_to_a_stale_replica_under_load_admits_no_dollar_too_many(
    server: RedisServer, start_gateway, tmp_path: Path
) -> None:
    """The replica has heard nothing since the first calls, and is then the one that is asked."""
    with running_redis(tmp_path / "replica") as replica, running_proxy(server.port) as proxy:
        replica.client().replicaof("127.0.0.1", str(server.port))
        policy = base_policy(budget=BUDGET)
        fleet = Fleet([start_gateway(policy, "--store", proxy.url) for _ in range(2)])
        fleet.faults("anthropic", output_tokens=100)
        fleet.faults("bedrock", status=503)
        fleet.race(1, 20, body)
        server.client().execute_command("WAIT", 1, 2_000)
        replica.client().replicaof("NO", "ONE")
        fleet.race(2, 60, body)

        def fail_over() -> None:
            time.sleep(0.1)
            proxy.target_port = replica.port
            proxy.reset()
            server.kill()

        failing = threading.Thread(target=fail_over)
        failing.start()
        while failing.is_alive():
            fleet.race(3, 60, body)
        recovered(fleet)
        statuses = fleet.race(4, 250, body)
        assert statuses[200] + statuses[429] >= 240, statuses
        assert statuses[429] > 0
        assert_bound(fleet)


def test_F60_an_emergency_quota_is_all_that_is_spent_while_the_store_is_away(
    server: RedisServer, start_gateway
) -> None:
    budget = BUDGET.replace(
        "monthly}",
        f"monthly, on_store_failure: emergency_quota, emergency_quota_pct: {QUOTA_PCT}}}",
    )
    policy = base_policy(budget=budget)
    fleet = Fleet([start_gateway(policy, "--store", server.url) for _ in range(2)])
    fleet.faults("anthropic", output_tokens=100)
    fleet.faults("bedrock", status=503)
    fleet.race(1, 20, body)
    time.sleep(2.5)  # the allowances are taken about once a second
    before = fleet.billed_micro_usd()
    server.pause()
    deadline = time.monotonic() + max(PAUSE_S, 1)
    statuses: Counter[int] = Counter()
    while time.monotonic() < deadline:
        statuses += fleet.race(2, 40, body)
    spent = fleet.billed_micro_usd() - before
    assert 0 < spent <= len(fleet.gateways) * CEILING_MICRO_USD * QUOTA_PCT // 100
    assert statuses[200] > 0
    assert statuses[503] > 0
    server.go_on()
    recovered(fleet)
    statuses = fleet.race(4, 250, body)
    assert statuses[429] > 0, statuses
    # Allowances stay reserved, so what is booked here is waited for: what was spent of them too.
    deadline = time.monotonic() + 10
    while sum(gateway.usage()[KEY]["settled"] for gateway in fleet.gateways) < (
        billed := fleet.billed_micro_usd()
    ):
        assert time.monotonic() < deadline, [gateway.usage() for gateway in fleet.gateways]
        time.sleep(0.1)
    assert billed <= CEILING_MICRO_USD
    fleet.stop()


def test_a_kill_at_one_gateway_holds_at_the_other_within_a_second(fleet: Fleet) -> None:
    one, two = fleet.gateways
    order = {"field": "user_id", "value": "mallory"}
    headers = {**HEADERS, "x-tfy-user-id": "mallory"}

    def until(status: int) -> float:
        began = time.monotonic()
        while httpx.post(f"{two.url}{PATH}", json=chat(), headers=headers).status_code != status:
            assert time.monotonic() - began < 5
            time.sleep(0.02)
        return time.monotonic() - began

    until(200)
    httpx.post(f"{one.console}/kill-switch", json=order).raise_for_status()
    assert until(403) < 1
    httpx.request("DELETE", f"{two.console}/kill-switch", json=order).raise_for_status()
    answer = None
    began = time.monotonic()
    while answer != 200:
        assert time.monotonic() - began < 1
        answer = httpx.post(f"{one.url}{PATH}", json=chat(), headers=headers).status_code


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
