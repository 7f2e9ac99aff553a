"""First attempts that leave as their target takes them, and what is kept for the next ones."""

from __future__ import annotations

import json
from typing import Any

import pytest
from gateway import chat
from policies import FOREIGN, HOLDER
from world import NOW, World

from extproc.core import gate as gate_module
from extproc.core import settlement
from extproc.core.commands import Forward, Refuse, SendAttempt
from extproc.core.events import Ending, RequestGoesOn
from extproc.core.gate import LEASE_MS

POLICY = (
    FOREIGN
    + """---
name: claude
type: gateway-load-balancing-config
rules:
  - {id: c, target: {provider: foreign, model: claude-haiku-4-5}}
fallbacks:
  - {provider: openai, model: gpt-4o-mini}
---
name: waits
type: gateway-load-balancing-config
rules:
  - {id: w, target: {provider: foreign, model: claude-haiku-4-5}, first_token_timeout_ms: 900}
---
name: own
type: gateway-load-balancing-config
rules:
  - id: o
    target: {provider: openai, model: gpt-4o}
    override_params: {temperature: 0.5}
    headers_override: {set: {x-team: search}, remove: [x-debug]}
fallbacks:
  - {provider: openai, model: gpt-4o-mini}
---
name: headers-only
type: gateway-load-balancing-config
rules:
  - id: h
    target: {provider: openai, model: gpt-4o}
    headers_override: {set: {x-team: search}}
fallbacks:
  - {provider: openai, model: gpt-4o-mini}
---"""
    + HOLDER
)


@pytest.fixture
def world() -> World:
    return World(POLICY)


def ask(world: World, model: str, **fields: Any) -> Forward:
    first = world.ask(chat(model=model, **fields))
    assert isinstance(first, Forward)
    return first


def goes_on(world: World, response_bytes: int) -> None:
    event = RequestGoesOn(f"r{world.requests}", now_ms=NOW, response_bytes=response_bytes)
    settlement.request_goes_on(world.gate, event)


def test_a_translated_request_leaves_in_its_targets_api(world: World) -> None:
    world.extra = [("anthropic-beta", b"some-beta")]
    first = ask(world, "claude")
    body = json.loads(first.body)
    assert body["model"] == "claude-haiku-4-5"
    assert body["max_tokens"] > 0
    assert first.path == "/base/v1/messages"
    assert dict(first.set_headers)["anthropic-version"]
    assert dict(first.set_headers)["content-type"] == "application/json"
    attempt = world.gate.in_flight["r1"].attempts[1]
    assert attempt.translation is not None
    assert attempt.staged
    assert attempt.translated


def test_the_next_attempt_begins_with_what_the_first_began_with(world: World) -> None:
    world.extra = [("anthropic-version", b"of-the-caller")]
    first = ask(world, "claude", temperature=0.25)
    assert world.gate.kept_bytes > 0
    sent = world.attempt(first, 1)
    assert isinstance(sent, SendAttempt)
    body = json.loads(sent.body)
    assert (body["model"], body["temperature"]) == ("gpt-4o-mini", 0.25)
    assert body["messages"] == chat()["messages"]
    # What the first one set is as the caller had it, and what the caller had not is gone.
    assert dict(sent.headers)["anthropic-version"] == "of-the-caller"


def test_an_override_leaves_with_the_first_attempt_and_no_other(world: World) -> None:
    world.extra = [("x-debug", b"1"), ("x-team", b"mine")]
    first = ask(world, "own")
    body = json.loads(first.body)
    assert (body["model"], body["temperature"]) == ("gpt-4o", 0.5)
    assert dict(first.set_headers) == {"x-team": "search"}
    assert "x-debug" in first.remove_headers
    assert first.path == ""
    sent = world.attempt(first, 1)
    assert isinstance(sent, SendAttempt)
    assert "temperature" not in json.loads(sent.body)
    assert dict(sent.headers) == {"x-debug": "1", "x-team": "mine"}


def test_where_a_first_token_is_waited_for_the_request_is_changed_at_its_attempt(
    world: World,
) -> None:
    first = ask(world, "waits", stream=True)
    assert json.loads(first.body)["stream_options"]["include_usage"]
    assert (first.path, first.set_headers) == ("", ())
    sent = world.attempt(first, 0)
    assert isinstance(sent, SendAttempt)
    assert sent.path == "/base/v1/messages"
    assert sent.reads_answer


def test_a_request_that_left_changed_is_not_changed_again(world: World) -> None:
    first = ask(world, "claude")
    assert isinstance(world.attempt(first, 0), Refuse)


def test_a_body_is_kept_only_where_another_target_may_be_asked(world: World) -> None:
    ask(world, "claude-alone")
    assert isinstance(world.ask(), Forward)
    assert world.gate.kept_bytes == 0


@pytest.mark.parametrize("how", ["answering", "over", "lease"])
def test_a_kept_body_is_let_go(world: World, how: str) -> None:
    first = ask(world, "claude")
    kept = world.gate.in_flight["r1"].kept_body
    assert kept is not None
    assert world.gate.kept_bytes == len(kept)
    if how == "answering":
        goes_on(world, 0)
        assert world.gate.kept_bytes == len(kept)
        goes_on(world, 100)
        assert world.gate.kept_bytes == 0
        # It cannot be asked for any more, and what Envoy has is no body for it.
        assert isinstance(world.attempt(first, 1), Refuse)
    elif how == "over":
        world.end(ending=Ending(500))
    else:
        world.gate.forget("r1/1")
    assert world.gate.kept_bytes == 0


def test_a_silent_request_keeps_nothing_for_ever(world: World) -> None:
    ask(world, "claude")
    world.attempt_failed(1, Ending(500))
    assert world.gate.kept_bytes > 0
    world.gate.forget_silent(NOW + LEASE_MS)
    assert world.gate.kept_bytes == 0
    assert not world.gate.in_flight


def test_without_room_a_request_goes_without_fallbacks(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_module, "MAX_KEPT_BYTES_EACH", 300)
    assert len(ask(world, "claude").chain.targets) == 2
    kept = world.gate.kept_bytes
    second = ask(world, "claude", user="u" * 300)
    assert len(second.chain.targets) == 1
    assert len(world.gate.in_flight["r2"].chain.targets) == 1
    assert json.loads(second.body)["model"] == "claude-haiku-4-5"
    assert world.gate.kept_bytes == kept
    monkeypatch.setattr(gate_module, "MAX_KEPT_BYTES_EACH", 10_000)
    assert len(ask(world, "claude").chain.targets) == 2
    monkeypatch.setattr(gate_module, "MAX_KEPT_BYTES", 300)
    assert len(ask(world, "claude").chain.targets) == 1
    for world.requests in (1, 2, 3, 4):
        world.end()
    assert world.gate.kept_bytes == 0
    assert len(ask(world, "claude").chain.targets) == 2


def test_headers_alone_keep_no_body(world: World) -> None:
    first = ask(world, "headers-only")
    assert dict(first.set_headers) == {"x-team": "search"}
    assert world.gate.kept_bytes == 0
    goes_on(world, 100)
    sent = world.attempt(first, 1)
    assert isinstance(sent, SendAttempt)
    assert sent.headers == ()
    assert sent.remove_headers == ("x-team",)


def test_what_was_sent_is_not_kept_with_what_reads_its_answer(world: World) -> None:
    ask(world, "claude-alone")
    translation: Any = world.gate.in_flight["r1"].attempts[1].translation
    assert translation.request.body == b""
    assert translation.on_headers(200, "application/json") == "application/json"


def test_a_request_that_is_over_keeps_nothing_though_an_attempts_entry_is_missing(
    world: World,
) -> None:
    first = ask(world, "claude")
    assert isinstance(world.attempt(first, 1), SendAttempt)
    world.end(attempts=2)
    assert "r1" in world.gate.in_flight
    assert world.gate.kept_bytes == 0


def test_a_request_that_cannot_be_changed_is_refused_and_nothing_is_left_of_it(
    world: World,
) -> None:
    refused = world.ask(chat(model="holder", generationConfig="x"))
    assert isinstance(refused, Refuse)
    assert refused.refusal.status == 400
    assert not world.gate.in_flight
    assert world.gate.kept_bytes == 0


def test_what_one_target_lacked_is_not_said_of_the_next(world: World) -> None:
    first = ask(world, "claude", seed=7)
    assert ("dropped", "seed") in first.notes
    sent = world.attempt(first, 1)
    assert isinstance(sent, SendAttempt)
    assert sent.notes == (("dropped", ""),)
