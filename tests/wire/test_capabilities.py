"""What a request needs of a model: read from the body, in doubt needed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from extproc.values.dialect import Operation
from extproc.wire.capabilities import Capability, needed_capabilities
from extproc.wire.inference_request import MAX_SEARCHED_BYTES, parse_inference_request

CHAT, RESPONSES, MESSAGES = Operation.CHAT_COMPLETIONS, Operation.RESPONSES, Operation.MESSAGES
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}


def needed(operation: Operation, **fields: Any) -> set[str]:
    body = {"model": "m", "max_tokens": 9_000, **fields}
    return set(needed_capabilities(parse_inference_request(operation, json.dumps(body).encode())))


def prompt(kind: str, **fields: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": kind, **fields}]}]


@pytest.mark.parametrize(
    ("operation", "fields", "needs"),
    [
        (CHAT, {"messages": prompt("text", text="an image")}, set()),
        (CHAT, {"messages": prompt("image_url", image_url={"url": "https://x/y"})}, {"vision"}),
        (CHAT, {"messages": prompt("input_audio", input_audio={})}, set()),
        (RESPONSES, {"input": prompt("input_image", file_id="f")}, {"vision"}),
        (RESPONSES, {"input": prompt("input_file", file_id="f")}, {"vision"}),
        (MESSAGES, {"messages": prompt("image", source={})}, {"vision"}),
        (MESSAGES, {"messages": prompt("document", source={})}, {"vision"}),
        (CHAT, {"tools": [TOOL]}, {"tools"}),
        (CHAT, {"tools": []}, set()),
        (CHAT, {"tools": None}, set()),
        (CHAT, {"functions": [{"name": "f"}]}, {"tools"}),
        (MESSAGES, {"tools": [{"name": "f", "input_schema": {}}]}, {"tools"}),
        (CHAT, {"response_format": {"type": "json_object"}}, set()),
        (CHAT, {"response_format": {"type": "json_schema", "json_schema": {}}}, {"json_schema"}),
        (RESPONSES, {"text": {"format": {"type": "json_schema"}}}, {"json_schema"}),
        (RESPONSES, {"text": {"verbosity": "low"}}, set()),
        (MESSAGES, {"output_format": {"type": "json_schema"}}, {"json_schema"}),
        (MESSAGES, {"output_config": {"format": {"type": "json_schema"}}}, {"json_schema"}),
        (MESSAGES, {"thinking": {"type": "enabled", "budget_tokens": 1024}}, {"thinking"}),
        (MESSAGES, {"thinking": {"type": "adaptive"}}, {"thinking"}),
        (MESSAGES, {"thinking": {"type": "disabled"}}, set()),
        (CHAT, {"reasoning_effort": "low"}, {"thinking"}),
        (CHAT, {"reasoning_effort": "none"}, set()),
        (CHAT, {"reasoning_effort": None}, set()),
        (RESPONSES, {"reasoning": {"effort": "high"}}, {"thinking"}),
        (RESPONSES, {"reasoning": {"effort": "none"}}, set()),
        (Operation.EMBEDDINGS, {"input": "x", "tools": [TOOL]}, set()),
    ],
)  # fmt: skip
def test_what_a_request_needs(
    operation: Operation, fields: dict[str, Any], needs: set[str]
) -> None:
    assert needed(operation, **fields) == needs


def test_what_cannot_be_read_cheaply_is_needed() -> None:
    long = [{"role": "user", "content": "x" * MAX_SEARCHED_BYTES}]
    assert needed(CHAT, messages=long) == {Capability.VISION}
    escaped = (
        b'{"model":"m","messages":[{"content":[{"type":"im\\u0061ge_url"}]}],'
        b'"response_format":{"type":"json\\u005fschema"}}'
    )
    request = parse_inference_request(CHAT, escaped)
    assert needed_capabilities(request) == {Capability.VISION, Capability.JSON_SCHEMA}
