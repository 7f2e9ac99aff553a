"""The decision as a conversation: event in, command out, no I/O."""

from __future__ import annotations

import json
from typing import Any

import pytest
from gateway import KEY, base_policy, chat
from world import NOW, World, targets

from extproc.core import settlement
from extproc.core.attempt import AttemptMachine
from extproc.core.clamp import MAX_CLAMPS
from extproc.core.commands import (
    Answer,
    Forward,
    Refuse,
    Release,
    Reserve,
    SendAttempt,
    Settle,
)
from extproc.core.events import (
    AttemptFailed,
    AttemptStarted,
    Ending,
    RequestBody,
    RequestHeaders,
    Reserved,
)
from extproc.core.generation import Generation
from extproc.core.machine import RequestMachine
from extproc.ledger.port import Denied, Standing
from extproc.policy.compiler import compile_folder
from extproc.policy.snapshot import PolicySnapshot
from extproc.values.limit import Unit
from extproc.values.refusal import RefusalCode


def test_a_request_is_rewritten_for_the_drawn_target_with_the_rest_as_fallbacks() -> None:
    command = World().ask(draw=0.95)
    assert isinstance(command, Forward)
    assert targets(command) == [
        "bedrock/anthropic.claude-haiku-4-5",
        "anthropic/claude-haiku-4-5",
        "openai/gpt-4o-mini",
        "vertex/gemini-2.0-flash",
    ]
    sent = json.loads(command.body)
    assert sent == {**chat(), "model": "anthropic.claude-haiku-4-5"}


def test_the_reservation_is_the_worst_case_in_money_and_likely_in_tokens() -> None:
    world = World()
    world.ask(chat(max_tokens=1000, n=2))
    reserve = world.reservations[0]
    size = len(json.dumps(chat(max_tokens=1000, n=2)))
    # Two micro-USD per token: an hour's cache write is the dearest input of Claude Haiku.
    assert reserve.amounts[Unit.MICRO_USD] == (size + 1024) * 2 + 2 * 1000 * 5
    assert reserve.amounts[Unit.INPUT_TOKENS] < size
    assert [hold.limit.rule_id for hold in reserve.account.holds] == ["session", "shadow", "all"]


def test_a_maximum_is_injected_where_money_is_bounded_and_none_is_named() -> None:
    body = chat()
    del body["max_tokens"]
    command = World().ask(body)
    assert json.loads(command.body)["max_tokens"] == 4096


def test_usage_is_asked_for_and_hidden_only_where_the_caller_did_not_ask() -> None:
    command = World().ask(chat(stream=True))
    assert command.hide_usage
    assert json.loads(command.body)["stream_options"] == {"include_usage": True}
    asked = World().ask(chat(stream=True, stream_options={"include_usage": True}))
    assert not asked.hide_usage


def test_input_by_reference_reserves_the_context_window() -> None:
    world = World()
    part = {"type": "image_url", "image_url": {"url": "https://x/y.png"}}
    world.ask(chat(messages=[{"role": "user", "content": [part]}]))
    assert world.reservations[0].amounts[Unit.MICRO_USD] >= 200_000 * 2


@pytest.mark.parametrize(
    ("ask", "code"),
    [
        ({"key": "wrong"}, RefusalCode.INVALID_CREDENTIAL),
        ({"project": "p9"}, RefusalCode.IDENTITY_CONFLICT),
        ({"environment": "moon"}, RefusalCode.IDENTITY_CONFLICT),
        ({"path": "/nowhere"}, RefusalCode.NOT_FOUND),
        ({"body": {"model": "nope"}}, RefusalCode.UNKNOWN_MODEL),
        ({"body": chat(tools=[{"type": "web_search"}])}, RefusalCode.INVALID_REQUEST),
        ({"body": chat(service_tier="priority")}, RefusalCode.INVALID_REQUEST),
    ],
)
def test_refusals(ask: dict[str, Any], code: RefusalCode) -> None:
    command = World().ask(**ask)
    assert isinstance(command, Refuse)
    assert command.refusal.code is code


def test_models_are_listed_without_a_body() -> None:
    command = World().ask(path="/v1/models")
    assert isinstance(command, Answer)
    assert {m["id"] for m in json.loads(command.body)["data"]} == {"intent-fast", "mixed"}


def test_sessions_are_per_credential_user_and_derived_when_not_given() -> None:
    world = World()
    for _ in range(3):
        assert isinstance(world.ask(session_id="s", user_id="u"), Forward)
    assert isinstance(world.ask(session_id="s", user_id="u"), Refuse)
    assert isinstance(world.ask(session_id="s", user_id="v"), Forward)
    for _ in range(3):
        assert isinstance(world.ask(), Forward)
    grown = chat()
    grown["messages"] = [*grown["messages"], {"role": "assistant", "content": "x"}]
    assert isinstance(world.ask(grown), Refuse)
    other = chat(messages=[{"role": "user", "content": "another conversation"}])
    assert isinstance(world.ask(other), Forward)


def test_a_shadow_rule_counts_and_never_refuses() -> None:
    world = World()
    for number in range(3):
        assert isinstance(world.ask(session_id=f"s{number}"), Forward)


def test_fallback_to_cheaper_takes_the_dearest_target_that_fits() -> None:
    world = World(min_output_tokens=4000)
    body = chat(model="mixed", max_tokens=4000)
    models = []
    for number in range(8):
        command = world.ask(body, project="p2", session_id=f"s{number}")
        models.append(targets(command)[0] if isinstance(command, Forward) else "refused")
    # One cent holds no call of gpt-4o (4 cents), three of gpt-4o-mini, then one of gemini.
    assert models[:4] == ["openai/gpt-4o-mini"] * 3 + ["vertex/gemini-2.0-flash"]
    assert set(models[4:]) == {"refused"}


def test_a_later_attempt_is_reserved_at_its_own_price_before_it_is_sent() -> None:
    world = World()
    first = world.ask(chat(model="mixed"))
    target = first.chain.targets[1]
    machine = AttemptMachine(
        world.gate, AttemptStarted("r1", 2, target.clusters[first.chain.dialect])
    )
    reserve = machine.on_body(first.body, NOW)
    assert isinstance(reserve, Reserve)
    assert reserve.reservation_id == "r1/2"
    assert reserve.amounts[Unit.MICRO_USD] < world.reservations[0].amounts[Unit.MICRO_USD]
    sent = machine.on_reserved(Reserved(world.reserve(reserve), NOW))
    assert isinstance(sent, SendAttempt)
    assert json.loads(sent.body)["model"] == "gemini-2.0-flash"
    failed = settlement.attempt_failed(world.gate, AttemptFailed("r1", 1, Ending(503), NOW))
    assert failed == [Release("r1/1", "status 503")]
    tail = b'"usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15}}'
    (settled,) = world.end(attempts=2, usage_tail=tail)
    assert settled.reservation_id == "r1/2"
    assert settled.amounts[1:4] == (15, 10, 5)
    assert world.gate.in_flight == {}


def test_an_attempt_of_an_unknown_request_or_cluster_is_refused() -> None:
    world = World()
    assert isinstance(
        AttemptMachine(world.gate, AttemptStarted("x", 2, "c")).on_body(b"{}", NOW), Refuse
    )
    world.ask()
    assert isinstance(
        AttemptMachine(world.gate, AttemptStarted("r1", 2, "c")).on_body(b"{}", NOW), Refuse
    )


@pytest.mark.parametrize(
    ("ending", "released"),
    [
        (Ending(200), False),
        (Ending(200, client_gone=True), False),
        (Ending(200, reset=True), False),
        (Ending(504, timed_out=True), False),
        (Ending(503, reset=True), False),
        (Ending(503, connect_failed=True), True),
        (Ending(429), True),
        (Ending(500), True),
    ],
)
def test_F48_F49_without_usage_only_what_provably_cost_nothing_is_released(
    ending: Ending, released: bool
) -> None:
    world = World()
    world.ask()
    (command,) = world.end(ending=ending)
    assert isinstance(command, Release) == released
    if isinstance(command, Settle):
        assert command.amounts == world.reservations[0].amounts


def test_F54_a_suspect_report_is_charged_at_least_the_reservation() -> None:
    world = World()
    world.ask()
    (command,) = world.end(usage_tail=b'"usage":{"prompt_tokens":-1,"completion_tokens":5}}')
    assert command.amounts[Unit.MICRO_USD] >= world.reservations[0].amounts[Unit.MICRO_USD]


def test_usage_inside_a_models_answer_is_not_believed() -> None:
    world = World()
    world.ask()
    (command,) = world.end(usage_tail=b'"usage":{"prompt_tokens":1,"completion_tokens":1}}]}')
    assert command.amounts == world.reservations[0].amounts


def test_an_aborted_anthropic_stream_is_not_final() -> None:
    world = World()
    world.ask(chat(stream=True), path="/v1/messages")
    first = b'{"type":"message_start","message":{"usage":{"input_tokens":9,"output_tokens":1}}}'
    (command,) = world.end(usage_first=first, ending=Ending(200, client_gone=True))
    assert command.amounts == world.reservations[0].amounts


def test_a_failing_target_is_left_out_and_probed_after_its_cooldown() -> None:
    world = World()
    for _ in range(50):
        world.ask(session_id=str(world.requests))
        world.end(ending=Ending(503))
    assert targets(world.ask(session_id="a"))[0].startswith("bedrock/")
    later = NOW + 2_000
    probe = world.ask(now=later, session_id="b")
    assert targets(probe)[0].startswith("anthropic/")
    assert targets(world.ask(now=later, session_id="c"))[0].startswith("bedrock/")


def test_a_request_keeps_its_generation_over_a_reload() -> None:
    world = World()
    machine = RequestMachine(world.gate)
    pairs = [
        (":path", b"/v1/chat/completions"),
        ("authorization", b"Bearer " + KEY.encode()),
        ("content-type", b"application/json"),
        ("x-request-id", b"r1"),
    ]
    machine.on_headers(RequestHeaders(pairs, False, NOW))
    files = {name: text.encode() for name, text in base_policy().items()}
    snapshot = compile_folder(files, 2, {}, "http://127.0.0.1:9")
    assert isinstance(snapshot, PolicySnapshot)
    world.gate.enter(Generation(snapshot))
    command = machine.on_body(RequestBody(json.dumps(chat()).encode(), NOW, 0.0))
    assert isinstance(command, Reserve)
    assert command.account.about["generation"] == 1


def test_events_out_of_order_are_our_bug() -> None:
    machine = RequestMachine(World().gate)
    with pytest.raises(AssertionError):
        machine.on_body(RequestBody(b"{}", NOW, 0.0))


# -- a shorter answer instead of a refusal --------------------------------------------------------

TIGHT = """
name: b
type: gateway-budget-config
budgets:
  - {id: tight, ceiling_usd: 0.01, window: daily}
---
name: narrow
type: gateway-load-balancing-config
rules:
  - {id: small, weight: 1, target: {provider: openai, model: small}}
fallbacks:
  - {id: large, provider: vertex, model: large}
---
name: prices
type: gateway-config
prices:
  - {provider: openai, model: small, input_usd_per_mtok: 0.01, output_usd_per_mtok: 0.01,
     context_tokens: 1000, max_output_tokens: 500}
  - {provider: vertex, model: large, input_usd_per_mtok: 0.01, output_usd_per_mtok: 0.01,
     context_tokens: 2000, max_output_tokens: 500}
"""


def test_what_the_remainder_buys_is_served_and_said() -> None:
    world = World(TIGHT)
    command = world.ask(chat(max_tokens=4_000, seed=1))
    asked_for, cut = world.reservations
    assert asked_for.reservation_id == cut.reservation_id
    (tokens,) = (json.loads(command.body)["max_tokens"],)
    assert dict(command.notes) == {"clamped": f"max_tokens={tokens}"}
    assert (
        command.body
        == json.dumps(chat(max_tokens=tokens, seed=1, model="claude-haiku-4-5")).encode()
    )
    assert 9_995 <= cut.amounts[Unit.MICRO_USD] <= 10_000
    assert world.gate.in_flight["r1"].attempts[1].amounts == cut.amounts
    refused = world.ask(chat(max_tokens=4_000))
    assert isinstance(refused, Refuse)
    # What is said is said of the shortest answer: that may fit one day, 4,000 tokens never.
    assert refused.refusal.limit is not None
    assert refused.refusal.limit.estimated == world.reservations[-1].amounts[Unit.MICRO_USD]
    assert world.reservations[-1].amounts[Unit.OUTPUT_TOKENS] == 256


def test_both_fields_of_a_caller_that_sent_both_are_cut() -> None:
    command = World(TIGHT).ask(chat(max_tokens=3_000, max_completion_tokens=4_000))
    sent = json.loads(command.body)
    assert sent["max_tokens"] == sent["max_completion_tokens"] < 3_000


def test_where_nothing_is_full_nothing_is_touched() -> None:
    command = World(TIGHT).ask(chat(max_tokens=300))
    assert command.body == json.dumps(chat(max_tokens=300, model="claude-haiku-4-5")).encode()
    assert command.notes == ()


def test_a_token_limit_is_met_by_a_shorter_answer() -> None:
    policy = """
name: r
type: gateway-rate-limit-config
rules:
  - {id: out, limit: {output_tokens: 1500, window: 1h}}
"""
    world = World(policy)
    body = chat()
    del body["max_tokens"]
    lengths = []
    while isinstance(command := world.ask(body), Forward):
        lengths.append(json.loads(command.body).get("max_tokens"))
    # Some thousand tokens are likely, whatever the maximum: the rest of 1,500 is cut to.
    assert lengths == [None, 476]


def test_a_thinking_budget_that_does_not_fit_gets_the_breach_action() -> None:
    world = World(TIGHT)
    body = chat(max_tokens=4_000, thinking={"type": "enabled", "budget_tokens": 1_500})
    assert isinstance(world.ask(body, path="/v1/messages"), Refuse)
    body["thinking"]["budget_tokens"] = 1_024
    sent = json.loads(world.ask(body, path="/v1/messages").body)
    assert sent["thinking"] == body["thinking"]
    assert 1_280 <= sent["max_tokens"] < 4_000


@pytest.mark.parametrize(
    ("asked_for", "asked_again"), [(1_000, []), (4_000, [256]), (256, []), (16, [])]
)
def test_only_what_never_fits_is_asked_for_at_its_shortest_to_say_when(
    asked_for: int, asked_again: list[int]
) -> None:
    world = World(TIGHT)
    asked: list[int] = []

    def full(command: Reserve) -> Denied:
        """Spent until tomorrow."""
        asked.append(command.amounts[Unit.OUTPUT_TOKENS])
        (hold,) = command.account.holds
        never = command.amounts[Unit.MICRO_USD] > hold.ceiling
        return Denied([Standing(hold, hold.ceiling, 0, None if never else NOW + 30_000)])

    world.reserve = full  # type: ignore[method-assign]
    refused = world.ask(chat(max_tokens=asked_for))
    assert asked[1:] == asked_again
    assert refused.refusal.retry_after_s == 30


def test_who_loses_every_race_for_the_remainder_gets_the_breach_action() -> None:
    world = World(TIGHT)
    tried = []

    def taken(command: Reserve) -> Denied:
        """Another caller always leaves a little less than was asked for."""
        tried.append(command.amounts[Unit.MICRO_USD])
        (hold,) = command.account.holds
        return Denied([Standing(hold, hold.ceiling - tried[-1] + 100, 0, None)])

    world.reserve = taken  # type: ignore[method-assign]
    assert isinstance(world.ask(chat(max_tokens=4_000)), Refuse)
    assert len(tried) == 1 + MAX_CLAMPS
    assert tried == sorted(tried, reverse=True)


def words(count: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": "word " * count}]


def test_F58_a_text_longer_than_every_context_is_refused_before_anything_is_reserved() -> None:
    world = World(TIGHT)
    fits_both = world.ask(chat(model="narrow", messages=words(2_000)))
    assert targets(fits_both) == ["openai/small", "vertex/large"]
    fits_one = world.ask(chat(model="narrow", messages=words(3_000)))
    assert targets(fits_one) == ["vertex/large"]
    fits_none = world.ask(chat(model="narrow", messages=words(6_000)))
    assert isinstance(fits_none, Refuse)
    assert fits_none.refusal.code is RefusalCode.CONTEXT_LIMIT_EXCEEDED
    assert "2000 tokens" in fits_none.refusal.message
    assert world.reservations == []


def test_a_text_that_only_a_broken_target_could_hold_waits_for_that_target() -> None:
    world = World(TIGHT)
    world.break_target("vertex/large")
    command = world.ask(chat(model="narrow", messages=words(3_000)))
    assert isinstance(command, Refuse)
    assert command.refusal.code is RefusalCode.NO_HEALTHY_TARGET
