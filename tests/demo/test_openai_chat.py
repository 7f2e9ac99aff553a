"""Answers on demand through chat completions, as the official SDK reads them."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest
from demo_provider import MESSAGES, Demo

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: Any = [
    {"type": "function", "function": {"name": name, "parameters": SCHEMA}}
    for name in ("get_weather", "get_time")
]


def both_ways(client: openai.OpenAI, model: str = "gpt-4o", **fields: Any) -> list[Any]:
    """The choice, whole and put together from its stream by the SDK."""
    whole = client.chat.completions.create(model=model, messages=MESSAGES, **fields)
    with client.chat.completions.stream(model=model, messages=MESSAGES, **fields) as stream:
        streamed = stream.get_final_completion()
    return [whole.choices[0], streamed.choices[0]]


def test_tools_are_called_in_both_ways(demo: Demo, openai_sdk: openai.OpenAI) -> None:
    demo.faults(answer="parallel_tools")
    for choice in both_ways(openai_sdk, tools=TOOLS):
        assert choice.finish_reason == "tool_calls"
        calls = choice.message.tool_calls
        assert [call.function.name for call in calls] == ["get_weather", "get_time"]
        assert [json.loads(call.function.arguments) for call in calls] == [
            {"city": "sample 1"},
            {"city": "sample 2"},
        ]
        assert len({call.id for call in calls}) == 2
        assert choice.message.content
    demo.faults(answer="tools")
    named: Any = {"type": "function", "function": {"name": "get_time"}}
    for choice in both_ways(openai_sdk, tools=TOOLS, tool_choice=named):
        assert [call.function.name for call in choice.message.tool_calls] == ["get_time"]
    for choice in both_ways(openai_sdk, tools=TOOLS, tool_choice="none"):
        assert choice.message.tool_calls is None


def test_thoughts_are_shown_by_compatible_servers_only(
    demo: Demo, openai_sdk: openai.OpenAI
) -> None:
    demo.faults(answer="thinking")
    shown = demo.chat(model="deepseek-reasoner").json()["choices"][0]["message"]
    assert shown["reasoning_content"].startswith("First I weigh")
    assert "reasoning_content" in demo.chat(model="deepseek-reasoner", stream=True).text
    hidden = demo.chat(model="o4-mini").json()
    assert "reasoning_content" not in hidden["choices"][0]["message"]
    assert hidden["usage"]["completion_tokens_details"]["reasoning_tokens"] == 8


def test_json_refusal_stop_and_length(demo: Demo, openai_sdk: openai.OpenAI) -> None:
    schema: Any = {"name": "a", "schema": SCHEMA}
    wanted: Any = {"type": "json_schema", "json_schema": schema}
    demo.faults(answer="json")
    for choice in both_ways(openai_sdk, response_format=wanted):
        assert json.loads(choice.message.content) == {"city": "sample"}
    demo.faults(answer="refusal")
    for choice in both_ways(openai_sdk):
        assert choice.message.refusal.startswith("I cannot help")
        assert not choice.message.content
    demo.faults(answer="stop_sequence")
    for choice in both_ways(openai_sdk, stop=["END"], max_tokens=32):
        assert choice.finish_reason == "stop"
    demo.faults(answer="long")
    for choice in demo.chat(max_tokens=70).json()["choices"]:
        assert choice["finish_reason"] == "length"


def test_logprobs_where_asked(demo: Demo, openai_sdk: openai.OpenAI) -> None:
    for choice in both_ways(openai_sdk, logprobs=True):
        tokens = [entry.token for entry in choice.logprobs.content]
        assert "".join(tokens) == choice.message.content


def test_an_error_before_and_inside_a_stream(demo: Demo, openai_sdk: openai.OpenAI) -> None:
    demo.faults(answer="error")
    with pytest.raises(openai.InternalServerError):
        openai_sdk.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    stream = openai_sdk.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True)
    with pytest.raises(openai.APIError, match="told to fail"):
        list(stream)
    assert [(x["status"], x["state"], x["output_tokens"]) for x in demo.bill(2)] == [
        (503, "failed", 0),
        (200, "failed", 3),
    ]


@pytest.mark.parametrize("kind", ["tools", "json", "refusal", "thinking"])
def test_the_bill_counts_the_same_whatever_is_said(demo: Demo, kind: str) -> None:
    demo.faults(answer=kind)
    for stream in (False, True):
        answer: httpx.Response = demo.chat(tools=TOOLS, stream=stream)
        assert answer.status_code == 200
    assert {line["output_tokens"] for line in demo.bill(2)} == {32}
