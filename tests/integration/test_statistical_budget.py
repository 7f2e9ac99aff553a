"""Statistical budgets through the real Envoy: holds shrink, and grow with a long stream."""

from __future__ import annotations

import threading
import time

from gateway import Gateway, base_policy, chat

BUDGET = """
name: b
type: gateway-budget-config
budgets:
  - {id: likely, ceiling_usd: 100, window: monthly, mode: statistical}
"""
KEY = "likely/usd"
WORST_MICRO_USD = 64_000 * 5


def _reserved(gateway: Gateway) -> int:
    return gateway.usage().get(KEY, {"reserved": 0})["reserved"]


def _await_reserved(gateway: Gateway, above: int, seconds: float) -> int:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        reserved = _reserved(gateway)
        if reserved > above:
            return reserved
        time.sleep(0.05)
    raise AssertionError(f"never above {above}: {reserved}")


def test_a_workflow_is_held_at_what_it_costs_and_more_while_it_streams_on(start_gateway) -> None:
    gateway = start_gateway(base_policy(budget=BUDGET))
    gateway.faults("anthropic", output_tokens=20)
    gateway.faults("bedrock", output_tokens=20)
    body = chat(max_tokens=64_000, stream=True)
    for _ in range(30):
        assert gateway.post(body).status_code == 200
    settled = gateway.settled(KEY)
    assert settled < WORST_MICRO_USD

    # One long answer: 20 tokens were usual, this one streams on and on.
    slow = {"output_tokens": 2_000, "chunk_delay_ms": 8}
    gateway.faults("anthropic", **slow)
    gateway.faults("bedrock", **slow)
    long_call = threading.Thread(target=gateway.post, args=(body,))
    long_call.start()
    try:
        usual = _await_reserved(gateway, 0, 3)
        assert usual < 1_000
        raised = _await_reserved(gateway, usual, 12)
        assert usual < raised < WORST_MICRO_USD
    finally:
        long_call.join()
    assert gateway.billed_micro_usd() <= gateway.settled(KEY)
