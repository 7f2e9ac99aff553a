"""Why nobody can serve: through the request's machine."""

from __future__ import annotations

from gateway import chat
from world import NOW, World

from extproc.core.commands import Refuse
from extproc.values.refusal import RefusalCode

POLICY = """
name: one
type: gateway-load-balancing-config
rules:
  - {id: small, target: {provider: openai, model: small}}
fallbacks:
  - {id: larger, provider: vertex, model: larger}
---
name: prices
type: gateway-config
prices:
  - {provider: openai, model: small, input_usd_per_mtok: 1, output_usd_per_mtok: 1,
     context_tokens: 1000}
  - {provider: vertex, model: larger, input_usd_per_mtok: 1, output_usd_per_mtok: 1,
     context_tokens: 2000}
"""
LONG = {"messages": [{"role": "user", "content": "word " * 4_000}]}
LONGER = {"messages": [{"role": "user", "content": "word " * 6_000}]}


def refused(world: World, **fields: object) -> Refuse:
    command = world.ask(chat(model="one", **fields))
    assert isinstance(command, Refuse)
    return command


def test_open_breakers_say_when_the_first_of_them_may_be_tried() -> None:
    world = World(POLICY)
    world.break_target("openai/small", NOW - 20_000)
    world.break_target("vertex/larger")
    refusal = refused(world).refusal
    assert refusal.code is RefusalCode.NO_HEALTHY_TARGET
    assert refusal.retry_after_s == 10


def test_what_is_too_long_for_all_is_told_the_longest_context() -> None:
    refusal = refused(World(POLICY), **LONGER).refusal
    assert refusal.code is RefusalCode.CONTEXT_LIMIT_EXCEEDED
    assert "2000" in refusal.message


def test_what_would_fit_a_target_that_is_out_of_order_may_be_tried_again() -> None:
    world = World(POLICY)
    world.break_target("vertex/larger")
    refusal = refused(world, **LONG).refusal
    assert refusal.code is RefusalCode.NO_HEALTHY_TARGET
