"""Whole answers and errors of Converse."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.dialects.answer import ProviderError, Stop
from extproc.dialects.bedrock.answers import read_answer, read_error, usage_of
from extproc.dialects.codec import Context
from extproc.dialects.conversation import Text, Thinking, ToolCall, Vendor
from extproc.values.usage import TokenUsage
from extproc.wire.errors import WireError

CONTEXT = Context("r1", 1_700_000_000, "asked")
USAGE = {
    "inputTokens": 10, "outputTokens": 5, "totalTokens": 22, "cacheReadInputTokens": 4,
    "cacheWriteInputTokens": 3, "cacheDetails": [{"ttl": "1h", "inputTokens": 2}],
}  # fmt: skip


def answer(*content: Any, reason: str = "end_turn") -> bytes:
    message = {"role": "assistant", "content": list(content)}
    document = {"output": {"message": message}, "stopReason": reason, "usage": USAGE}
    return json.dumps(document).encode()


def test_thinking_texts_and_calls() -> None:
    read = read_answer(
        answer(
            {"reasoningContent": {"reasoningText": {"text": "hm", "signature": "s"}}},
            {"reasoningContent": {"redactedContent": "QQ=="}},
            {"reasoningContent": {"reasoningText": {"text": "open"}}},
            {"text": "hi"},
            {"toolUse": {"toolUseId": "t", "name": "f", "input": {"a": [1]}}},
            {"citationsContent": {}},
            reason="tool_use",
        ),
        CONTEXT,
    )
    assert read.parts == [
        Thinking("hm", "s", Vendor.ANTHROPIC),
        Thinking("", "QQ==", Vendor.ANTHROPIC, redacted=True),
        Thinking("open"),
        Text("hi"),
        ToolCall("t", "f", '{"a":[1]}'),
    ]
    assert (read.stop, read.usage) == (Stop.TOOL_CALLS, TokenUsage(17, 5, 4, 3, 0, 2))


def test_a_guardrail_is_a_refusal_and_an_unknown_reason_an_end() -> None:
    assert read_answer(answer(reason="guardrail_intervened"), CONTEXT).stop is Stop.REFUSAL
    assert read_answer(answer(reason="novel"), CONTEXT).stop is Stop.END


@pytest.mark.parametrize("count", [-1, "5", 10**12, True])
def test_usage_that_is_no_count_is_no_usage(count: Any) -> None:
    assert usage_of({**USAGE, "outputTokens": count}) is None
    for needed in ("inputTokens", "outputTokens"):
        assert usage_of({key: n for key, n in USAGE.items() if key != needed}) is None
    assert usage_of(None) is None


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"output": {"message": 1}}', b"<html>"])
def test_what_is_no_answer_is_an_error(body: bytes) -> None:
    with pytest.raises(WireError):
        read_answer(body, CONTEXT)


def test_an_error_keeps_its_meaning_and_words() -> None:
    body = b'{"__type": "com.amazon#ThrottlingException", "message": "slow down"}'
    assert read_error(429, body) == ProviderError(
        429, "rate_limit", "slow down", code="ThrottlingException"
    )
    # Converse itself says the name in a header only.
    name = "ThrottlingException:http://internal.amazon.com/coral/com.amazon.bedrock/"
    for status in (400, 429):
        assert read_error(status, b'{"message": "slow down"}', name) == ProviderError(
            status, "rate_limit", "slow down", code="ThrottlingException"
        )
    page = read_error(503, b"<html>", "ServiceUnavailableException")
    assert (page.kind, page.code) == ("overloaded", "ServiceUnavailableException")
    assert read_error(400, b'{"message": "Input is too long"}').kind == "context_length"


@given(st.integers(400, 599), st.binary(max_size=100), st.text(max_size=20))
def test_whatever_a_provider_answers_is_some_error(status: int, body: bytes, name: str) -> None:
    assert read_error(status, body, name).status == status
