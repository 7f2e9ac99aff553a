"""How much a request lets the model think, and how less is asked for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from extproc.values.dialect import Operation
from extproc.wire.inference_request import InferenceRequest, parse_inference_request
from extproc.wire.reasoning import (
    NO_EDITS,
    SAID_OF_EDITS,
    less_effort,
    less_thinking,
    thinking_budget_tokens,
)

CHAT, RESPONSES, MESSAGES = Operation.CHAT_COMPLETIONS, Operation.RESPONSES, Operation.MESSAGES


def asked(operation: Operation, **fields: Any) -> InferenceRequest:
    body = {"model": "m", "max_tokens": 9_000, **fields}
    return parse_inference_request(operation, json.dumps(body).encode())


@pytest.mark.parametrize(
    ("thinking", "budget"),
    [
        ({"type": "enabled", "budget_tokens": 4_000}, 4_000),
        ({"type": "enabled", "budget_tokens": 500}, 500),
        ({"type": "enabled", "budget_tokens": 10**30}, 0),
        ({"type": "enabled", "budget_tokens": "4000"}, 0),
        ({"type": "enabled"}, 0),
        ({"type": "adaptive"}, 0),
        ({"type": "disabled"}, 0),
        (None, 0),
        ([], 0),
        ({"a": [1, 2], "b": {}}, 0),
    ],
)
def test_a_budget_is_that_of_enabled_thinking(thinking: Any, budget: int) -> None:
    request = asked(MESSAGES, thinking=thinking)
    assert thinking_budget_tokens(request) == budget
    edits = less_thinking(request)
    if budget <= 1_024:
        assert edits == NO_EDITS
    else:
        assert json.loads(edits["thinking"]) == {**thinking, "budget_tokens": 1_024}
    assert edits.keys() <= SAID_OF_EDITS.keys()


def test_only_anthropic_requests_have_a_thinking_budget() -> None:
    assert (
        thinking_budget_tokens(asked(CHAT, thinking={"type": "enabled", "budget_tokens": 9})) == 0
    )


def test_a_thinking_that_names_something_twice_is_the_providers_business() -> None:
    body = b'{"model":"m","max_tokens":9,"thinking":{"type":"enabled","type":"enabled"}}'
    request = parse_inference_request(MESSAGES, body)
    assert thinking_budget_tokens(request) == 0
    assert less_thinking(request) == NO_EDITS


@pytest.mark.parametrize("effort", ["medium", "high", "xhigh"])
def test_a_higher_effort_becomes_low(effort: str) -> None:
    chat = asked(CHAT, reasoning_effort=effort)
    assert less_effort(chat) == {"reasoning_effort": b'"low"'}
    responses = asked(RESPONSES, reasoning={"summary": "auto", "effort": effort})
    edits = less_effort(responses)
    assert json.loads(edits["reasoning"]) == {"summary": "auto", "effort": "low"}
    assert SAID_OF_EDITS.keys() >= edits.keys()


@pytest.mark.parametrize("effort", ["low", "minimal", "none"])
def test_a_low_effort_stays(effort: str) -> None:
    assert less_effort(asked(CHAT, reasoning_effort=effort)) == NO_EDITS
    assert less_effort(asked(RESPONSES, reasoning={"effort": effort})) == NO_EDITS


def test_an_effort_that_is_not_named_is_not_added_to_a_model_that_may_not_know_it() -> None:
    assert less_effort(asked(CHAT)) == NO_EDITS
    assert less_effort(asked(CHAT, reasoning_effort=None)) == NO_EDITS
    assert less_effort(asked(RESPONSES, reasoning=None)) == NO_EDITS
    assert less_effort(asked(MESSAGES, thinking={"type": "adaptive"})) == NO_EDITS
    # Whoever sends the object has a model that reasons, at medium effort unless told otherwise.
    assert less_effort(asked(RESPONSES, reasoning={})) == {"reasoning": b'{"effort":"low"}'}


def test_a_word_is_known_however_it_is_escaped() -> None:
    thinking = rb'"thinking":{"type":"en\u0061bled","budget_tokens":4000}'
    raw = b'{"model":"m","max_tokens":9000,"messages":[],%b}' % thinking
    assert thinking_budget_tokens(parse_inference_request(MESSAGES, raw)) == 4_000
    raw = rb'{"model":"m","messages":[],"reasoning_effort":"n\u006fne"}'
    assert less_effort(parse_inference_request(CHAT, raw)) == NO_EDITS
