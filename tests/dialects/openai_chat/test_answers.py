"""Whole answers and errors of chat completions, by the official SDK's own types."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion

from extproc.dialects.answer import Answer, ProviderError, Stop
from extproc.dialects.codec import Context
from extproc.dialects.conversation import Refused, Text, Thinking, ToolCall
from extproc.dialects.openai_chat.answers import (
    read_answer,
    read_error,
    write_answer,
    write_error,
)
from extproc.values.usage import TokenUsage
from extproc.wire.errors import WireError

CONTEXT = Context("r1", 1_700_000_000, "asked")
USAGE = TokenUsage(10, 5, 4, 0, 2)


def completion(message: dict, reason: str = "stop", **fields: object) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": reason}
    document = {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 5, "model": "gpt",
        "choices": [choice], **fields,
    }  # fmt: skip
    return json.dumps(document).encode()


def test_an_answer_with_everything_is_read_and_written_again() -> None:
    calls = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}]
    usage = {
        "prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }  # fmt: skip
    message = {"content": "hi", "reasoning_content": "hm", "tool_calls": calls}
    answer = read_answer(completion(message, "tool_calls", usage=usage), CONTEXT)
    assert answer.parts == [Thinking("hm"), Text("hi"), ToolCall("c", "f", '{"a": 1}')]
    assert (answer.stop, answer.usage, answer.created_s) == (Stop.TOOL_CALLS, USAGE, 5)
    again = ChatCompletion.model_validate_json(write_answer(answer, CONTEXT), strict=True)
    assert again.id == "chatcmpl-1"
    assert again.choices[0].message.content == "hi"
    assert again.choices[0].message.tool_calls[0].function.arguments == '{"a": 1}'
    assert again.choices[0].finish_reason == "tool_calls"
    assert again.usage.prompt_tokens_details.cached_tokens == 4
    assert read_answer(write_answer(answer, CONTEXT), CONTEXT) == answer


def test_an_answer_of_another_vendor_gets_an_id_a_time_and_a_model() -> None:
    answer = Answer("msg_1", "", [Text("x")], Stop.MAX_TOKENS, None)
    written = ChatCompletion.model_validate_json(write_answer(answer, CONTEXT), strict=True)
    assert (written.id, written.created, written.model) == (
        "chatcmpl-msg_1",
        CONTEXT.now_s,
        "asked",
    )
    assert (written.choices[0].finish_reason, written.usage) == ("length", None)


@pytest.mark.parametrize("stop", list(Stop))
def test_every_reason_to_stop_has_an_openai_word(stop: Stop) -> None:
    answer = Answer("a", "m", [Text("x")], stop, USAGE)
    ChatCompletion.model_validate_json(write_answer(answer, CONTEXT), strict=True)


def test_a_refusal_in_words_is_told_as_openai_tells_it() -> None:
    answer = read_answer(completion({"content": None, "refusal": "no"}), CONTEXT)
    assert (answer.parts, answer.stop) == ([Refused("no")], Stop.REFUSAL)
    written = ChatCompletion.model_validate_json(write_answer(answer, CONTEXT), strict=True)
    assert (written.choices[0].message.refusal, written.choices[0].finish_reason) == ("no", "stop")
    cut = Answer("a", "m", [Text("so")], Stop.REFUSAL, None)
    written = ChatCompletion.model_validate_json(write_answer(cut, CONTEXT), strict=True)
    assert written.choices[0].finish_reason == "content_filter"


def test_several_choices_stay_several() -> None:
    first = json.loads(completion({"content": "a"}))
    first["choices"].append({"index": 1, "message": {"content": "b"}, "finish_reason": "length"})
    answer = read_answer(json.dumps(first).encode(), CONTEXT)
    written = ChatCompletion.model_validate_json(write_answer(answer, CONTEXT), strict=True)
    assert [choice.message.content for choice in written.choices] == ["a", "b"]
    assert [choice.index for choice in written.choices] == [0, 1]


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"choices": []}', b'{"choices": [{"message": 1}]}', b"<html>"],
)
def test_what_is_no_completion_is_an_error(body: bytes) -> None:
    with pytest.raises(WireError):
        read_answer(body, CONTEXT)


def test_an_error_keeps_its_words_and_its_code() -> None:
    body = b'{"error": {"message": "too long", "code": "context_length_exceeded", "param": "m"}}'
    error = read_error(400, body)
    assert error == ProviderError(400, "context_length", "too long", "m", "context_length_exceeded")
    assert json.loads(write_error(error, CONTEXT))["error"] == {
        "message": "too long",
        "type": "invalid_request_error",
        "param": "m",
        "code": "context_length_exceeded",
    }


@given(st.integers(400, 599), st.binary(max_size=100))
def test_whatever_a_provider_answers_is_some_error(status: int, body: bytes) -> None:
    error = read_error(status, body)
    assert error.status == status
    assert json.loads(write_error(error, CONTEXT))["error"]["type"]
