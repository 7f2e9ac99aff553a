"""Each of OpenAI's rules for chat completions by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openai
import pytest
from demo_provider import MESSAGES, Demo
from openai.types.chat.completion_create_params import CompletionCreateParamsBase
from strictness import Json, changed, refusal_of, unknown_fields

from extproc.demo.strict.openai_chat import check

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def call(name: str) -> Json:
    return {"id": name, "type": "function", "function": {"name": "get", "arguments": "{}"}}


GOOD: Json = {
    "model": "gpt-4o",
    "max_tokens": 9,
    "temperature": 0.5,
    "stop": ["a", "b", "c", "d"],
    "tools": [{"type": "function", "function": {"name": "get", "parameters": SCHEMA}}],
    "tool_choice": {"type": "function", "function": {"name": "get"}},
    "messages": [
        {"role": "system", "content": "be"},
        {"role": "user", "content": [{"type": "text", "text": "see"}, IMAGE]},
        {"role": "assistant", "content": None, "tool_calls": [call("call_1"), call("call_2")]},
        {"role": "tool", "tool_call_id": "call_2", "content": "ok"},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "ok"}]},
        {"role": "user", "content": "go on"},
    ],
}
Change = Callable[[Json], Any]


def wanted(**schema: Any) -> Change:
    inner = {"name": "a", "schema": SCHEMA, **schema}
    return lambda b: b.update(response_format={"type": "json_schema", "json_schema": inner})


ONLY_TEXT: Json = {"temperature": 1, "messages": MESSAGES}
RULES: dict[str, tuple[Change, str, str]] = {
    "unknown_field": (
        lambda b: b.update(top_k=1),
        "Unrecognized request argument supplied: top_k",
        "",
    ),
    "unknown_field_in_a_message": (
        lambda b: b["messages"][2].update(reasoning_content="hm"),
        "Unknown parameter: 'messages[2].reasoning_content'.",
        "unknown_parameter",
    ),
    "wrong_type": (
        lambda b: b.update(temperature="hot"),
        "Invalid type for 'temperature': expected a number, but got a string instead.",
        "invalid_type",
    ),
    "unknown_role": (
        lambda b: b["messages"][0].update(role="owner"),
        "Invalid value: 'owner'. Supported values are: 'system'",
        "invalid_value",
    ),
    "cache_control": (
        lambda b: b["messages"][1]["content"][0].update(cache_control={}),
        "Unknown parameter",
        "unknown_parameter",
    ),
    "tool_message_without_call": (
        lambda b: b["messages"].pop(2),
        "messages with role 'tool' must be a response to a preceeding message with 'tool_calls'",
        "",
    ),
    "tool_message_of_another_call": (
        lambda b: b["messages"][3].update(tool_call_id="call_9"),
        "messages with role 'tool' must be a response",
        "",
    ),
    "call_without_tool_message": (
        lambda b: b["messages"].pop(4),
        "did not have response messages: call_1",
        "",
    ),
    "call_at_the_end": (lambda b: b.update(messages=b["messages"][:3]), "call_1, call_2", ""),
    "user_between_call_and_result": (
        lambda b: b["messages"].insert(3, {"role": "user", "content": "wait"}),
        "must be followed by tool messages",
        "",
    ),
    "long_call_id": (
        lambda b: b["messages"][3].update(tool_call_id="c" * 41),
        "Invalid 'messages[3].tool_call_id': string too long. Expected a string with maximum "
        "length 40, but got one with length 41 instead.",
        "string_above_max_length",
    ),
    "no_calls": (
        lambda b: b["messages"][2].update(tool_calls=[]),
        "Invalid 'messages[2].tool_calls': empty array.",
        "empty_array",
    ),
    "silent_assistant": (
        lambda b: b["messages"].append({"role": "assistant", "content": None}),
        "expected a string, got null",
        "",
    ),
    "five_stops": (lambda b: b["stop"].append("e"), "maximum length 4", "array_above_max_length"),
    "max_tokens_of_a_thinking_model": (
        lambda b: b.update(model="gpt-5"),
        "'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
        "unsupported_parameter",
    ),
    "both_maxima": (lambda b: b.update(max_completion_tokens=9), "at the same time", ""),
    "temperature_of_a_thinking_model": (
        lambda b: b.pop("max_tokens") and b.update(model="o4-mini"),
        "Only the default (1) value is supported.",
        "unsupported_value",
    ),
    "stop_of_a_thinking_model": (
        lambda b: [b.pop("max_tokens"), b.pop("temperature"), b.update(model="o4-mini")],
        "'stop' is not supported",
        "unsupported_parameter",
    ),
    "effort_of_another_model": (lambda b: b.update(reasoning_effort="low"), "reasoning_effort", ""),
    "function_name": (
        lambda b: b["tools"][0]["function"].update(name="a.b"),
        "string does not match pattern",
        "invalid_value",
    ),
    "schema_that_is_no_object": (
        lambda b: b["tools"][0]["function"].update(parameters={"type": "string"}),
        "schema must be a JSON Schema of 'type: \"object\"'",
        "invalid_function_parameters",
    ),
    "open_schema_in_strict_tool": (
        lambda b: b["tools"][0]["function"].update(strict=True),
        "Invalid schema for function 'get': In context=(), 'additionalProperties' is required",
        "invalid_function_parameters",
    ),
    "open_schema_of_the_answer": (
        wanted(strict=True),
        "'additionalProperties'",
        "invalid_json_schema",
    ),
    "optional_property_of_the_answer": (
        wanted(strict=True, schema={**SCHEMA, "additionalProperties": False}),
        "Missing 'city'.",
        "invalid_json_schema",
    ),
    "json_mode_without_the_word": (
        lambda b: b.update(response_format={"type": "json_object"}),
        "must contain the word 'json'",
        "",
    ),
    "choice_without_tools": (lambda b: b.pop("tools"), "only allowed when 'tools'", ""),
    "unknown_choice": (
        lambda b: b["tool_choice"]["function"].update(name="put"),
        "Tool choice 'put' not found",
        "",
    ),
    "options_without_stream": (
        lambda b: b.update(stream_options={}) or b.update(stream_options={"include_usage": True}),
        "'stream'",
        "",
    ),
    "top_logprobs_alone": (lambda b: b.update(top_logprobs=2), "'logprobs' is enabled", ""),
    "image_url": (
        lambda b: b["messages"][1]["content"][1]["image_url"].update(url="here.png"),
        "messages[1].content[1].image_url.url",
        "invalid_value",
    ),
    "long_user": (
        lambda b: b.update(user="u" * 65),
        "Expected a string with maximum length 64",
        "string_above_max_length",
    ),
    "effort_of_an_older_model": (
        lambda b: (
            b.pop("max_tokens") and b.update(ONLY_TEXT, model="gpt-5.1", reasoning_effort="minimal")
        ),
        "'reasoning_effort' does not support 'minimal' with this model.",
        "unsupported_value",
    ),
    "tools_of_a_model_that_thinks_elsewhere": (
        lambda b: (
            b.pop("max_tokens") and b.update(ONLY_TEXT, model="gpt-5.4", reasoning_effort="low")
        ),
        "Function tools with reasoning_effort are not supported for gpt-5.4",
        "",
    ),
    "tools_of_a_model_that_thinks_unasked": (
        lambda b: b.pop("max_tokens") and b.update(ONLY_TEXT, model="gpt-5.6"),
        "set reasoning_effort to 'none'",
        "",
    ),
    "temperature_above_2": (
        lambda b: b.update(temperature=3),
        "above maximum",
        "decimal_above_max_value",
    ),
}


def test_the_good_request_is_good() -> None:
    check(GOOD)
    check(changed(GOOD, wanted()))
    check({"model": "gpt-5", "messages": MESSAGES, "max_completion_tokens": 5, "temperature": 1})
    check({"model": "gpt-5.1", "messages": MESSAGES, "temperature": 0.2})


@pytest.mark.parametrize("rule", RULES)
def test_rule(rule: str) -> None:
    change, words, code = RULES[rule]
    problem = refusal_of(check, changed(GOOD, change))
    assert words in str(problem)
    assert problem.code == code


def test_no_field_of_the_official_sdk_is_unknown() -> None:
    names = (*CompletionCreateParamsBase.__annotations__, "stream")
    good = {"model": "gpt-5", "messages": MESSAGES}
    assert unknown_fields(check, good, (*names, "frob")) == {"frob"}


def test_it_is_refused_in_openais_shape(demo: Demo, openai_sdk: openai.OpenAI) -> None:
    demo.faults(strict=True)
    openai_sdk.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    with pytest.raises(openai.BadRequestError) as caught:
        openai_sdk.chat.completions.create(model="o3", messages=MESSAGES, max_tokens=5)
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "max_tokens")
    assert [line["status"] for line in demo.bill(2)] == [200, 400]
    demo.faults()
    assert demo.chat(top_k=1).status_code == 200


def test_a_tool_loop_comes_back_unchanged(demo: Demo, openai_sdk: openai.OpenAI) -> None:
    demo.faults(strict=True, answer="parallel_tools")
    messages = list(MESSAGES)
    asked: Any = {"model": "gpt-4o", "messages": messages, "tools": GOOD["tools"]}
    message = openai_sdk.chat.completions.create(**asked).choices[0].message
    messages.append(message.model_dump(exclude_none=True))
    for made in message.tool_calls or ():
        messages.append({"role": "tool", "tool_call_id": made.id, "content": "ok"})
    assert openai_sdk.chat.completions.create(**asked).choices[0].finish_reason == "tool_calls"
    messages.pop()
    with pytest.raises(openai.BadRequestError, match="did not have response messages"):
        openai_sdk.chat.completions.create(**asked)
