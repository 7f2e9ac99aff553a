"""An answer on its way: held until the first token, then let go."""

from __future__ import annotations

import json
from typing import Any

import pytest
from gateway import chat
from world import NOW, World

from extproc.core.answer_passage import AnswerPassage
from extproc.core.attempt import AttemptMachine
from extproc.core.commands import Forward, Refuse, Release, SendAttempt, Settle
from extproc.core.events import AttemptStarted, Ending

ROLE = b'data: {"choices":[{"delta":{"role":"assistant"}}]}\n\n'
WORD = b'data: {"choices":[{"delta":{"content":"hi"}}]}\n\n'
SSE, JSON = "text/event-stream", "application/json"
MODEL = """
name: quick
type: gateway-load-balancing-config
rules:
  - {id: a, target: {provider: openai, model: gpt-4o}, first_token_timeout_ms: 700}
fallbacks:
  - {id: b, provider: openai, model: gpt-4o-mini, first_token_timeout_ms: 900}
"""


def started(world: World, number: int = 1, **fields: Any) -> tuple[AttemptMachine, SendAttempt]:
    """Attempt ``number`` of a request, sent."""
    first = world.ask(chat(model="quick", **fields))
    assert isinstance(first, Forward)
    for place in range(number):
        target = first.chain.targets[place]
        cluster = target.clusters[first.chain.operation]
        machine = AttemptMachine(
            world.gate, AttemptStarted(f"r{world.requests}", place + 1, cluster)
        )
        command: Any = machine.on_body(first.body, NOW)
        if place:
            command = world.go_on(machine, command)  # type: ignore[arg-type]
        assert isinstance(command, SendAttempt)
    return machine, command


def passage(world: World, **fields: Any) -> AnswerPassage:
    machine, sent = started(world, **fields)
    assert sent.reads_answer
    assert machine.answer is not None
    return machine.answer


def test_nothing_goes_on_before_the_first_token_and_all_of_it_then() -> None:
    world = World(MODEL)
    answer = passage(world, stream=True)
    assert answer.deadline_ms == NOW + 700
    assert not answer.on_headers(200, SSE, "")
    assert answer.is_held
    assert not answer.on_body(ROLE, NOW + 30, end=False)
    assert answer.on_body(WORD, NOW + 30, end=False)
    assert not answer.is_held
    assert world.gate.in_flight["r1"].attempts[1].first_token_us == 30_000


def test_an_answer_without_a_token_goes_on_at_its_end() -> None:
    answer = passage(World(MODEL), stream=True)
    assert not answer.on_headers(200, SSE, "")
    assert answer.on_body(ROLE, NOW + 30, end=True)


@pytest.mark.parametrize(("stream", "status"), [(False, 200), (True, 200), (True, 429)])
def test_what_is_no_stream_is_not_held(stream: bool, status: int) -> None:
    answer = passage(World(MODEL), stream=stream)
    assert answer.on_headers(status, JSON, "")
    assert not answer.is_held


def test_who_is_given_up_is_charged_although_its_status_says_nothing_was_done() -> None:
    world = World(MODEL)
    machine, _ = started(world, stream=True)
    assert machine.answer is not None
    machine.answer.on_headers(200, SSE, "")
    assert machine.on_first_token_late() is None  # another target is left
    (ended,) = world.attempt_failed(1, Ending(504))
    assert isinstance(ended, Settle)
    assert ended.amounts == world.reservations[0].amounts
    states = world.gate.breakers._breakers
    assert list(states) == ["openai/gpt-4o"]


def test_a_providers_own_504_costs_nothing() -> None:
    world = World(MODEL)
    started(world, stream=True)
    assert isinstance(world.attempt_failed(1, Ending(504))[0], Release)


def test_after_the_last_target_the_caller_is_told() -> None:
    world = World(MODEL)
    machine, _ = started(world, 2, stream=True)
    assert machine.answer is not None
    assert machine.answer.deadline_ms == NOW + 900
    machine.answer.on_headers(200, SSE, "")
    refused = machine.on_first_token_late()
    assert isinstance(refused, Refuse)
    assert json.dumps(refused.refusal.message)
    assert refused.refusal.retry_after_s == 1
