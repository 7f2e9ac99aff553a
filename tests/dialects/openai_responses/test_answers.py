"""Whole responses, by the official SDK's own types."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.responses import Response

from extproc.dialects.answer import Answer, Stop
from extproc.dialects.codec import Context
from extproc.dialects.conversation import Refused, Text, Thinking, ToolCall, Vendor
from extproc.dialects.openai_responses.answers import read_answer, write_answer
from extproc.values.usage import TokenUsage
from extproc.wire.errors import WireError

CONTEXT = Context("r1", 1_700_000_000, "asked")
USAGE = TokenUsage(10, 5, 4, 0, 2)


def response(*output: Any, status: str = "completed", **fields: Any) -> bytes:
    document = {
        "id": "resp_1", "object": "response", "created_at": 5.0, "status": status, "model": "gpt",
        "output": list(output),
        "usage": {
            "input_tokens": 10, "input_tokens_details": {"cached_tokens": 4},
            "output_tokens": 5, "output_tokens_details": {"reasoning_tokens": 2},
            "total_tokens": 15,
        },
        **fields,
    }  # fmt: skip
    return json.dumps(document).encode()


def said(*content: Any) -> dict[str, Any]:
    return {"type": "message", "id": "m", "role": "assistant", "content": list(content)}


def test_an_answer_with_everything_is_read_and_written_again() -> None:
    answer = read_answer(
        response(
            {
                "type": "reasoning",
                "id": "rs_1",
                "summary": [{"type": "summary_text", "text": "hm"}],
                "encrypted_content": "enc",
            },
            said({"type": "output_text", "text": "hi", "annotations": []}),
            {"type": "web_search_call", "id": "w", "status": "completed"},
            {
                "type": "function_call",
                "id": "fc_1",
                "call_id": "c1",
                "name": "f",
                "arguments": '{"a": 1}',
            },
        ),
        CONTEXT,
    )
    assert answer.parts == [
        Thinking("hm", "enc", Vendor.OPENAI, item_id="rs_1"),
        Text("hi"),
        ToolCall("c1", "f", '{"a": 1}'),
    ]
    assert (answer.stop, answer.usage, answer.created_s) == (Stop.TOOL_CALLS, USAGE, 5)
    again = Response.model_validate_json(write_answer(answer, CONTEXT), strict=True)
    assert again.output_text == "hi"
    assert again.output[0].encrypted_content == "enc"
    assert again.output[2].call_id == "c1"
    assert again.usage.input_tokens_details.cached_tokens == 4


@pytest.mark.parametrize("stop", list(Stop))
def test_every_reason_to_stop_is_a_status(stop: Stop) -> None:
    answer = Answer("a", "m", [Text("x")], stop, USAGE)
    written = Response.model_validate_json(write_answer(answer, CONTEXT), strict=True)
    cut = stop in (Stop.MAX_TOKENS, Stop.CONTEXT_FULL, Stop.REFUSAL)
    assert written.status == ("incomplete" if cut else "completed")


def test_a_refusal_in_words_completes_the_response() -> None:
    read = read_answer(response(said({"type": "refusal", "refusal": "no"})), CONTEXT)
    assert (read.parts, read.stop) == ([Refused("no")], Stop.REFUSAL)
    written = Response.model_validate_json(write_answer(read, CONTEXT), strict=True)
    assert written.status == "completed"


def test_an_incomplete_response_says_why() -> None:
    body = response(status="incomplete", incomplete_details={"reason": "max_output_tokens"})
    assert read_answer(body, CONTEXT).stop is Stop.MAX_TOKENS
    body = response(status="incomplete", incomplete_details={"reason": "content_filter"})
    assert read_answer(body, CONTEXT).stop is Stop.REFUSAL


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"output": [1]}', b"<html>"])
def test_what_is_no_response_is_an_error(body: bytes) -> None:
    with pytest.raises(WireError):
        read_answer(body, CONTEXT)
