"""Two gateways on one Redis: what one of them finds broken, both avoid, and one of them probes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fleet import Fleet
from gateway import Gateway, base_policy, chat
from redis_server import RedisServer, running_redis
from until import until

HAIKU = "anthropic/claude-haiku-4-5"
MODELS = """
name: fragile
type: gateway-load-balancing-config
rules: [{id: h, target: {provider: anthropic, model: claude-haiku-4-5}, timeout_ms: 3000}]
fallbacks: [{provider: openai, model: gpt-4o-mini, timeout_ms: 3000}]
circuit_breaker: {failure_threshold: 2, window_seconds: 60, cooldown_seconds: 3}
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with running_redis(tmp_path / "redis", "--appendfsync", "everysec") as running:
        yield running


@pytest.fixture
def fleet(server: RedisServer, start_gateway) -> Fleet:
    policy = base_policy(fragile=MODELS)
    return Fleet([start_gateway(policy, "--store", server.url) for _ in range(2)])


def resolved(gateway: Gateway) -> str:
    answer = gateway.post(chat(model="fragile"))
    assert answer.status_code == 200, answer.text
    return answer.headers["x-tfy-resolved-model"]


def state(gateway: Gateway) -> str:
    return httpx.get(f"{gateway.console}/policy").json()["breakers"].get(HAIKU, "closed")


def asked(gateway: Gateway) -> int:
    """How often a gateway's own demo provider was asked as Anthropic."""
    return sum(line["provider"] == "anthropic" for line in gateway.bill())


def test_F57_what_one_gateway_found_broken_the_other_avoids_within_a_second(fleet: Fleet) -> None:
    one, two = fleet.gateways
    fleet.faults("anthropic", status=503)
    for _ in range(2):
        assert resolved(one) == "openai/gpt-4o-mini"
    until(lambda: state(one) == "open")
    assert until(lambda: state(two) == "open") < 1
    before = asked(two)
    for _ in range(5):
        assert resolved(two) == "openai/gpt-4o-mini"
    assert asked(two) == before == 0
    # After the cooldown one of the two sends one probe, which fails: both wait for another one.
    counts = (asked(one), asked(two))
    began = time.monotonic()
    while time.monotonic() - began < 5:
        for gateway in fleet.gateways:
            assert resolved(gateway) == "openai/gpt-4o-mini"
    probes = asked(one) + asked(two) - sum(counts)
    assert 1 <= probes <= 2, probes
    # It works again: whoever probes next tells the other.
    for gateway in fleet.gateways:
        gateway.clear_faults()
    until(lambda: HAIKU in map(resolved, fleet.gateways))
    assert until(lambda: {state(one), state(two)} == {"closed"}) < 1.5
    assert {resolved(gateway) for gateway in fleet.gateways} == {HAIKU}


def test_F53_a_rest_that_one_gateway_was_asked_for_both_keep(fleet: Fleet) -> None:
    one, two = fleet.gateways
    fleet.faults("anthropic", status=429, retry_after="4")
    assert resolved(one) == "openai/gpt-4o-mini"
    assert until(lambda: state(two) == "resting") < 1.5
    for gateway in fleet.gateways:
        gateway.clear_faults()
    assert {resolved(gateway) for gateway in fleet.gateways} == {"openai/gpt-4o-mini"}
    assert asked(two) == 0
    until(lambda: {resolved(gateway) for gateway in fleet.gateways} == {HAIKU})


def test_without_the_store_each_breaker_still_works(server: RedisServer, fleet: Fleet) -> None:
    """No request is let go then, but what one gateway knows stays, and heals by itself."""
    one, two = fleet.gateways
    one.faults("anthropic", status=503)
    for _ in range(2):
        resolved(one)
    until(lambda: state(two) == "open")
    server.kill()
    time.sleep(0.5)
    assert {state(one), state(two)} == {"open"}
    one.clear_faults()
    server.start()
    until(lambda: {_ask(one), _ask(two)} == {HAIKU}, 20)


def _ask(gateway: Gateway) -> str:
    """As ``resolved``, while the store may still be away."""
    return gateway.post(chat(model="fragile")).headers.get("x-tfy-resolved-model", "")
