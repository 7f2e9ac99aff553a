"""Whole attempts between dialects: what goes there, what comes back, and what is never guessed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from anthropic.types import Message
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response

from extproc.dialects import translation
from extproc.dialects.anthropic.dialect import AnthropicMessages
from extproc.dialects.bedrock.dialect import Converse
from extproc.dialects.codec import Context, StreamError, TargetFacts
from extproc.dialects.conversation import UntranslatableError, Vendor
from extproc.dialects.gemini.dialect import Gemini
from extproc.dialects.openai_chat.dialect import OpenAiChat
from extproc.dialects.openai_responses.dialect import OpenAiResponses
from extproc.dialects.translation import AnswerTranslator
from extproc.values.usage import TokenUsage
from extproc.wire.errors import WireError

CONTEXT = Context("r1", 1_700_000_000, "asked")
OPENAI, ANTHROPIC = OpenAiChat(), AnthropicMessages()
CLAUDE = TargetFacts("claude-haiku-4-5", Vendor.ANTHROPIC)
GPT = TargetFacts("gpt-4o-mini", Vendor.OPENAI, base_path="/v1")
SSE = "text/event-stream; charset=utf-8"

MESSAGE = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-haiku-4-5",
    "content": [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "text", "text": "Hi"},
        {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}},
    ],
    "stop_reason": "tool_use", "stop_sequence": None,
    "usage": {"input_tokens": 3, "cache_read_input_tokens": 2, "output_tokens": 4},
}  # fmt: skip
USAGE = TokenUsage(5, 4, 2)


def answered(
    caller: Any, target: Any, body: bytes, status: int = 200, kind: str = "application/json",
    *, stream: bool = False, step: int = 10_000,
) -> tuple[str, bytes, AnswerTranslator]:  # fmt: skip
    translator = AnswerTranslator(caller, target, CONTEXT, stream=stream)
    content_type = translator.on_headers(status, kind)
    pieces = [body[at : at + step] for at in range(0, len(body), step)]
    out = b"".join(translator.on_body(piece, end=False) for piece in pieces)
    return content_type, out + translator.on_body(b"", end=True), translator


def chunks(data: bytes) -> Iterator[ChatCompletionChunk]:
    for text in data.decode().split("\n\n"):
        if text.startswith("data: ") and text != "data: [DONE]":
            yield ChatCompletionChunk.model_validate_json(text[6:], strict=True)


def test_a_chat_request_becomes_a_messages_request() -> None:
    body = json.dumps(
        {
            "model": "intent-fast",
            "max_tokens": 50,
            "messages": [
                {"role": "system", "content": "brief"},
                {"role": "user", "content": "hi"},
            ],
            "seed": 3,
        }
    ).encode()
    request = ANTHROPIC.write_request(OPENAI.read_request(body), CLAUDE)
    assert request.path == "/v1/messages"
    assert json.loads(request.body) == {
        "model": "claude-haiku-4-5",
        "max_tokens": 50,
        "system": [{"type": "text", "text": "brief"}],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
    }
    assert request.dropped == ("seed",)


def test_what_the_target_cannot_be_told_is_refused() -> None:
    body = b'{"model": "m", "messages": [], "logprobs": true}'
    with pytest.raises(UntranslatableError, match="logprobs"):
        ANTHROPIC.write_request(OPENAI.read_request(body), CLAUDE)


def test_a_whole_message_becomes_a_completion() -> None:
    kind, out, translator = answered(OPENAI, ANTHROPIC, json.dumps(MESSAGE).encode(), step=7)
    assert kind == "application/json"
    completion = ChatCompletion.model_validate_json(out, strict=True)
    assert completion.choices[0].message.tool_calls[0].function.arguments == '{"a":1}'
    assert completion.usage.prompt_tokens_details.cached_tokens == 2
    assert (translator.usage, translator.complete) == (USAGE, True)


def test_a_stream_that_is_answered_whole_is_streamed_all_the_same() -> None:
    body = json.dumps(MESSAGE).encode()
    kind, out, translator = answered(OPENAI, ANTHROPIC, body, stream=True)
    assert kind.startswith("text/event-stream")
    told = list(chunks(out))
    assert told[-1].usage.completion_tokens == 4
    assert any(chunk.choices and chunk.choices[0].delta.tool_calls for chunk in told)
    assert out.endswith(b"data: [DONE]\n\n")
    assert translator.complete


@given(st.integers(1, 400))
def test_F50_a_streamed_completion_becomes_a_streamed_message_in_any_cut(step: int) -> None:
    head = {"id": "c1", "object": "chat.completion.chunk", "created": 5, "model": "gpt"}
    call = {"index": 0, "id": "t1", "function": {"name": "f", "arguments": '{"a":1}'}}
    deltas: list[tuple[dict[str, Any], str | None]] = [
        ({"role": "assistant", "content": ""}, None),
        ({"content": "Hi"}, None),
        ({"tool_calls": [call]}, None),
        ({}, "tool_calls"),
    ]
    lines = [
        {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
        for delta, reason in deltas
    ]
    usage = {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}
    lines.append({**head, "choices": [], "usage": usage})
    body = b"".join(b"data: " + json.dumps(line).encode() + b"\n\n" for line in lines)
    body += b"data: [DONE]\n\n"
    _, out, translator = answered(ANTHROPIC, OPENAI, body, kind=SSE, stream=True, step=step)
    names = [line[7:] for line in out.decode().split("\n") if line.startswith("event: ")]
    assert names == [
        "message_start",
        "content_block_start", "content_block_delta", "content_block_stop",
        "content_block_start", "content_block_delta", "content_block_stop",
        "message_delta", "message_stop",
    ]  # fmt: skip
    assert b'"stop_reason":"tool_use"' in out
    assert b'"partial_json":"{\\"a\\":1}"' in out
    assert (translator.usage, translator.complete) == (TokenUsage(5, 4), True)


def test_there_and_back_a_message_stays_what_it_was() -> None:
    """Anthropic's answer for an OpenAI caller, read as OpenAI's for an Anthropic caller."""
    _, chat, _ = answered(OPENAI, ANTHROPIC, json.dumps(MESSAGE).encode())
    _, out, _ = answered(ANTHROPIC, OPENAI, chat)
    message = Message.model_validate_json(out)
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use"]
    assert message.content[2].input == {"a": 1}
    assert (message.stop_reason, message.usage.cache_read_input_tokens) == ("tool_use", 2)


GENERATED = {
    "candidates": [
        {
            "content": {"parts": [{"inlineData": {"mimeType": "image/png", "data": "QUJD"}}]},
            "finishReason": "STOP",
        }
    ],
    "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 9},
}


@pytest.mark.parametrize("stream", [False, True])
def test_a_generated_image_is_given_where_there_is_a_place_and_else_told(stream: bool) -> None:
    data = json.dumps(GENERATED).encode()
    body, kind = (b"data: %b\n\n" % data, SSE) if stream else (data, "application/json")

    def out(caller: Any) -> bytes:
        return answered(caller, Gemini(), body, kind=kind, stream=stream)[1]

    url, item = b"data:image/png;base64,QUJD", b'"type":"image_generation_call"'
    chat, responses, messages = out(OPENAI), out(OpenAiResponses()), out(ANTHROPIC)
    assert (b'"images":[{"index":0' in chat, url in chat) == (True, True)
    assert (item in responses, b'"result":"QUJD"' in responses) == (True, True)
    assert b"Left out, as this API has no place for it: image/png" in messages
    if stream:
        assert all(chunk.id for chunk in chunks(chat))
    else:
        assert Response.model_validate_json(responses).output[0].result == "QUJD"
        assert ChatCompletion.model_validate_json(chat).choices[0].finish_reason == "stop"


def test_an_error_is_told_in_the_callers_dialect_with_the_providers_words() -> None:
    body = b'{"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}'
    kind, out, translator = answered(OPENAI, ANTHROPIC, body, 529, stream=True)
    assert kind == "application/json"
    assert json.loads(out)["error"]["message"] == "busy"
    assert not translator.complete
    _, out, _ = answered(ANTHROPIC, OPENAI, b"<html>bad gateway", 502)
    assert json.loads(out)["error"] == {"type": "api_error", "message": "<html>bad gateway"}


def test_an_error_is_known_by_the_name_that_its_headers_say() -> None:
    translator = AnswerTranslator(ANTHROPIC, Converse(), CONTEXT, stream=True)
    name = "ModelNotReadyException:http://internal.amazon.com/coral/"
    translator.on_headers(429, "application/json", name)
    out = json.loads(translator.on_body(b'{"message": "warming up"}', end=True))
    assert out["error"] == {"type": "overloaded_error", "message": "warming up"}


def test_a_stream_cut_off_is_never_complete() -> None:
    body = b'data: {"id":"c","model":"m","choices":[{"delta":{"content":"x"}}]}\n\n'
    _, out, translator = answered(ANTHROPIC, OPENAI, body, kind=SSE, stream=True)
    assert b"event: error" in out
    assert b"message_stop" not in out
    assert not translator.complete


def test_what_cannot_be_read_is_not_guessed_at(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WireError):
        answered(OPENAI, ANTHROPIC, b"[]")
    with pytest.raises(StreamError):
        answered(OPENAI, ANTHROPIC, b"data: {\n\n", kind=SSE, stream=True)
    monkeypatch.setattr(translation, "MAX_ANSWER_BYTES", 10)
    with pytest.raises(WireError, match="longer than"):
        answered(OPENAI, ANTHROPIC, b"x" * 11)
