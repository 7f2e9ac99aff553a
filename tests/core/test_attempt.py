"""Later attempts: priced, reserved, cut and rewritten for their own target before they are sent."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from gateway import chat
from hypothesis import example, given
from hypothesis import strategies as st
from world import NOW, World

from extproc.core.attempt import AttemptMachine
from extproc.core.commands import Forward, Refuse, Release, SendAttempt, Settle
from extproc.core.events import AttemptStarted, Ending
from extproc.ledger.port import Denied, Hold, Standing
from extproc.values.limit import Unit
from extproc.values.refusal import RefusalCode

POLICY = """
name: chain
type: gateway-load-balancing-config
rules:
  - {id: cheap, weight: 1, target: {provider: anthropic, model: claude-haiku-4-5}}
fallbacks:
  - {id: dear, provider: openai, model: gpt-4o}
  - {id: newer, provider: vertex, model: gpt-5}
  - {id: brief, provider: bedrock, model: brief}
---
name: newer-first
type: gateway-load-balancing-config
rules:
  - {id: newer-one, weight: 1, target: {provider: vertex, model: gpt-5}}
fallbacks:
  - {id: dear-one, provider: openai, model: gpt-4o}
---
name: prices
type: gateway-config
prices:
  - {provider: vertex, model: gpt-5, input_usd_per_mtok: 1.25, output_usd_per_mtok: 10,
     context_tokens: 400000, max_output_tokens: 128000}
  - {provider: bedrock, model: brief, input_usd_per_mtok: 0.01, output_usd_per_mtok: 0.01,
     context_tokens: 400000, max_output_tokens: 300}
---
name: b
type: gateway-budget-config
budgets:
"""


def world(*budgets: str) -> World:
    """A world with these budgets."""
    return World(POLICY + "".join(f"  - {budget}\n" for budget in budgets))


def dollars(ceiling: float) -> World:
    return world(f"{{id: all, ceiling_usd: {ceiling}, window: 1d}}")


def bounds(command: Forward | SendAttempt) -> dict[str, int]:
    """The output maxima in a body."""
    document = json.loads(command.body)
    return {key: value for key, value in document.items() if key.startswith("max_")}


def asked(**fields: Any) -> dict[str, Any]:
    body = chat(model="chain", **fields)
    return {key: value for key, value in body.items() if value is not None}


def ask(home: World, **fields: Any) -> Forward:
    first = home.ask(asked(**fields))
    assert isinstance(first, Forward)
    return first


# -- F58: another model has another price, another maximum, other fields --------------------------


def test_F58_a_dearer_attempt_is_reserved_at_its_own_price_under_an_id_of_its_own() -> None:
    home = dollars(1)
    first = ask(home, max_tokens=1_000)
    sent = home.attempt(first, 1)
    assert isinstance(sent, SendAttempt)
    assert sent.body == first.body.replace(b"claude-haiku-4-5", b"gpt-4o")
    assert sent.notes == ()
    one, two = home.reservations
    assert [one.reservation_id, two.reservation_id] == ["r1/1", "r1/2"]
    assert two.amounts[Unit.MICRO_USD] > one.amounts[Unit.MICRO_USD]
    held = home.ledger.used(two.account.holds[0], NOW, open_only=True)
    assert held == one.amounts[Unit.MICRO_USD] + two.amounts[Unit.MICRO_USD]


def test_F58_a_dearer_attempt_that_does_not_fit_is_cut_or_not_sent() -> None:
    outcomes = set()
    for spare in range(0, 9_000, 250):
        home = dollars(0.02)
        first = ask(home, max_tokens=500)
        # Somebody else spends, so that only so much is left.
        (hold,) = home.reservations[0].account.holds
        left = 20_000 - home.ledger.used(hold, NOW)
        assert home.ledger.correct(hold.limit, "", left - spare, NOW, {})
        command = home.attempt(first, 1)
        amounts = home.reservations[-1].amounts
        assert home.ledger.used(hold, NOW) <= 20_000
        if isinstance(command, Refuse):
            assert command.refusal.code is RefusalCode.BUDGET_EXCEEDED
            outcomes.add("refused")
        elif command.notes:
            (tokens,) = bounds(command).values()
            assert 256 <= tokens < 500
            assert dict(command.notes) == {"clamped": f"max_tokens={tokens}"}
            assert spare - 10 < amounts[Unit.MICRO_USD] <= spare
            outcomes.add("cut")
        else:
            assert bounds(command) == {"max_tokens": 500}
            outcomes.add("whole")
    assert outcomes == {"refused", "cut", "whole"}


def test_F58_an_attempt_asks_for_no_more_than_its_target_can_put_out() -> None:
    home = dollars(9)
    first = ask(home, max_tokens=4_000)
    sent = home.attempt(first, 3)
    assert bounds(sent) == {"max_tokens": 300}
    assert dict(sent.notes) == {"clamped": "max_tokens=300"}
    assert home.reservations[-1].amounts[Unit.OUTPUT_TOKENS] == 300
    short = ask(home, max_tokens=200)
    assert bounds(home.attempt(short, 3)) == {"max_tokens": 200}


def test_F58_an_injected_maximum_is_in_the_field_that_each_target_knows() -> None:
    home = dollars(9)
    first = ask(home, max_tokens=None)
    assert bounds(first) == {"max_tokens": 4_096}
    assert bounds(home.attempt(first, 1)) == {"max_tokens": 4_096}
    assert bounds(home.attempt(first, 2)) == {"max_completion_tokens": 4_096}
    newer = home.ask({**asked(max_tokens=None), "model": "newer-first"})
    assert bounds(newer) == {"max_completion_tokens": 4_096}
    assert bounds(home.attempt(newer, 1)) == {"max_tokens": 4_096}


def test_F58_a_maximum_that_the_caller_wrote_stays_in_its_field() -> None:
    home = dollars(9)
    first = ask(home, max_tokens=77)
    assert bounds(home.attempt(first, 2)) == {"max_tokens": 77}


def test_F58_a_clamped_request_stays_clamped_and_its_field_follows_the_target() -> None:
    home = dollars(0.019)
    first = ask(home, max_tokens=None)
    (tokens,) = bounds(first).values()
    assert 256 < tokens < 4_096
    assert dict(first.notes) == {"clamped": f"max_tokens={tokens}"}
    assert isinstance(home.attempt(first, 1), Refuse), "the first attempt holds all that was left"
    home.ledger.release("r1/1", NOW, "it has provably cost nothing")
    ((field, cut),) = bounds(home.attempt(first, 2)).items()
    assert field == "max_completion_tokens"
    assert 256 <= cut < tokens


def test_an_attempt_at_another_provider_is_counted_on_that_providers_limits() -> None:
    home = world(
        "{id: at-openai, ceiling_usd: 0.016, window: 1d, when: {providers: [openai]}}",
        "{id: each, ceiling_usd: 9, window: 1d, per: provider}",
    )
    first = ask(home, max_tokens=1_000)
    assert [hold.limit.rule_id for hold in home.reservations[0].account.holds] == ["each"]
    assert isinstance(home.attempt(first, 1), SendAttempt)
    holds = home.reservations[-1].account.holds
    assert [hold.limit.rule_id for hold in holds] == ["at-openai", "each"]
    assert holds[1].scope_value == "openai"
    second = ask(home, max_tokens=1_000)
    refused = home.attempt(second, 1)
    assert isinstance(refused, Refuse)
    assert refused.refusal.limit is not None
    assert refused.refusal.limit.rule_id == "at-openai"


def test_a_limit_in_dollars_that_only_the_later_provider_has_bounds_the_output() -> None:
    home = world("{id: at-openai, ceiling_usd: 9, window: 1d, when: {providers: [openai]}}")
    first = ask(home, max_tokens=None)
    assert bounds(first) == {}
    bounded = home.attempt(first, 1)
    assert bounds(bounded) == {"max_tokens": 4_096}
    assert bounded.notes == (), "nothing was cut"
    unpriced = ask(home, web_search_options={})
    refused = home.attempt(unpriced, 1)
    assert isinstance(refused, Refuse)
    assert refused.refusal.param == "tools"


def test_an_attempt_that_loses_every_race_is_refused() -> None:
    home = dollars(0.02)
    first = ask(home, max_tokens=500)
    asked_for = []

    def taken(command: Any) -> Denied:
        """Another caller always leaves a little less than was asked for."""
        asked_for.append(command.amounts[Unit.MICRO_USD])
        (hold,) = command.account.holds
        assert isinstance(hold, Hold)
        return Denied([Standing(hold, hold.ceiling - asked_for[-1] + 100, 0, None)])

    home.reserve = taken  # type: ignore[method-assign]
    command = home.attempt(first, 1)
    assert isinstance(command, Refuse)
    assert asked_for == sorted(asked_for, reverse=True)
    assert len(asked_for) == 4


# -- every end, once ------------------------------------------------------------------------------

BILLED = (Ending(504, timed_out=True), Ending(503, reset=True))
FREE = (Ending(503), Ending(429), Ending(503, connect_failed=True))


@pytest.mark.parametrize("ending", BILLED)
def test_F58_a_failed_attempt_that_may_be_billed_is_charged_beside_the_next(ending: Ending) -> None:
    home = dollars(1)
    first = ask(home, max_tokens=1_000)
    assert isinstance(home.attempt(first, 1), SendAttempt)
    one, two = home.reservations
    (charged,) = home.attempt_failed(1, ending)
    assert isinstance(charged, Settle)
    assert (charged.reservation_id, charged.amounts) == ("r1/1", one.amounts)
    tail = b'"usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15}}'
    (settled,) = home.end(attempts=2, usage_tail=tail)
    assert settled.reservation_id == "r1/2"
    assert settled.amounts[Unit.MICRO_USD] == 25 + 50
    assert home.end(attempts=2, usage_tail=tail) == []
    assert home.attempt_failed(1, ending) == []
    assert home.gate.in_flight == {}
    assert two.amounts[Unit.MICRO_USD] > settled.amounts[Unit.MICRO_USD]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.sampled_from([16, 300, 1_000, 4_000, None])),
        st.tuples(st.just("attempt"), st.just(None)),
        st.tuples(st.just("failed"), st.sampled_from(BILLED + FREE)),
        st.tuples(st.just("end"), st.sampled_from([Ending(200), Ending(503), Ending(0, True)])),
        st.tuples(st.just("report"), st.integers(1, 1_000)),
    ),
    max_size=40,
)


CUT_SHORTER = [("ask", None), ("attempt", None), ("failed", FREE[0]), ("attempt", None)]


@given(STEPS, st.integers(2_000, 60_000))
@example([*CUT_SHORTER, ("report", 443)], 4_435)
def test_F58_no_order_of_attempts_and_ends_spends_past_the_ceiling_or_ends_one_twice(
    steps: list[tuple[str, Any]], ceiling: int
) -> None:
    home = dollars(ceiling / 1_000_000)
    (limit,) = home.gate.generation.policy.limits
    hold = Hold(limit, "", limit.ceiling)
    ended: Counter[str] = Counter()
    first: Forward | None = None
    place = bound = 0

    def carry_out(commands: list[Any]) -> None:
        for command in commands:
            ended[command.reservation_id] += 1
            if isinstance(command, Release):
                home.ledger.release(command.reservation_id, NOW, command.reason)
            else:
                home.ledger.settle(command.reservation_id, command.amounts, NOW, {})

    for step, value in steps:
        if step == "ask":
            command = home.ask(asked(max_tokens=value))
            first, place = (command, 0) if isinstance(command, Forward) else (None, 0)
            bound = 0 if first is None else max(bounds(first).values())
        elif first is None:
            continue
        elif step == "attempt" and place + 1 < len(first.chain.targets):
            place += 1
            command = home.attempt(first, place)
            bound = max(bounds(command).values()) if isinstance(command, SendAttempt) else 0
        elif step == "failed":
            carry_out(home.attempt_failed(place, value))
        elif step == "end":
            carry_out(home.end(attempts=place + 1, ending=value))
        elif step == "report":
            tail = b'"usage":{"prompt_tokens":9,"completion_tokens":%d,"total_tokens":%d}}'
            output = min(value, bound)  # of the last attempt: a later one may be cut shorter
            carry_out(home.end(attempts=place + 1, usage_tail=tail % (output, output + 9)))
        assert home.ledger.used(hold, NOW) <= ceiling
    assert set(ended.values()) <= {1}


@pytest.mark.parametrize("beta", [b"context-1m-2025-08-07", b"interleaved-thinking"])
def test_a_later_attempt_opens_no_longer_context_than_its_provider_is_reserved_for(
    beta: bytes,
) -> None:
    home = World(
        "name: m\ntype: gateway-load-balancing-config\nrules:\n"
        "  - {id: r, target: {provider: openai, model: gpt-4.1}}\n"
        "fallbacks: [{provider: anthropic, model: claude-sonnet-4-5}]\n---\n"
        "name: b\ntype: gateway-budget-config\nbudgets:\n"
        "  - {id: claude, when: {providers: [anthropic]}, ceiling_usd: 99, window: 1d}\n"
    )
    home.extra = [("anthropic-beta", beta)]
    body = chat(model="m", messages=[{"role": "user", "content": "word " * 50_000}])
    first = home.ask(body)
    assert isinstance(first, Forward)
    target = first.chain.targets[1]
    cluster = target.clusters[first.chain.operation]
    machine = AttemptMachine(home.gate, AttemptStarted("r1", 2, cluster, home.extra))
    command = machine.on_body(first.body, NOW)
    assert isinstance(command, Refuse) is beta.startswith(b"context")


def test_a_longer_context_that_the_first_target_was_not_asked_for_comes_back_and_is_seen() -> None:
    home = World(
        "name: m\ntype: gateway-load-balancing-config\nrules:\n"
        "  - {id: r, target: {provider: openai, model: gpt-4.1}, "
        "headers_override: {remove: [anthropic-beta]}}\n"
        "fallbacks: [{provider: anthropic, model: claude-sonnet-4-5}]\n---\n"
        "name: b\ntype: gateway-budget-config\nbudgets:\n"
        "  - {id: claude, when: {providers: [anthropic]}, ceiling_usd: 99, window: 1d}\n"
    )
    home.extra = [("anthropic-beta", b"context-1m-2025-08-07")]
    body = chat(model="m", messages=[{"role": "user", "content": "word " * 50_000}])
    first = home.ask(body)
    assert isinstance(first, Forward)
    assert "anthropic-beta" in first.remove_headers
    # As Envoy has it by then: without the header.
    assert isinstance(home.attempt(first, 1), Refuse)
