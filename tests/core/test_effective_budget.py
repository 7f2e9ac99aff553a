"""What a caller is told that it may still spend is what admission then does."""

from __future__ import annotations

import json
from typing import Any

import pytest
from command import ROOT
from gateway import KEY
from hypothesis import given
from hypothesis import strategies as st
from world import NOW, World

from extproc.core import effective_budget
from extproc.core.commands import Answer, Forward, Peek, Refuse
from extproc.core.events import Peeked, RequestBody, RequestHeaders, Reserved
from extproc.core.machine import RequestMachine
from extproc.policy.snapshot import Kill
from extproc.values.dialect import Dialect
from extproc.values.refusal import RefusalCode

POLICY = """
name: limits
type: gateway-rate-limit-config
rules:
  - {id: session, limit: {requests: 3, window: 1h}, scope: session}
  - {id: shadow, limit: {tokens: 100, window: 1h}, enforce: shadow}
  - {id: small-only, when: {models: [small]}, limit: {requests: 7, window: 1m}, scope: user}
---
name: budgets
type: gateway-budget-config
budgets:
  - {id: each, scope: user, ceiling_usd: 0.02, window: daily, on_exceed: fallback_to_small}
  - {id: guess, ceiling_usd: 5, window: monthly, mode: statistical}
velocity:
  - {id: fast, scope: user, max_usd_per_minute: 1}
---
name: small
type: gateway-load-balancing-config
rules:
  - {id: one, weight: 1, target: {provider: openai, model: gpt-4o-mini}}
"""


def peek(world: World, query: str = "", **headers: str) -> Any:
    """The answer to ``GET /v1/budget/effective``, parsed; or the refusal."""
    machine = RequestMachine(world.gate)
    key = headers.pop("anthropic_key", "")
    credential = (
        ("x-api-key", key.encode()) if key else ("authorization", b"Bearer " + KEY.encode())
    )
    pairs = [
        (":path", b"/v1/budget/effective" + query.encode()),
        credential,
        ("x-request-id", b"q"),
        *((f"x-tfy-{name.replace('_', '-')}", value.encode()) for name, value in headers.items()),
    ]
    command = machine.on_headers(RequestHeaders(pairs, True, NOW))
    if not isinstance(command, Peek):
        return command
    answer = machine.on_peeked(Peeked(world.ledger.peek(command.holds, NOW), NOW))
    assert isinstance(answer, Answer)
    return json.loads(answer.body)


def by_rule(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {entry["rule_id"]: entry for entry in document["limits"]}


def test_every_limit_that_applies_is_listed_as_its_counter_stands() -> None:
    world = World(POLICY)
    world.ask(user_id="u", session_id="s")
    document = peek(world, "?model=intent-fast", user_id="u", session_id="s")
    assert (document["object"], document["policy_generation"]) == ("budget.effective", 1)
    limits = by_rule(document)
    assert set(limits) == {"session", "shadow", "each", "guess"}
    session = limits["session"]
    assert (session["kind"], session["unit"], session["window"]) == ("limit", "requests", "1h")
    assert (session["limit"], session["settled"], session["reserved"]) == (3, 0, 1)
    assert session["remaining"] == session["remaining_for_fallback"] == 2
    each = limits["each"]
    assert (each["kind"], each["unit"], each["limit"]) == ("budget", "usd", "0.02")
    assert each["on_breach"] == "fallback_to_small"
    assert each["mode"] == "strict"
    assert each["scope"] == ["user"]
    # Ninety of a hundred are for the asked model, the rest for the fallback.
    reserved = float(each["reserved"])
    assert float(each["remaining"]) == pytest.approx(0.018 - reserved)
    assert float(each["remaining_for_fallback"]) == pytest.approx(0.02 - reserved)
    assert limits["guess"]["mode"] == limits["shadow"]["mode"] == "statistical"
    assert limits["shadow"]["enforce"] == "shadow"
    assert document["usd_remaining"] == each["remaining"]
    assert document["velocity"][0]["state"] == "closed"
    assert float(document["velocity"][0]["spent"]) > 0


def test_the_callers_own_counters_only() -> None:
    world = World(POLICY)
    world.ask(user_id="u", session_id="s")
    other = by_rule(peek(world, "?model=intent-fast", user_id="v", session_id="s"))
    assert other["each"]["reserved"] == "0.00"
    assert other["session"]["reserved"] == 0
    assert '"u"' not in json.dumps(other)


def test_without_a_model_all_that_may_be_asked_for_is_looked_at() -> None:
    world = World(POLICY)
    document = peek(world, user_id="u")
    assert document["model"] is None
    assert "max_tokens" not in document
    limits = by_rule(document)
    assert limits["small-only"]["models"] == ["small"]
    assert sorted(limits["each"]["models"]) == ["intent-fast", "small"]
    assert [entry["rule_id"] for entry in document["limits"]].count("each") == 1


def test_what_is_shown_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(effective_budget, "MAX_COUNTERS", 3)
    document = peek(World(POLICY), user_id="u")
    assert len(document["limits"]) == 3
    assert document["truncated"]
    monkeypatch.setattr(effective_budget, "MAX_COUNTERS", 99)
    monkeypatch.setattr(effective_budget, "MAX_MODELS", 1)
    assert peek(World(POLICY), user_id="u")["truncated"]


@pytest.mark.parametrize("dialect", list(Dialect)[:2])
@given(ceiling=st.integers(1_300, 60_000), used=st.integers(0, 3))
def test_max_tokens_is_just_what_is_admitted(dialect: Dialect, ceiling: int, used: int) -> None:
    text = f"ceiling_usd: 0.{ceiling:06d}, window: daily"
    policy = f"name: b\ntype: gateway-budget-config\nbudgets: [{{id: b, {text}}}]\n"
    path = "/v1/messages" if dialect is Dialect.ANTHROPIC else "/v1/chat/completions"
    key = {"anthropic_key": KEY} if dialect is Dialect.ANTHROPIC else {}
    world = World(policy)
    for _ in range(used):
        world.ask(path=path)
    largest = peek(world, "?model=intent-fast", **key)["max_tokens"]
    for more in (0, 1) if largest else (1,):
        admitted = []
        for draw in (0.0, 0.95):
            body = effective_budget.empty_prompt("intent-fast", largest + more)
            machine = RequestMachine(world.gate)
            pairs = [
                (":path", path.encode()),
                ("authorization", b"Bearer " + KEY.encode()),
                ("content-type", b"application/json"),
                ("x-request-id", b"t%d" % len(world.gate.in_flight)),
            ]
            machine.on_headers(RequestHeaders(pairs, False, NOW))
            command: Any = machine.on_body(RequestBody(body, NOW, draw))
            used_before = world.ledger.reserve(
                f"probe{more}{draw}", command.account, command.amounts, NOW + 1, NOW
            )
            command = machine.on_reserved(Reserved(used_before, NOW))
            admitted.append(isinstance(command, Forward))
            world.ledger.release(f"probe{more}{draw}", NOW, "a question")
        at_most = largest >= 64_000
        assert all(admitted) == (more == 0 or at_most)


def test_a_statistical_budget_is_filled_by_what_a_workflow_usually_costs() -> None:
    budget = "{id: b, ceiling_usd: 0.02, window: daily, mode: statistical}"
    world = World(f"name: b\ntype: gateway-budget-config\nbudgets: [{budget}]\n")
    ask = {"workflow_tag": "triage"}
    first = peek(world, "?model=intent-fast", **ask)["max_tokens"]
    assert 0 < first < 5_000
    for _ in range(25):
        world.ask(**ask)
        tail = b'"usage":{"prompt_tokens":20,"completion_tokens":40,"total_tokens":60}}'
        for command in world.end(usage_tail=tail):
            world.ledger.settle(command.reservation_id, command.amounts, NOW, {})
    world.gate.kill([Kill("provider", "bedrock")])  # of which nothing was learned
    learned = peek(world, "?model=intent-fast", **ask)["max_tokens"]
    assert learned > 10 * first
    other = peek(world, "?model=intent-fast", workflow_tag="other")["max_tokens"]
    assert other < first


def test_nothing_is_admitted_while_a_breaker_or_the_kill_switch_stops_it() -> None:
    world = World(POLICY)
    assert peek(world, "?model=small", user_id="u")["max_tokens"] > 0
    world.ask(user_id="u")
    world.end(usage_tail=b'"usage":{"prompt_tokens":5,"completion_tokens":300000}}')
    document = peek(world, "?model=small", user_id="u")
    assert document["max_tokens"] == 0
    (entry,) = document["velocity"]
    assert (entry["state"], entry["limit"]) == ("open", "1.00")
    assert entry["resets_at"] > document["as_of"]
    fresh = World(POLICY)
    fresh.gate.kill([Kill("provider", "openai")])
    assert peek(fresh, "?model=small", user_id="u")["max_tokens"] == 0
    assert peek(fresh, "?model=intent-fast", user_id="u")["max_tokens"] > 0


def test_what_cannot_be_asked_about_is_refused_in_the_callers_dialect() -> None:
    world = World(POLICY)
    unknown = peek(world, "?model=nope")
    assert isinstance(unknown, Refuse)
    assert (unknown.refusal.code, unknown.dialect) == (RefusalCode.UNKNOWN_MODEL, Dialect.OPENAI)
    wrong = peek(world, anthropic_key="wrong")
    assert (wrong.refusal.code, wrong.dialect) == (
        RefusalCode.INVALID_CREDENTIAL, Dialect.ANTHROPIC,
    )  # fmt: skip
    twisted = peek(world, environment="moon", anthropic_key=KEY)
    assert (twisted.refusal.code, twisted.dialect) == (
        RefusalCode.IDENTITY_CONFLICT, Dialect.ANTHROPIC,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("path", "model"),
    [
        (b"/v1/budget/effective", ""),
        (b"/v1/budget/effective?model=a%2Fb", "a/b"),
        (b"/v1/budget/effective?x=1&model=m&model=n", "m"),
        (b"/v1/budget/effective?model=%ff%fe", "\ufffd\ufffd"),
        (b"/v1/budget/effective?" + b"a=1&" * 250 + b"model=m", "m"),
        (b"/v1/budget/effective?" + b"a=1&" * 500, None),
    ],
)
def test_the_query_is_read_without_trust(path: bytes, model: str | None) -> None:
    assert effective_budget.model_asked(path) == model


def test_resets_follow_the_window() -> None:
    world = World(POLICY)
    empty = by_rule(peek(world, "?model=intent-fast", user_id="u", session_id="s"))
    assert empty["session"]["resets_at"] is None
    assert empty["each"]["resets_at"].endswith("T00:00:00Z")
    for _ in range(3):
        world.ask(user_id="u", session_id="s")
    full = by_rule(peek(world, "?model=intent-fast", user_id="u", session_id="s"))
    assert full["session"]["remaining"] == 0
    assert full["session"]["resets_at"] is not None


def test_the_documented_example_has_the_shape_of_the_answer() -> None:
    page = (ROOT / "docs" / "interface.md").read_text()
    example = json.loads(page.partition("```json\n")[2].partition("```")[0])
    world = World(POLICY)
    document = peek(world, "?model=intent-fast", user_id="u")
    assert set(example) == set(document)
    assert list(example["limits"][0]) == list(document["limits"][0])
    assert list(example["velocity"][0]) == list(document["velocity"][0])
