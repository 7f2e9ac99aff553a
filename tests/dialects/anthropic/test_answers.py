"""Whole messages and errors, by the official SDK's own types."""

from __future__ import annotations

import json
from typing import Any

import pytest
from anthropic.types import ErrorResponse, Message
from hypothesis import given
from hypothesis import strategies as st

from extproc.dialects.answer import Answer, ProviderError, Stop
from extproc.dialects.anthropic.answers import (
    read_answer,
    read_error,
    write_answer,
    write_error,
)
from extproc.dialects.codec import Context
from extproc.dialects.conversation import Refused, Text, Thinking, ToolCall, Vendor
from extproc.values.usage import TokenUsage
from extproc.wire.call_ids import FOREIGN
from extproc.wire.errors import WireError

CONTEXT = Context("r1", 1_700_000_000, "asked", vendor=Vendor.ANTHROPIC)
USAGE = TokenUsage(35, 7, 20, 5, 0, 2)


def message(*content: Any, **fields: Any) -> bytes:
    usage = {
        "input_tokens": 10,
        "cache_read_input_tokens": 20,
        "cache_creation_input_tokens": 5,
        "cache_creation": {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 2},
        "output_tokens": 7,
    }
    document = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude",
        "content": list(content), "stop_reason": "end_turn", "stop_sequence": None,
        "usage": usage, **fields,
    }  # fmt: skip
    return json.dumps(document).encode()


def test_an_answer_with_everything_is_read_and_written_again() -> None:
    answer = read_answer(
        message(
            {"type": "thinking", "thinking": "hm", "signature": "s"},
            {"type": "redacted_thinking", "data": "r"},
            {"type": "text", "text": "hi"},
            {"type": "tool_use", "id": "t", "name": "f", "input": {"a": {"b": [1]}}},
            stop_reason="tool_use",
        ),
        CONTEXT,
    )
    assert answer.parts == [
        Thinking("hm", "s", Vendor.ANTHROPIC),
        Thinking("", "r", Vendor.ANTHROPIC, redacted=True),
        Text("hi"),
        ToolCall("t", "f", '{"a":{"b":[1]}}'),
    ]
    assert (answer.stop, answer.usage) == (Stop.TOOL_CALLS, USAGE)
    again = Message.model_validate_json(write_answer(answer, CONTEXT))
    assert again.usage.cache_read_input_tokens == 20
    assert again.usage.input_tokens == 10
    assert read_answer(write_answer(answer, CONTEXT), CONTEXT) == answer


@pytest.mark.parametrize("stop", list(Stop))
def test_every_reason_to_stop_has_anthropics_word(stop: Stop) -> None:
    answer = Answer("a", "m", [Text("x")], stop, None)
    written = Message.model_validate_json(write_answer(answer, CONTEXT))
    assert written.id == "msg_a"
    assert read_answer(write_answer(answer, CONTEXT), CONTEXT).stop is stop


@pytest.mark.parametrize(
    "thinking",
    [
        Thinking("hm", "enc", Vendor.OPENAI),
        Thinking("hm", "", Vendor.GOOGLE),
        Thinking("hm", "", Vendor.ANTHROPIC),
        Thinking("", "r", Vendor.OTHER, redacted=True),
    ],
)
def test_what_is_not_claudes_is_marked(thinking: Thinking) -> None:
    """So that it is known when it comes back: Claude refuses it."""
    answer = Answer("a", "m", [thinking, ToolCall("t", "f", "{}")], Stop.END, None)
    context = CONTEXT._replace(vendor=Vendor.OTHER)
    thought, call = json.loads(write_answer(answer, context))["content"]
    assert (thought.get("signature") or thought["data"]).startswith(FOREIGN)
    assert call["id"] == f"t{FOREIGN}"


def test_a_refusal_in_words_is_text_and_arguments_that_are_no_json_are_not_lost() -> None:
    answer = Answer("a", "m", [Refused("no"), ToolCall("t", "f", "{oops")], Stop.REFUSAL, None)
    written = Message.model_validate_json(write_answer(answer, CONTEXT))
    assert written.content[0].text == "no"
    assert written.content[1].input == {"_unparsed": "{oops"}
    assert written.stop_reason == "refusal"


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"content": [1]}', b"<html>"])
def test_what_is_no_message_is_an_error(body: bytes) -> None:
    with pytest.raises(WireError):
        read_answer(body, CONTEXT)


@pytest.mark.parametrize(
    ("status", "kind", "meaning"),
    [
        (529, "overloaded_error", "overloaded"),
        (429, "rate_limit_error", "rate_limit"),
        (400, "invalid_request_error", "invalid_request"),
        (401, "authentication_error", "authentication"),
    ],
)
def test_an_error_keeps_its_meaning_and_words(status: int, kind: str, meaning: str) -> None:
    body = json.dumps({"type": "error", "error": {"type": kind, "message": "why"}}).encode()
    error = read_error(status, body)
    assert error == ProviderError(status, meaning, "why", code=kind)
    again = ErrorResponse.model_validate_json(write_error(error, CONTEXT))
    assert (again.error.type, again.error.message) == (kind, "why")


def test_a_prompt_that_is_too_long_is_known_by_its_words() -> None:
    error = {"type": "invalid_request_error", "message": "prompt is too long: 9 > 5"}
    assert read_error(400, json.dumps({"error": error}).encode()).kind == "context_length"


@given(st.integers(400, 599), st.binary(max_size=100))
def test_whatever_a_provider_answers_is_some_error(status: int, body: bytes) -> None:
    error = read_error(status, body)
    assert error.status == status
    assert json.loads(write_error(error, CONTEXT))["error"]["type"]
