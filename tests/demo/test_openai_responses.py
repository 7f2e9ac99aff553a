"""Answers on demand through responses, as the official SDK reads them."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from demo_provider import Demo

from extproc.demo.signatures import is_sealed

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: Any = [{"type": "function", "name": "get_weather", "parameters": SCHEMA, "strict": False}]


def both_ways(client: openai.OpenAI, **fields: Any) -> list[Any]:
    """The response, whole and as the SDK's stream puts it together from its deltas."""
    whole = client.responses.create(model="gpt-5", input="hello", **fields)
    with client.responses.stream(model="gpt-5", input="hello", **fields) as stream:
        list(stream)
        streamed = stream.get_final_response()
    assert [item.type for item in streamed.output] == [item.type for item in whole.output]
    return [whole, streamed]


def test_calls_and_thoughts_in_both_ways(demo: Demo, openai_sdk: openai.OpenAI) -> None:
    demo.faults(answer="thinking_tools")
    for response in both_ways(openai_sdk, tools=TOOLS, include=["reasoning.encrypted_content"]):
        reasoning, call = response.output
        assert reasoning.summary[0].text.startswith("First I weigh")
        assert is_sealed("openai", reasoning.encrypted_content)
        assert call.name == "get_weather"
        assert json.loads(call.arguments) == {"city": "sample 1"}
        assert response.usage.output_tokens_details.reasoning_tokens == 8
    for response in both_ways(openai_sdk, tools=TOOLS):
        assert response.output[0].encrypted_content is None
    demo.faults(answer="parallel_tools")
    for response in both_ways(openai_sdk, tools=TOOLS):
        assert [item.type for item in response.output] == ["message"] + ["function_call"] * 2


def test_the_deltas_add_up(demo: Demo, openai_sdk: openai.OpenAI) -> None:
    for kind, name in (
        ("tools", "response.function_call_arguments"),
        ("thinking", "response.reasoning_summary_text"),
        ("refusal", "response.refusal"),
    ):
        demo.faults(answer=kind)
        events: Any = list(
            openai_sdk.responses.create(model="gpt-5", input="hi", tools=TOOLS, stream=True)
        )
        pieces = [event.delta for event in events if event.type == name + ".delta"]
        (done,) = [event for event in events if event.type == name + ".done"]
        whole = getattr(done, {"tools": "arguments", "refusal": "refusal"}.get(kind, "text"))
        assert len(pieces) > 1
        assert "".join(pieces) == whole
        assert [event.sequence_number for event in events] == list(range(len(events)))


def test_json_refusal_image_and_length(demo: Demo, openai_sdk: openai.OpenAI) -> None:
    demo.faults(answer="json")
    text: Any = {"format": {"type": "json_schema", "name": "a", "schema": SCHEMA}}
    for response in both_ways(openai_sdk, text=text):
        assert json.loads(response.output_text) == {"city": "sample"}
    demo.faults(answer="refusal")
    for response in both_ways(openai_sdk):
        assert response.output[0].content[0].refusal.startswith("I cannot help")
    demo.faults(answer="image")
    for response in both_ways(openai_sdk):
        assert response.output[1].result
    demo.faults(answer="long")
    asked: Any = {"model": "gpt-5", "input": "hi", "max_output_tokens": 40}
    last: Any = list(openai_sdk.responses.create(**asked, stream=True))[-1]
    assert last.type == "response.incomplete"
    for response in (openai_sdk.responses.create(**asked), last.response):
        assert response.incomplete_details.reason == "max_output_tokens"


def test_an_error_inside_a_stream(demo: Demo, openai_sdk: openai.OpenAI) -> None:
    demo.faults(answer="error")
    with pytest.raises(openai.InternalServerError):
        openai_sdk.responses.create(model="gpt-5", input="hi")
    events: Any = list(openai_sdk.responses.create(model="gpt-5", input="hi", stream=True))
    assert events[-1].type == "response.failed"
    assert events[-1].response.error.code == "server_error"
    assert [(x["state"], x["output_tokens"]) for x in demo.bill(2)] == [
        ("failed", 0),
        ("failed", 3),
    ]
