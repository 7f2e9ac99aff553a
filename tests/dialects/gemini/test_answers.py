"""Whole answers of Gemini, made with the official package's own types."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.genai import types
from hypothesis import given
from hypothesis import strategies as st

from extproc.dialects.answer import ProviderError, Stop
from extproc.dialects.codec import Context
from extproc.dialects.conversation import Media, Text, Thinking, ToolCall, Vendor
from extproc.dialects.gemini.answers import read_answer, read_error, usage_of
from extproc.values.usage import TokenUsage
from extproc.wire.call_ids import signed_call_id
from extproc.wire.errors import WireError

CONTEXT = Context("r1", 1_700_000_000, "asked")
USAGE = {
    "promptTokenCount": 10, "cachedContentTokenCount": 4, "candidatesTokenCount": 5,
    "thoughtsTokenCount": 3, "totalTokenCount": 18,
}  # fmt: skip


def answer(*parts: Any, reason: str = "STOP", **fields: Any) -> bytes:
    candidate = {"content": {"role": "model", "parts": list(parts)}, "finishReason": reason}
    document = {
        "candidates": [candidate], "usageMetadata": USAGE, "modelVersion": "gemini",
        "responseId": "x1", **fields,
    }  # fmt: skip
    types.GenerateContentResponse.model_validate(document)
    return json.dumps(document).encode()


def test_thoughts_texts_calls_and_images() -> None:
    read = read_answer(
        answer(
            {"text": "hm", "thought": True, "thoughtSignature": "QQ=="},
            {"text": "He"},
            {"text": "llo"},
            {"functionCall": {"name": "f", "args": {"a": [1]}}},
            {"functionCall": {"id": "g1", "name": "g"}, "thoughtSignature": "QUJD"},
            {"inlineData": {"mimeType": "image/png", "data": "QQ=="}},
        ),
        CONTEXT,
    )
    assert read.parts == [
        Thinking("hm", "QQ==", Vendor.GOOGLE),
        Text("Hello"),
        ToolCall("call_r1_2", "f", '{"a":[1]}'),
        ToolCall(signed_call_id("g1", "QUJD"), "g", "{}"),
        Media("image", "image/png", data="QQ=="),
    ]
    assert (read.answer_id, read.model, read.stop) == ("x1", "gemini", Stop.TOOL_CALLS)
    assert read.usage == TokenUsage(10, 8, 4, 0, 3)


@pytest.mark.parametrize(
    ("reason", "stop"),
    [
        ("STOP", Stop.END),
        ("MAX_TOKENS", Stop.MAX_TOKENS),
        ("SAFETY", Stop.REFUSAL),
        ("OTHER", Stop.END),
    ],
)
def test_reasons_to_stop(reason: str, stop: Stop) -> None:
    assert read_answer(answer({"text": "x"}, reason=reason), CONTEXT).stop is stop


def test_a_blocked_prompt_is_a_refusal() -> None:
    body = json.dumps({"promptFeedback": {"blockReason": "SAFETY"}}).encode()
    assert read_answer(body, CONTEXT).stop is Stop.REFUSAL


def test_further_candidates_are_further_choices() -> None:
    document = json.loads(answer({"text": "a"}))
    document["candidates"].append({"content": {"parts": [{"text": "b"}]}, "finishReason": "STOP"})
    read = read_answer(json.dumps(document).encode(), CONTEXT)
    assert [other.parts for other in read.others] == [[Text("b")]]


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"candidates": [1]}', b"<html>"])
def test_what_is_no_answer_is_an_error(body: bytes) -> None:
    with pytest.raises(WireError):
        read_answer(body, CONTEXT)


@pytest.mark.parametrize("count", [-1, "5", 10**12, True, 1.5])
def test_usage_that_is_no_count_is_no_usage(count: Any) -> None:
    assert usage_of({**USAGE, "candidatesTokenCount": count}) is None


def test_an_error_keeps_its_meaning_and_words() -> None:
    error = {"code": 429, "message": "slow down", "status": "RESOURCE_EXHAUSTED"}
    expected = ProviderError(429, "rate_limit", "slow down", code="RESOURCE_EXHAUSTED")
    assert read_error(429, json.dumps({"error": error}).encode()) == expected
    assert read_error(429, json.dumps([{"error": error}]).encode()) == expected


@given(st.integers(400, 599), st.binary(max_size=100))
def test_whatever_a_provider_answers_is_some_error(status: int, body: bytes) -> None:
    assert read_error(status, body).status == status


def test_F54_output_that_is_left_out_of_its_count_is_in_the_total() -> None:
    assert usage_of({"promptTokenCount": 3, "totalTokenCount": 12}) == TokenUsage(3, 9)
