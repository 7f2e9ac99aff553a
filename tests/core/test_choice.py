"""Which targets serve a request: through the request's machine, with the policy as written."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from gateway import chat
from world import NOW, World, targets

from extproc.core.breaker import Breakers
from extproc.core.commands import Forward, Refuse
from extproc.core.events import Ending
from extproc.core.latency import WINDOW_MS
from extproc.values.refusal import RefusalCode

HAIKU, BEDROCK = "anthropic/claude-haiku-4-5", "bedrock/anthropic.claude-haiku-4-5"
MINI, GPT, FLASH = "openai/gpt-4o-mini", "openai/gpt-4o", "vertex/gemini-2.0-flash"


def model(*rules: str, name: str = "m", more: str = "") -> str:
    """A virtual model with rules ``r0``, ``r1``, ... and other keys."""
    lines = "".join(f"  - {{id: r{place}, {rule}}}\n" for place, rule in enumerate(rules))
    return f"---\nname: {name}\ntype: gateway-load-balancing-config\n{more}rules:\n{lines}"


def to(target: str, more: str = "") -> str:
    provider, name = target.split("/")
    return f"target: {{provider: {provider}, model: {name}}}{more}"


def order(world: World, body: dict[str, Any] | None = None, **ask: Any) -> list[str]:
    command = world.ask(chat(model="m") | (body or {}), **ask)
    assert isinstance(command, Forward), command
    return targets(command)


def answered(world: World, first_us: int, answered_us: int, *, tokens: int = 10) -> None:
    """The last request was a stream that took so long."""
    usage = {"prompt_tokens": 9, "completion_tokens": tokens}
    last = b'{"choices":[],"usage":' + json.dumps(usage).encode() + b"}"
    world.end(usage_last=last, first_byte_us=first_us, answered_us=answered_us)


# -- priority and sla -----------------------------------------------------------------------------


def test_the_lowest_priority_number_comes_first_and_ties_are_as_declared() -> None:
    rules = (to(GPT, ", priority: 2"), to(HAIKU, ", priority: 1"), to(MINI, ", priority: 1"),
             to(FLASH, ", weight: 5"))  # fmt: skip
    world = World(model(*rules, more="rule_type: priority-based\n"))
    for draw in (0.0, 0.5, 0.99):
        assert order(world, draw=draw) == [FLASH, HAIKU, MINI, GPT]
    world.break_target(HAIKU)
    assert order(world) == [FLASH, MINI, GPT]


@pytest.mark.parametrize(
    ("sla", "first_us", "answered_us", "is_slow"),
    [
        ("time_per_output_token_ms: 50", 9_000_000, 9_400_000, False),
        ("time_per_output_token_ms: 50", 0, 510_000, True),
        ("first_token_ms: 400", 400_000, 9_000_000, False),
        ("first_token_ms: 400", 401_000, 402_000, True),
    ],
)
def test_a_target_slower_than_its_sla_goes_behind_and_is_tried_again_in_time(
    sla: str, first_us: int, answered_us: int, is_slow: bool
) -> None:
    rules = (to(HAIKU, f", sla: {{{sla}}}"), to(MINI, ", priority: 1"))
    more = f"rule_type: priority-based\nfallbacks: [{{provider: openai, model: {GPT[7:]}}}]\n"
    world = World(model(*rules, more=more))
    for _ in range(3):
        assert order(world) == [HAIKU, MINI, GPT]
        answered(world, first_us, answered_us)
    assert order(world) == ([MINI, HAIKU, GPT] if is_slow else [HAIKU, MINI, GPT])
    assert order(world, now=NOW + WINDOW_MS) == [HAIKU, MINI, GPT]


# -- latency --------------------------------------------------------------------------------------


def test_requests_are_drawn_from_the_fast_and_the_slow_follow_by_speed() -> None:
    more = "rule_type: latency-based\n"
    world = World(model(to(GPT), to(HAIKU), to(MINI), to(FLASH), more=more))
    seconds = {GPT: 9, HAIKU: 5, MINI: 2, FLASH: 2.3}
    for _ in range(3):
        for place, name in enumerate(seconds):
            # Nothing is known of any yet, or too little: each is drawn from all.
            assert order(world, draw=place / 4)[0] == name
            answered(world, 100_000, int(seconds[name] * 1_000_000))
    draws = Counter(tuple(order(world, draw=n / 100)) for n in range(100))
    assert draws == {(MINI, FLASH, HAIKU, GPT): 50, (FLASH, MINI, HAIKU, GPT): 50}


def test_a_target_that_was_left_out_long_enough_is_explored_again() -> None:
    world = World(model(to(HAIKU), to(MINI), more="rule_type: latency-based\n"))
    for place, us in ((0, 9_000_000), (1, 1_000_000)) * 3:
        order(world, draw=place / 2)
        answered(world, 1, us)
    assert {order(world, draw=n / 9)[0] for n in range(9)} == {MINI}
    late = NOW + WINDOW_MS
    assert {order(world, draw=n / 9, now=late)[0] for n in range(9)} == {HAIKU, MINI}


def test_times_of_what_failed_or_of_other_models_are_not_learned() -> None:
    world = World(model(to(HAIKU), more="rule_type: latency-based\n"))
    for _ in range(3):
        order(world)
        world.end(ending=Ending(500), first_byte_us=1, answered_us=2)
        world.ask()  # intent-fast, by weight
        answered(world, 1, 2)
    assert world.gate.latencies.speed(HAIKU, NOW) is None


def test_where_the_first_token_was_waited_for_it_is_what_counts() -> None:
    world = World(model(to(HAIKU), more="rule_type: latency-based\n"))
    for _ in range(3):
        order(world)
        world.gate.in_flight[f"r{world.requests}"].attempts[1].first_token_us = 700_000
        answered(world, 1_000, 900_000)
    speed = world.gate.latencies.speed(HAIKU, NOW)
    assert speed is not None
    assert (speed.first_us, speed.token_us) == (700_000, 20_000)


# -- cost -----------------------------------------------------------------------------------------

COST = "rule_type: cost-based\n"


def long_chat(words: int) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "word " * words}]}


def test_the_cheapest_for_this_request_comes_first() -> None:
    prices = (
        "---\nname: p\ntype: gateway-config\nprices:\n"
        "  - {provider: openai, model: a, input_usd_per_mtok: 1, output_usd_per_mtok: 9}\n"
        "  - {provider: openai, model: b, input_usd_per_mtok: 2, output_usd_per_mtok: 1}\n"
    )
    world = World(prices + model(to("openai/a"), to("openai/b"), more=COST))
    assert order(world, {"max_tokens": 1000}) == ["openai/b", "openai/a"]
    assert order(world, {"max_tokens": 1000, **long_chat(20_000)}) == ["openai/a", "openai/b"]


def warmed_world(cache_write: str, cached: int) -> World:
    """A session has so many tokens cached at ``warm``, which is dearer than ``cold``."""
    prices = (
        "---\nname: p\ntype: gateway-config\nprices:\n"
        "  - {provider: anthropic, model: warm, input_usd_per_mtok: 3, output_usd_per_mtok: 1,\n"
        "     cached_input_usd_per_mtok: 0.3}\n"
        "  - {provider: openai, model: cold, input_usd_per_mtok: 1, output_usd_per_mtok: 1,\n"
        f"     cache_write_usd_per_mtok: {cache_write}}}\n"
    )
    world = World(prices + model(to("anthropic/warm"), to("openai/cold"), more=COST))
    world.break_target("openai/cold")
    assert order(world, long_chat(8_000), session_id="s") == ["anthropic/warm"]
    details = {"cached_tokens": cached}
    usage = {"prompt_tokens": 11_200, "completion_tokens": 5, "prompt_tokens_details": details}
    world.end(usage_tail=b'"usage":' + json.dumps(usage).encode() + b"}")
    world.gate.breakers = Breakers()
    return world


@pytest.mark.parametrize(
    ("cached", "cache_write", "first"),
    [
        (11_000, "1", "anthropic/warm"),  # 0.3 against 1
        (0, "1", "openai/cold"),  # 3 against 1
        (6_600, "1", "openai/cold"),  # 60 % at 0.3 and 40 % at 3 is 1.38, against 1
        (6_600, "2", "anthropic/warm"),  # against 60 % written at 2 and 40 % at 1
    ],
)
def test_a_switch_that_loses_a_warm_cache_pays_for_it(
    cached: int, cache_write: str, first: str
) -> None:
    world = warmed_world(cache_write, cached)
    assert order(world, long_chat(8_000), session_id="s")[0] == first
    assert order(world, long_chat(8_000), session_id="t")[0] == "openai/cold"
    cold_again = NOW + 300_000
    assert order(world, long_chat(8_000), session_id="s", now=cold_again)[0] == "openai/cold"


# -- sticky ---------------------------------------------------------------------------------------


def test_a_session_stays_at_its_target_while_that_is_available() -> None:
    world = World(model(to(HAIKU), to(MINI), more="sticky: session\n"))
    assert order(world, draw=0.9, session_id="s") == [MINI, HAIKU]
    assert order(world, draw=0.1, session_id="s") == [MINI, HAIKU]
    assert order(world, draw=0.1, session_id="t") == [HAIKU, MINI]
    world.break_target(MINI)
    assert order(world, draw=0.9, session_id="s") == [HAIKU]
    later = NOW + 60_000  # MINI may be probed, but the session has moved
    assert order(world, draw=0.9, session_id="s", now=later) == [HAIKU, MINI]


def test_a_conversation_without_a_session_stays_too_and_a_fallback_is_nobodys_own() -> None:
    more = "sticky: session\nfallbacks: [{provider: vertex, model: gemini-2.0-flash}]\n"
    world = World(model(to(HAIKU), to(MINI), more=more))
    first = order(world, draw=0.9)
    assert first[0] == MINI
    grown = [*chat()["messages"], {"role": "assistant", "content": "x"}]
    assert order(world, {"messages": grown}, draw=0.1) == first
    for name in (HAIKU, MINI):
        world.break_target(name)
    assert order(world, session_id="s") == [FLASH]
    assert order(world, session_id="s", now=NOW + 60_000)[0] == HAIKU


def test_a_user_stays_over_sessions_for_as_long_as_the_policy_says() -> None:
    world = World(model(to(HAIKU), to(MINI), more="sticky: {by: user, ttl: 30m}\n"))
    assert order(world, draw=0.9, session_id="s", user_id="u")[0] == MINI
    soon, late = NOW + 1_799_999, NOW + 2 * 1_800_000
    assert order(world, draw=0.1, session_id="t", user_id="u", now=soon)[0] == MINI
    assert order(world, draw=0.1, session_id="t", user_id="u", now=late)[0] == HAIKU
    # Nobody in particular is not one person.
    assert {order(world, draw=draw)[0] for draw in (0.1, 0.9)} == {HAIKU, MINI}


# -- nested models --------------------------------------------------------------------------------


def test_weights_of_nested_models_multiply() -> None:
    inner = model(to(HAIKU, ", weight: 3"), to(MINI, ", weight: 1"), name="inner",
                  more="fallbacks: [{provider: vertex, model: gemini-2.0-flash}]\n")  # fmt: skip
    outer = model("weight: 20, target: {model: inner}", to(GPT, ", weight: 80"))
    world = World(outer + inner)
    draws = 1_000
    first = Counter(order(world, draw=(n + 0.3) / draws)[0] for n in range(draws))
    assert first[GPT] == 800
    assert abs(first[HAIKU] - 150) <= 30
    assert abs(first[MINI] - 50) <= 30
    assert order(world, draw=0.1)[2:] == [FLASH, GPT]


def test_a_nested_model_keeps_its_own_order_and_no_target_comes_twice() -> None:
    inner = model(to(HAIKU, ", priority: 1"), to(MINI), name="inner",
                  more="rule_type: priority-based\n")  # fmt: skip
    outer = model(to(GPT, ", priority: 1"), "target: {model: inner}", to(HAIKU, ", priority: 2"),
                  more="rule_type: priority-based\n")  # fmt: skip
    world = World(outer + inner)
    assert order(world) == [MINI, HAIKU, GPT]
    world.break_target(MINI)
    world.break_target(HAIKU)
    assert order(world) == [GPT]


# -- conditions -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("when", "holds", "fails"),
    [
        ("workflow_tag: [draft, sum-*]", {"workflow_tag": "sum-1"}, {"workflow_tag": "chat"}),
        ("metadata: {X-TFY-Cost-Center: c1}", {"cost_center": "c1"}, {}),
        ("prompt_tokens_above: 1000", {"body": long_chat(2_000)}, {"body": long_chat(10)}),
        ("prompt_tokens_below: 1000", {"body": long_chat(10)}, {"body": long_chat(2_000)}),
    ],
)
def test_a_rule_whose_condition_does_not_hold_is_left_out(
    when: str, holds: dict[str, Any], fails: dict[str, Any]
) -> None:
    first = to(GPT, f", when: {{{when}}}")
    world = World(model(first, to(MINI, ", priority: 1"), more="rule_type: priority-based\n"))
    assert order(world, **holds) == [GPT, MINI]
    assert order(world, **fails) == [MINI]


def test_a_request_for_which_no_rule_applies_is_refused_and_says_why() -> None:
    world = World(model(to(GPT, ", when: {workflow_tag: draft}")))
    command = world.ask(chat(model="m"))
    assert isinstance(command, Refuse)
    assert command.refusal.code is RefusalCode.NO_HEALTHY_TARGET
    assert command.refusal.retry_after_s is None
    assert "conditions" in command.refusal.message


def test_a_budget_decides_by_its_share_when_it_was_last_looked_at() -> None:
    budget = (
        "---\nname: b\ntype: gateway-budget-config\nbudgets:\n"
        "  - {id: monthly, scope: {metadata: {X-TFY-Project: p2}}, per: user, ceiling_usd: 9,"
        " window: monthly}\n"
    )
    rules = (
        to(MINI, ", when: {budget_used_pct_above: {monthly: 80}}"),
        to(GPT, ", priority: 1, when: {budget_used_pct_below: {monthly: 81}}"),
        to(FLASH, ", priority: 2"),
    )
    world = World(budget + model(*rules, more="rule_type: priority-based\n"))
    ask = {"project": "p2", "user_id": "u"}
    assert order(world, **ask) == [GPT, FLASH]
    watched = world.gate.watched
    assert watched.names() == [("monthly/usd", "u")]
    for pct, first in ((80, GPT), (81, MINI), (200, MINI)):
        watched.seen(("monthly/usd", "u"), pct)
        assert order(world, **ask) == [first, FLASH]
    # Another user's share, and a request that the budget does not count.
    assert order(world, project="p2", user_id="v")[0] == GPT
    assert order(world, project="p1", user_id="u")[0] == GPT
    assert world.gate.generation.policy.routed_budgets == {"monthly"}


def test_a_breached_limit_moves_no_request_to_a_rule_that_is_not_for_it() -> None:
    limit = (
        "---\nname: l\ntype: gateway-budget-config\nbudgets:\n"
        "  - {id: b, ceiling_usd: 0.02, window: daily, on_exceed: fallback_to_cheaper}\n"
    )
    rules = (to(GPT), to(MINI, ", weight: 0, when: {workflow_tag: draft}"))
    for ask, moved in (({}, False), ({"workflow_tag": "draft"}, True)):
        world = World(limit + model(*rules), min_output_tokens=4000)
        command = world.ask(chat(model="m", max_tokens=4000), **ask)
        assert isinstance(command, Forward) is moved
        if moved:
            assert targets(command) == [MINI]


# -- capabilities ---------------------------------------------------------------------------------

TOOLS = {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}


def test_targets_that_lack_what_a_request_needs_are_left_out_and_weights_renormalise() -> None:
    unable = f"target: {{provider: openai, model: {GPT[7:]}, lacks: tools}}"
    world = World(
        model(f"weight: 50, {unable}", to(HAIKU, ", weight: 30"), to(MINI, ", weight: 20"))
    )
    first = Counter(order(world, TOOLS, draw=n / 100)[0] for n in range(100))
    assert first == {HAIKU: 60, MINI: 40}
    assert GPT not in order(world, TOOLS)
    assert order(world, draw=0.0) == [GPT, HAIKU, MINI]
    world.break_target(HAIKU)
    assert order(world, TOOLS) == [MINI]


def test_where_every_target_lacks_something_the_provider_decides() -> None:
    rules = [
        f"target: {{provider: openai, model: {name[7:]}, lacks: tools}}" for name in (GPT, MINI)
    ]
    assert order(World(model(*rules)), TOOLS) == [GPT, MINI]


def test_the_same_choice_is_the_same_chain_so_that_its_wire_form_is_made_once() -> None:
    world = World(model(to(GPT), to(HAIKU, ", priority: 1"), more="rule_type: priority-based\n"))
    chains = [world.ask(chat(model="m")).chain for _ in range(2)]
    assert chains[0] is chains[1]


# -- what the targets of every chain can do -------------------------------------------------------

NEEDS = {
    "tools": {"tools": [{"type": "function", "function": {"name": "f"}}]},
    "vision": {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,A"}}],
            }
        ]
    },
    "json_schema": {
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}}
    },
    "thinking": {"reasoning_effort": "low"},
}


@pytest.mark.parametrize("need", NEEDS)
@pytest.mark.parametrize("kind", ["weight-based", "priority-based", "latency-based", "cost-based"])
def test_no_chain_has_a_target_that_lacks_what_is_needed(need: str, kind: str) -> None:
    lacks = f"lacks: [{need}]"
    fallbacks = (
        f"fallbacks: [{{provider: p, model: able}}, {{provider: p, model: mute, {lacks}}}]\n"
    )
    prices = "".join(
        f"  - {{provider: p, model: {name}, input_usd_per_mtok: 1, output_usd_per_mtok: 1}}\n"
        for name in ("able", "mute", "first", "second")
    )
    gateway = (
        "---\nname: g\ntype: gateway-config\nproviders:\n"
        f'  p: {{dialect: openai, base_url: "http://p.test/v1"}}\nprices:\n{prices}'
    )
    nested = model(to("p/second"), f"target: {{provider: p, model: mute, {lacks}}}", name="inner")
    rules = (to("p/first"), "target: {model: inner}")
    world = World(gateway + nested + model(*rules, more=f"rule_type: {kind}\n{fallbacks}"))
    for draw in (0.0, 0.3, 0.6, 0.99):
        assert "p/mute" not in order(world, NEEDS[need], draw=draw)
        assert "p/mute" in order(world, draw=draw)
    for name in ("p/first", "p/second", "p/able"):
        world.break_target(name)
    refused = world.ask(chat(model="m") | NEEDS[need])
    assert isinstance(refused, Refuse)
    assert refused.refusal.retry_after_s == 30  # one of the able may be back then


def test_the_same_model_may_be_able_in_one_place_and_not_in_the_other() -> None:
    rules = (
        "target: {provider: openai, model: gpt-4.1, lacks: [tools]}",
        "override_params: {temperature: 0}, target: {provider: openai, model: gpt-4.1}",
    )
    world = World(model(*rules, more="rule_type: priority-based\n"))
    command = world.ask(chat(model="m") | NEEDS["tools"])
    assert isinstance(command, Forward)
    assert [target.id for target in command.chain.targets] == ["r1"]
    both = world.ask(chat(model="m"))
    assert [target.id for target in both.chain.targets] == ["r0", "r1"]
