"""A statistical budget from the first call to its debt, as conversations with the machine."""

from __future__ import annotations

import json
from typing import Any

from gateway import chat
from world import NOW, World

from extproc.core import settlement
from extproc.core.commands import Forward, Refuse, Renew
from extproc.core.events import Ending, RequestGoesOn
from extproc.core.workflows import FIRST_STREAM_BYTES_PER_TOKEN, MIN_SAMPLES
from extproc.values.limit import Unit

BUDGET = """
name: b
type: gateway-budget-config
budgets:
  - {id: likely, ceiling_usd: 1, window: daily, mode: statistical}
"""
AGENT = chat(max_tokens=64_000)


def usage_tail(input_tokens: int, output_tokens: int) -> bytes:
    usage = {"prompt_tokens": input_tokens, "completion_tokens": output_tokens}
    return b'"usage":' + json.dumps(usage).encode() + b"}"


def held(world: World) -> int:
    return world.reservations[0].amounts[Unit.LIKELY_MICRO_USD]


def end(world: World, usage: bytes) -> None:
    for command in world.end(usage_tail=usage):
        world.ledger.settle(command.reservation_id, command.amounts, NOW, command.about)


def taught(calls: int = MIN_SAMPLES) -> World:
    world = World(BUDGET)
    for _ in range(calls):
        assert isinstance(world.ask(AGENT, workflow_tag="review"), Forward)
        end(world, usage_tail(200, 900))
    return world


def standing(world: World) -> Any:
    return world.ledger.peek(world.reservations[0].account.holds, NOW)[0]


def test_the_worst_case_is_held_until_the_workflow_is_known_then_its_95th_percentile() -> None:
    world = taught()
    assert held(world) == world.reservations[0].amounts[Unit.MICRO_USD] > 320_000
    world.ask(AGENT, workflow_tag="review")
    assert 4_500 <= held(world) <= 7_000
    assert world.reservations[0].amounts[Unit.MICRO_USD] > 320_000
    world.ask(AGENT, workflow_tag="unknown-as-yet")
    assert held(world) > 320_000


def test_many_calls_go_at_once_where_worst_cases_leave_room_for_three() -> None:
    world = taught()
    assert all(isinstance(world.ask(AGENT, workflow_tag="review"), Forward) for _ in range(50))
    assert world.reservations[0].amounts[Unit.MICRO_USD] > 1_000_000 // 4


def test_an_overrun_is_debt_and_stops_new_calls() -> None:
    world = taught()
    world.ask(AGENT, workflow_tag="review")
    end(world, usage_tail(200, 300_000))
    assert standing(world).settled > 1_000_000
    refused = world.ask(AGENT, workflow_tag="review")
    assert isinstance(refused, Refuse)
    assert refused.refusal.limit is not None
    assert refused.refusal.limit.spent > refused.refusal.limit.limit


def test_a_heartbeat_renews_the_lease_and_raises_the_hold_as_the_stream_grows() -> None:
    world = taught()
    world.ask(AGENT, workflow_tag="review")
    before = held(world)

    def beat(tokens: int) -> Renew:
        event = RequestGoesOn(
            f"r{world.requests}", tokens * FIRST_STREAM_BYTES_PER_TOKEN, NOW + 5_000
        )
        (renew,) = settlement.request_goes_on(world.gate, event)
        assert renew.lease_until_ms > NOW + 5_000
        assert world.ledger.renew(renew.reservation_id, renew.lease_until_ms, renew.at_least)
        return renew

    assert beat(10).at_least[Unit.LIKELY_MICRO_USD] < before
    assert standing(world).reserved == before
    assert beat(20_000).at_least[Unit.LIKELY_MICRO_USD] > 100_000
    assert standing(world).reserved > 100_000
    # Never above what the call can cost at most.
    beat(10**9)
    beat(10**9)
    worst = world.reservations[0].amounts[Unit.MICRO_USD]
    assert standing(world).reserved == worst


def test_a_heartbeat_of_an_ended_or_unknown_request_is_nothing() -> None:
    world = taught()
    assert settlement.request_goes_on(world.gate, RequestGoesOn("r1", 10, NOW)) == []
    assert settlement.request_goes_on(world.gate, RequestGoesOn("nobody", 10, NOW)) == []


def test_a_heartbeat_under_strict_limits_only_renews() -> None:
    world = World()
    world.ask()
    (renew,) = settlement.request_goes_on(world.gate, RequestGoesOn("r1", 10**6, NOW))
    assert renew.at_least == (0, 0, 0, 0, 0, 0)


def test_a_later_attempt_is_held_at_what_the_workflow_costs_with_its_own_model() -> None:
    world = taught()
    first = world.ask(AGENT, workflow_tag="review")
    world.attempt_failed(1, Ending(503))
    place = next(p for p, t in enumerate(first.chain.targets) if t.name.startswith("openai/"))
    world.attempt(first, place)
    # Nothing is known of this workflow on the other model: its worst case.
    amounts = world.reservations[-1].amounts
    assert amounts[Unit.LIKELY_MICRO_USD] == amounts[Unit.MICRO_USD]
