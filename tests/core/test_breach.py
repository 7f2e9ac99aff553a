"""Where a request goes when a limit is full: fallbacks that fit, degraded answers, or nowhere."""

from __future__ import annotations

import json
from typing import Any

import pytest
from gateway import chat
from world import NOW, World, targets

from extproc.core.commands import Forward, Refuse
from extproc.values.limit import Unit
from extproc.values.refusal import RefusalCode

MODELS = """
name: mixed
type: gateway-load-balancing-config
rules:
  - {id: dear, weight: 1, target: {provider: openai, model: gpt-4o}}
fallbacks:
  - {id: middle, provider: vertex, model: gemini-2.0-flash, lacks: [tools]}
  - {id: small, provider: openai, model: gpt-4o-mini}
---
name: thinker
type: gateway-load-balancing-config
rules:
  - {id: opus, weight: 1, target: {provider: anthropic, model: claude-opus-4-5}}
fallbacks:
  - {id: haiku-3, provider: bedrock, model: claude-3-haiku}
---
name: tiny
type: gateway-load-balancing-config
rules:
  - {id: tiny, weight: 1, target: {provider: vertex, model: tiny}}
---
name: prices
type: gateway-config
prices:
  - {provider: vertex, model: tiny, input_usd_per_mtok: 0.01, output_usd_per_mtok: 0.01,
     context_tokens: 2000, max_output_tokens: 500}
  - {provider: bedrock, model: claude-3-haiku, input_usd_per_mtok: 0.25, output_usd_per_mtok: 1.25,
     context_tokens: 200000, max_output_tokens: 4096}
---
"""
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
IMAGE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y"}}]}]
SCHEMA = {"type": "json_schema", "json_schema": {"name": "s", "schema": {}}}


def rule(text: str) -> str:
    return f"{MODELS}name: r\ntype: gateway-rate-limit-config\nrules:\n  - {text}\n"


def budget(text: str) -> str:
    return f"{MODELS}name: b\ntype: gateway-budget-config\nbudgets:\n  - {text}\n"


def once(action: str, more: str = "") -> World:
    """A world with a rule that one request fills."""
    return World(
        rule(f"{{id: once, limit: {{requests: 1, window: 1h}}, on_breach: {action}{more}}}")
    )


def second(world: World, body: Any, **ask: str) -> Any:
    """What becomes of the second of two equal requests."""
    assert isinstance(world.ask(body, **ask), Forward)
    return world.ask(body, **ask)


def said(command: Forward) -> dict[str, str]:
    return dict(command.notes)


# -- fallback_to_cheaper --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "openai/gpt-4o-mini"),
        # An image reserves the whole context, and Gemini's is the longer one.
        ({"messages": IMAGE}, "vertex/gemini-2.0-flash"),
        ({"tools": [TOOL]}, "openai/gpt-4o-mini"),
        ({"response_format": SCHEMA}, "openai/gpt-4o-mini"),
        ({"reasoning_effort": "high"}, None),
    ],
)
def test_a_cheaper_target_must_be_able_to_do_what_is_needed(
    fields: dict[str, Any], expected: str | None
) -> None:
    command = second(once("fallback_to_cheaper"), chat(model="mixed", max_tokens=300, **fields))
    if expected is None:
        assert isinstance(command, Refuse)
        assert command.refusal.code is RefusalCode.RATE_LIMIT_EXCEEDED
    else:
        assert targets(command) == [expected]
        assert said(command) == {"overflow": "once"}


def test_what_a_target_is_said_to_lack_counts_too() -> None:
    # Gemini is the cheapest; without gpt-4o-mini only it is left, and it was given no tools.
    for fields, served in (({}, True), ({"tools": [TOOL]}, False)):
        world = once("fallback_to_cheaper")
        world.break_target("openai/gpt-4o-mini")
        body = chat(model="mixed", max_tokens=300, **fields)
        command = second(world, body)
        assert isinstance(command, Forward) is served


def test_the_dearest_cheaper_target_is_cut_to_the_money_left() -> None:
    # 90 % of $0.0046 buy neither call nor floor of gpt-4o; the mini's 16,000 tokens cost twice it.
    world = World(
        budget("{id: b, ceiling_usd: 0.0046, window: 1d, on_exceed: fallback_to_cheaper}")
    )
    body = chat(model="mixed", max_tokens=16_000)
    command = world.ask(body)
    assert targets(command) == ["openai/gpt-4o-mini"]
    cut = json.loads(command.body)["max_tokens"]
    assert 256 <= cut < 16_000
    assert said(command) == {"overflow": "b", "clamped": f"max_tokens={cut}"}
    amounts = world.reservations[-1].amounts
    assert 4_590 < amounts[Unit.MICRO_USD] <= 4_600, "the whole ceiling, to the last token"
    assert isinstance(world.ask(body), Refuse)


# -- fallback_to_NAME -----------------------------------------------------------------------------


def test_a_named_fallback_must_fit_the_context_and_is_cut_to_its_own_maximum() -> None:
    for words, served in ((10, True), (4_000, False)):
        world = once("fallback_to_tiny")
        messages = [{"role": "user", "content": "word " * words}]
        command = second(world, chat(model="mixed", max_tokens=4_000, messages=messages))
        if served:
            assert targets(command) == ["vertex/tiny"]
            assert json.loads(command.body)["max_tokens"] == 500
            assert said(command) == {"overflow": "once", "clamped": "max_tokens=500"}
        else:
            assert isinstance(command, Refuse)


def test_a_named_fallback_must_be_able_to_think() -> None:
    fields: dict[str, Any] = {"model": "thinker", "max_tokens": 3_000}
    assert targets(second(once("fallback_to_haiku-3"), chat(**fields), path="/v1/messages")) == [
        "bedrock/claude-3-haiku"
    ]
    thinking = {"type": "enabled", "budget_tokens": 1_024}
    command = second(
        once("fallback_to_haiku-3"), chat(**fields, thinking=thinking), path="/v1/messages"
    )
    assert isinstance(command, Refuse)


def test_a_call_that_is_on_the_fallback_already_stays_there_and_is_marked() -> None:
    world = once("fallback_to_claude-haiku-4-5")
    world.ask(draw=0.95)
    command = world.ask(draw=0.95)
    assert targets(command)[0] == "bedrock/anthropic.claude-haiku-4-5"
    assert said(command) == {"overflow": "once"}


def test_the_limits_of_the_fallbacks_own_provider_hold_for_it() -> None:
    text = rule("{id: once, limit: {requests: 1, window: 1h}, on_breach: fallback_to_gpt-4o-mini}")
    text += (
        "---\nname: b\ntype: gateway-budget-config\nbudgets:\n"
        "  - {id: at-openai, ceiling_usd: 0.003, window: 1d, when: {providers: [openai]}}\n"
        "  - {id: each, ceiling_usd: 1, window: 1d, per: provider}\n"
    )
    world = World(text)
    body = chat(max_tokens=2_000)
    assert [hold.limit.rule_id for hold in ask_holds(world, body)] == ["once", "each"]
    holds = ask_holds(world, body)
    assert [hold.limit.rule_id for hold in holds] == ["once", "at-openai", "each"]
    assert holds[-1].scope_value == "openai"
    while isinstance(command := world.ask(body), Forward):
        assert world.requests < 9
    assert command.refusal.code is RefusalCode.RATE_LIMIT_EXCEEDED
    spent = {c.limit.rule_id: world.ledger.used(c, NOW) for c in holds}
    assert spent["at-openai"] <= 3_000


def ask_holds(world: World, body: Any) -> tuple[Any, ...]:
    assert isinstance(world.ask(body), Forward)
    return world.reservations[-1].account.holds


def test_tools_that_no_price_bounds_do_not_fall_back_to_a_strict_budget() -> None:
    text = rule("{id: once, limit: {requests: 1, window: 1h}, on_breach: fallback_to_gpt-4o-mini}")
    text += (
        "---\nname: b\ntype: gateway-budget-config\nbudgets:\n"
        "  - {id: at-openai, ceiling_usd: 3, window: 1d, when: {providers: [openai]}}\n"
    )
    command = second(World(text), chat(web_search_options={}))
    assert isinstance(command, Refuse)
    assert command.refusal.param == "tools"


# -- what is counted where ------------------------------------------------------------------------


def test_a_moved_rate_rule_in_dollars_is_still_a_ceiling() -> None:
    text = rule("{id: usd, limit: {usd: 0.028, window: 1h}, on_breach: fallback_to_cheaper}")
    world = World(text)
    body = chat(model="mixed", max_tokens=2_000)
    served = 0
    while isinstance(world.ask(body), Forward):
        served += 1
        assert served < 100
    assert served > 3
    used = world.ledger.used(world.reservations[0].account.holds[0], NOW)
    assert 27_000 < used <= 28_000


def test_one_limit_that_blocks_decides_for_all() -> None:
    text = rule(
        "{id: once, limit: {requests: 1, window: 1h}, on_breach: fallback_to_claude-haiku-4-5}"
    )
    text += "  - {id: block, limit: {requests: 1, window: 1h}}\n"
    assert isinstance(second(World(text), chat()), Refuse)


def test_a_fallback_and_a_degrading_rule_both_act() -> None:
    text = rule("{id: move, limit: {requests: 1, window: 1h}, on_breach: fallback_to_gpt-4o-mini}")
    text += "  - {id: cut, limit: {requests: 1, window: 1h}, on_breach: degrade}\n"
    command = second(World(text), chat(max_tokens=4_000))
    assert targets(command)[0] == "openai/gpt-4o-mini"
    assert said(command) == {"overflow": "move", "clamped": "max_tokens=2048, degraded_by=cut"}


# -- degrade --------------------------------------------------------------------------------------


def test_a_degraded_request_is_short_thinks_little_and_leaves_the_full_counter() -> None:
    world = once("degrade")
    body = chat(model="mixed", max_tokens=4_000, reasoning_effort="high", parallel_tool_calls=True)
    for number in range(3):
        command = world.ask(body)
        sent = json.loads(command.body)
        if number == 0:
            assert sent == {**body, "model": "gpt-4o"}
            continue
        assert sent == {
            **body, "model": "gpt-4o", "max_tokens": 2_048, "reasoning_effort": "low",
        }  # fmt: skip
        assert said(command) == {
            "clamped": "max_tokens=2048, reasoning_effort=low, degraded_by=once"
        }
    (hold,) = world.reservations[-1].account.holds
    assert hold.limit.key == "once/requests:overflow"
    assert world.ledger.used(hold, NOW) == 2
    assert targets(command) == ["openai/gpt-4o", "vertex/gemini-2.0-flash", "openai/gpt-4o-mini"]


def test_a_later_attempt_of_a_degraded_request_is_degraded_and_counted_beside_it() -> None:
    world = once("degrade")
    first = second(world, chat(model="mixed", max_tokens=4_000, reasoning_effort="high"))
    sent = json.loads(world.attempt(first, 1).body)
    assert (sent["max_tokens"], sent["reasoning_effort"]) == (2_048, "low")
    (hold,) = world.reservations[-1].account.holds
    assert hold.limit.key == "once/requests:overflow"


def test_a_degraded_answer_may_be_shorter_than_the_floor_of_clamping() -> None:
    world = once("degrade", ", degrade_max_output_tokens: 50")
    command = second(world, chat(max_tokens=4_000))
    assert json.loads(command.body)["max_tokens"] == 50


def test_a_request_that_is_short_already_is_degraded_in_name_only() -> None:
    command = second(once("degrade"), chat())
    assert json.loads(command.body) == {**chat(), "model": "claude-haiku-4-5"}
    assert said(command) == {"clamped": "degraded_by=once"}


def test_a_degraded_request_without_a_maximum_gets_one() -> None:
    body = {key: value for key, value in chat().items() if key != "max_tokens"}
    command = second(once("degrade"), body)
    assert json.loads(command.body) == {
        **body, "model": "claude-haiku-4-5", "max_tokens": 2_048,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("thinking", "maximum", "sent"),
    [
        ({"type": "enabled", "budget_tokens": 6_000}, 9_000, (1_024, 2_048)),
        ({"type": "enabled", "budget_tokens": 1_200}, 9_000, (1_200, 2_048)),
        ({"type": "enabled", "budget_tokens": 1_200}, 1_500, (1_200, 1_500)),
        ({"type": "adaptive"}, 9_000, (None, 2_048)),
    ],
)
def test_degraded_thinking_stays_within_what_the_provider_takes(
    thinking: dict[str, Any], maximum: int, sent: tuple[int | None, int]
) -> None:
    body = chat(model="thinker", max_tokens=maximum, thinking=thinking)
    command = second(once("degrade"), body, path="/v1/messages")
    document = json.loads(command.body)
    budget, most = sent
    assert document["max_tokens"] == most
    assert document["thinking"] == (
        thinking if budget is None else {**thinking, "budget_tokens": budget}
    )
    assert budget is None or 1_024 <= budget < most
    assert ("thinking_budget_tokens=1024" in said(command)["clamped"]) == (budget == 1_024)


def test_thinking_that_cannot_be_made_short_enough_is_refused() -> None:
    thinking = {"type": "enabled", "budget_tokens": 3_000}
    body = chat(model="thinker", max_tokens=9_000, thinking=thinking)
    world = once("degrade", ", degrade_max_output_tokens: 1279")
    assert isinstance(second(world, body, path="/v1/messages"), Refuse)
    world = once("degrade", ", degrade_max_output_tokens: 1280")
    command = second(world, body, path="/v1/messages")
    assert json.loads(command.body)["max_tokens"] == 1_280


def test_embeddings_cannot_be_degraded() -> None:
    body = {"model": "mixed", "input": "x"}
    assert isinstance(second(once("degrade"), body, path="/v1/embeddings"), Refuse)


def test_the_last_share_of_a_degrading_budget_is_for_degraded_answers() -> None:
    text = (
        "{id: b, ceiling_usd: 0.1, window: 1d, on_exceed: degrade, degrade_max_output_tokens: 300}"
    )
    world = World(budget(text))
    body = chat(model="mixed", max_tokens=1_000)
    lengths = []
    while isinstance(command := world.ask(body), Forward):
        lengths.append(json.loads(command.body)["max_tokens"])
    assert command.refusal.code is RefusalCode.BUDGET_EXCEEDED
    used = world.ledger.used(world.reservations[0].account.holds[0], NOW)
    assert used <= 100_000
    degraded = [length for length in lengths if length <= 300]
    assert degraded[0] == 300
    assert lengths == sorted(lengths, reverse=True)
    assert sum(length == 1_000 for length in lengths) >= 6


# -- providers ------------------------------------------------------------------------------------


def test_F58_a_budget_per_provider_bounds_each_provider_also_under_a_fallback() -> None:
    text = budget(
        "{id: b, ceiling_usd: 0.03, window: 1d, per: provider, on_exceed: fallback_to_cheaper}"
    )
    world = World(text)
    body = chat(model="mixed", max_tokens=1_000)
    served = []
    while isinstance(command := world.ask(body), Forward):
        served.append(targets(command)[0])
        assert len(served) < 500
    assert served[0] == "openai/gpt-4o"
    # At the same provider up to the whole of its ceiling, at the other one up to its own share.
    assert set(served) == {"openai/gpt-4o", "openai/gpt-4o-mini", "vertex/gemini-2.0-flash"}
    (limit,) = world.gate.generation.policy.limits
    hold = world.reservations[0].account.holds[0]
    assert 29_000 < world.ledger.used(hold, NOW) <= 30_000
    other = hold._replace(scope_value="vertex")
    assert 26_000 < world.ledger.used(other, NOW) <= limit.fallback_ceiling == 27_000


def test_a_rule_of_one_provider_does_not_follow_to_another() -> None:
    text = rule(
        "{id: r, when: {providers: [openai]}, limit: {usd: 0.03, window: 1d},"
        " on_breach: fallback_to_cheaper}"
    )
    world = World(text)
    world.break_target("openai/gpt-4o-mini")
    body = chat(model="mixed", max_tokens=1_000)
    served = [targets(world.ask(body))[0] for _ in range(30)]
    assert served[0] == "openai/gpt-4o"
    assert served[-1] == "vertex/gemini-2.0-flash"
    assert world.reservations[-1].account.holds == ()


def test_fallback_traffic_shares_its_accounts_and_chains() -> None:
    world = once("fallback_to_cheaper")
    body = chat(model="mixed", max_tokens=300)
    second(world, body)
    first = (world.reservations[-1].account, world.ask(body).chain)
    assert (world.reservations[-1].account, world.ask(body).chain) == first
    named = once("fallback_to_claude-haiku-4-5")
    chain = second(named, chat()).chain
    assert named.ask(chat()).chain is chain


def test_moved_traffic_without_a_session_header_is_booked_on_its_own_conversation() -> None:
    text = rule("{id: r, limit: {requests: 1, window: 1h}, scope: session, on_breach: degrade}")
    world = World(text)
    sessions = set()
    for words in ("one", "two"):
        body = chat(max_tokens=4_000, messages=[{"role": "user", "content": words}])
        second(world, body)
        (hold,) = world.reservations[-1].account.holds
        assert hold.limit.key == "r/requests:overflow"
        sessions.add(hold.scope_value)
    assert len(sessions) == 2
