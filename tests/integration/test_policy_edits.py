"""Rules edited and renamed while requests are under way: nobody gets a second allowance."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable

from gateway import Gateway, base_policy

RULES = """
name: r
type: gateway-rate-limit-config
rules:
  - {{id: {id}, limit: {{requests: {ceiling}, window: {window}}}, scope: user{more}}}
"""
CEILING = 60


def rules(id: str = "a", ceiling: int = CEILING, window: str = "1h", renamed_from: str = "") -> str:
    more = f", renamed_from: {renamed_from}" if renamed_from else ""
    return RULES.format(id=id, ceiling=ceiling, window=window, more=more)


def save(gateway: Gateway, text: str) -> None:
    number = gateway.generation()
    gateway.save_policy("rule.yaml", text)
    deadline = time.monotonic() + 5
    while gateway.generation() == number:
        assert time.monotonic() < deadline, gateway.policy_report()["problems"]
        time.sleep(0.02)


def under_traffic(gateway: Gateway, edit: Callable[[], None]) -> Counter[int]:
    """Statuses of two users' requests, while the policy is edited in their midst."""
    statuses: Counter[int] = Counter()
    stop = threading.Event()

    def caller(user: str) -> None:
        while not stop.is_set():
            answer = gateway.post(headers={"x-tfy-user-id": user})
            statuses[answer.status_code] += 1

    threads = [threading.Thread(target=caller, args=(user,)) for user in ("u1", "u2", "u1", "u2")]
    for thread in threads:
        thread.start()
    try:
        time.sleep(0.3)
        edit()
        deadline = time.monotonic() + 20
        while statuses[429] < 20 and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    return statuses


def test_F78_a_renamed_rule_under_traffic_admits_what_one_rule_admits(start_gateway) -> None:
    gateway = start_gateway(base_policy(rule=rules()))
    gateway.faults("anthropic", delay_ms=40)
    statuses = under_traffic(gateway, lambda: save(gateway, rules("b", renamed_from="a")))
    assert statuses[200] == 2 * CEILING
    assert set(statuses) == {200, 429}
    usage = gateway.usage()
    assert usage["b/requests@u1"]["settled"] + usage["b/requests@u1"]["reserved"] == CEILING
    assert not any(name.startswith("a/") for name in usage)


def test_F78_an_edited_window_and_ceiling_under_traffic(start_gateway) -> None:
    gateway = start_gateway(base_policy(rule=rules()))
    gateway.faults("anthropic", delay_ms=40)
    statuses = under_traffic(gateway, lambda: save(gateway, rules(window="1d")))
    assert statuses[200] == 2 * CEILING
    # Lower than what is used: nothing goes, nothing is lost. Higher: the difference goes.
    save(gateway, rules(ceiling=10, window="1d"))
    user = {"x-tfy-user-id": "u1"}
    assert gateway.post(headers=user).status_code == 429
    save(gateway, rules(ceiling=CEILING + 2, window="1d"))
    assert [gateway.post(headers=user).status_code for _ in range(3)] == [200, 200, 429]
    # Deleted, and added again under its name.
    save(gateway, rules("other", 1_000))
    assert gateway.post(headers=user).status_code == 200
    save(gateway, rules(ceiling=CEILING + 2, window="1d"))
    assert gateway.post(headers=user).status_code == 429
