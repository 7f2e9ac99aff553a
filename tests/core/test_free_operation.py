"""What costs nothing fails over without a reservation, and leaves nothing behind."""

from __future__ import annotations

import json

from world import NOW, World

from extproc.core.commands import Forward, Refuse, SendAttempt
from extproc.core.events import Ending, RequestGoesOn
from extproc.core.gate import LEASE_MS
from extproc.core.settlement import request_goes_on
from extproc.policy.snapshot import Kill

PATH = "/v1/messages/count_tokens"
BODY = {"model": "intent-fast", "messages": [{"role": "user", "content": "hi"}]}


def counted(world: World) -> Forward:
    command = world.ask(BODY, path=PATH)
    assert isinstance(command, Forward)
    return command


def test_a_second_attempt_is_sent_with_its_own_model_and_nothing_is_reserved() -> None:
    world = World()
    first = counted(world)
    sent = world.attempt(first, 1)
    assert isinstance(sent, SendAttempt)
    assert json.loads(sent.body) == BODY | {"model": first.chain.targets[1].model}
    assert world.reservations == []
    assert world.attempt_failed(1, Ending(503)) == []
    assert world.end(attempts=2) == []
    assert world.gate.in_flight == {}


def test_whose_log_entry_never_comes_is_forgotten_in_time() -> None:
    world = World()
    counted(world)
    assert request_goes_on(world.gate, RequestGoesOn("r1", 10, NOW)) == []
    world.gate.forget_silent(NOW + LEASE_MS - 1)
    assert list(world.gate.in_flight) == ["r1"]
    world.gate.forget_silent(NOW + LEASE_MS)
    assert world.gate.in_flight == {}


def test_a_kill_in_between_stops_the_second_attempt() -> None:
    world = World()
    first = counted(world)
    world.gate.kill([Kill("provider", first.chain.targets[1].provider.name)])
    assert isinstance(world.attempt(first, 1), Refuse)


def test_with_one_target_nothing_is_remembered() -> None:
    world = World(
        "name: one\ntype: gateway-load-balancing-config\nrules:\n"
        "  - {id: r, target: {provider: anthropic, model: claude-haiku-4-5}}\n"
    )
    assert isinstance(world.ask(BODY | {"model": "one"}, path=PATH), Forward)
    assert world.gate.in_flight == {}
