"""Answers on demand through messages, as the official SDK reads them."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import pytest
from demo_provider import HAIKU, MESSAGES, Demo

from extproc.demo.signatures import is_sealed, is_signed

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: Any = [{"name": name, "input_schema": SCHEMA} for name in ("get_weather", "get_time")]


def both_ways(client: anthropic.Anthropic, **fields: Any) -> list[Any]:
    """The message, whole and put together from its stream by the SDK."""
    asked: Any = {"model": HAIKU, "max_tokens": 100, "messages": MESSAGES, **fields}
    whole = client.messages.create(**asked)
    with client.messages.stream(**asked) as stream:
        streamed = stream.get_final_message()
    assert [block.type for block in streamed.content] == [block.type for block in whole.content]
    assert streamed.stop_reason == whole.stop_reason
    assert streamed.usage.output_tokens == whole.usage.output_tokens
    return [whole, streamed]


def test_calls_and_thoughts_in_both_ways(demo: Demo, anthropic_sdk: anthropic.Anthropic) -> None:
    demo.faults("anthropic", answer="thinking_tools")
    for message in both_ways(anthropic_sdk, tools=TOOLS):
        thought, call = message.content
        assert is_signed("anthropic", thought.thinking, thought.signature)
        assert (call.name, call.input) == ("get_weather", {"city": "sample 1"})
        assert message.stop_reason == "tool_use"
    demo.faults("anthropic", answer="parallel_tools")
    for message in both_ways(anthropic_sdk, tools=TOOLS):
        assert [block.type for block in message.content] == ["text", "tool_use", "tool_use"]
    choice: Any = {"type": "any", "disable_parallel_tool_use": True}
    for message in both_ways(anthropic_sdk, tools=TOOLS, tool_choice=choice):
        assert [block.type for block in message.content] == ["text", "tool_use"]
    demo.faults("anthropic", answer="redacted_thinking")
    for message in both_ways(anthropic_sdk):
        assert is_sealed("anthropic", message.content[0].data)


def test_json_refusal_stop_and_length(demo: Demo, anthropic_sdk: anthropic.Anthropic) -> None:
    demo.faults("anthropic", answer="json")
    output: Any = {"format": {"type": "json_schema", "schema": SCHEMA}}
    for message in both_ways(anthropic_sdk, output_config=output):
        assert json.loads(message.content[0].text) == {"city": "sample"}
    demo.faults("anthropic", answer="refusal")
    for message in both_ways(anthropic_sdk):
        assert message.stop_reason == "refusal"
    demo.faults("anthropic", answer="stop_sequence")
    for message in both_ways(anthropic_sdk, stop_sequences=["END"]):
        assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "END")
    demo.faults("anthropic", answer="long")
    for message in both_ways(anthropic_sdk):
        assert message.stop_reason == "max_tokens"
    demo.faults("anthropic", answer="image")
    for message in both_ways(anthropic_sdk):
        assert message.content[-1].text == "[image]"


def test_an_error_inside_a_stream(demo: Demo, anthropic_sdk: anthropic.Anthropic) -> None:
    demo.faults("anthropic", answer="error")
    asked: Any = {"model": HAIKU, "max_tokens": 100, "messages": MESSAGES}
    with pytest.raises(anthropic.InternalServerError):
        anthropic_sdk.messages.create(**asked)
    with pytest.raises(anthropic.APIStatusError, match="overloaded"):
        list(anthropic_sdk.messages.create(stream=True, **asked))
    assert [(x["state"], x["output_tokens"]) for x in demo.bill(2)] == [
        ("failed", 0),
        ("failed", 3),
    ]
