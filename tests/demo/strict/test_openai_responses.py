"""Each of OpenAI's rules for responses by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openai
import pytest
from demo_provider import Demo
from openai.types.responses.response_create_params import ResponseCreateParamsBase
from strictness import Json, changed, refusal_of, unknown_fields

from extproc.demo.signatures import sealed
from extproc.demo.strict.openai_responses import check

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
GOOD: Json = {
    "model": "gpt-5",
    "store": False,
    "include": ["reasoning.encrypted_content"],
    "reasoning": {"effort": "low", "summary": "auto"},
    "tools": [{"type": "function", "name": "get", "parameters": SCHEMA, "strict": False}],
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [{"type": "summary_text", "text": "hm"}],
            "encrypted_content": sealed("openai", "hm"),
        },
        {"type": "function_call", "call_id": "call_1", "name": "get", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "ok"},
        {"type": "message", "role": "assistant", "content": "so"},
    ],
}
Change = Callable[[Json], Any]
RULES: dict[str, tuple[Change, str, str]] = {
    "unknown_field": (
        lambda b: b.update(seed=1),
        "Unknown parameter: 'seed'.",
        "unknown_parameter",
    ),
    "stop": (lambda b: b.update(stop=["a"]), "Unknown parameter: 'stop'.", "unknown_parameter"),
    "wrong_type": (lambda b: b.update(stream=1), "Invalid type for 'stream'", "invalid_type"),
    "unknown_item": (
        lambda b: b["input"].append({"type": "thought"}),
        "Invalid value: 'thought'.",
        "invalid_value",
    ),
    "input_text_of_the_assistant": (
        lambda b: b["input"][4].update(content=[{"type": "input_text", "text": "x"}]),
        "Supported values are: 'output_text', 'refusal'.",
        "invalid_value",
    ),
    "output_text_of_the_user": (
        lambda b: b["input"][0].update(content=[{"type": "output_text", "text": "x"}]),
        "Supported values are: 'input_text'",
        "invalid_value",
    ),
    "output_without_call": (
        lambda b: b["input"].pop(2),
        "No tool call found for function call output with call_id call_1.",
        "",
    ),
    "call_without_output": (
        lambda b: b["input"].pop(3),
        "No tool output found for function call call_1.",
        "",
    ),
    "long_call_id": (
        lambda b: b["input"][2].update(call_id="c" * 65),
        "maximum length 64",
        "string_above_max_length",
    ),
    "foreign_id": (lambda b: b["input"][1].update(id="msg_1"), "input[1].id", "invalid_value"),
    "changed_reasoning": (
        lambda b: b["input"][1].update(encrypted_content=sealed("openai", "hm")[:-4] + "AAAA"),
        "could not be verified",
        "invalid_encrypted_content",
    ),
    "foreign_reasoning": (
        lambda b: b["input"][1].update(encrypted_content="anthropic.AAAA"),
        "could not be verified",
        "invalid_encrypted_content",
    ),
    "reasoning_that_was_not_stored": (
        lambda b: b["input"][1].pop("encrypted_content"),
        "Items are not persisted when `store` is set to false",
        "",
    ),
    "reasoning_alone": (
        lambda b: b.update(input=b["input"][:2]),
        "without its required following item",
        "",
    ),
    "reasoning_of_a_model_that_does_not": (
        lambda b: b.update(model="gpt-4o"),
        "'reasoning.effort' is not supported with this model",
        "unsupported_parameter",
    ),
    "encrypted_reasoning_of_a_model_that_does_not": (
        lambda b: b.pop("reasoning") and b.update(model="gpt-4o"),
        "Encrypted content is not supported with this model.",
        "",
    ),
    "temperature_of_a_thinking_model": (
        lambda b: b.update(temperature=0.5),
        "'temperature' is not supported",
        "unsupported_parameter",
    ),
    "effort_of_another_model": (
        lambda b: b.update(reasoning={"effort": "none"}),
        "'reasoning.effort' does not support 'none' with this model.",
        "unsupported_value",
    ),
    "small_maximum": (
        lambda b: b.update(max_output_tokens=15),
        "Invalid 'max_output_tokens': below minimum value. Expected a value >= 16.",
        "integer_below_min_value",
    ),
    "open_schema_in_strict_tool": (
        lambda b: b["tools"][0].update(strict=True),
        "'additionalProperties' is required",
        "invalid_function_parameters",
    ),
    "json_mode_without_the_word": (
        lambda b: b.update(text={"format": {"type": "json_object"}}),
        "must contain the word 'json'",
        "",
    ),
    "tool_of_chat": (
        lambda b: b["tools"][0].update(function={"name": "get"}),
        "Unknown parameter: 'tools[0].function'.",
        "unknown_parameter",
    ),
}


def test_the_good_request_is_good() -> None:
    check(GOOD)
    check({"model": "gpt-4o", "input": "hi", "temperature": 0.5})
    output = {"type": "function_call_output", "call_id": "call_9", "output": "ok"}
    check({"model": "gpt-4o", "input": [output], "previous_response_id": "resp_1"})


@pytest.mark.parametrize("rule", RULES)
def test_rule(rule: str) -> None:
    change, words, code = RULES[rule]
    problem = refusal_of(check, changed(GOOD, change))
    assert words in str(problem)
    assert problem.code == code


def test_no_field_of_the_official_sdk_is_unknown() -> None:
    names = (*ResponseCreateParamsBase.__annotations__, "stream")
    assert unknown_fields(check, GOOD, (*names, "frob")) == {"frob"}


def test_a_tool_loop_with_reasoning_comes_back_unchanged(
    demo: Demo, openai_sdk: openai.OpenAI
) -> None:
    demo.faults(strict=True, answer="thinking_tools")
    asked: Json = {**GOOD, "input": [{"role": "user", "content": "hi"}]}
    response = openai_sdk.responses.create(**asked)
    asked["input"] += [item.model_dump(exclude_none=True) for item in response.output]
    output = {"type": "function_call_output", "output": "ok"}
    asked["input"].append({**output, "call_id": response.output[1].call_id})
    assert openai_sdk.responses.create(**asked).output[1].type == "function_call"
    asked["input"][1]["encrypted_content"] += "AAAA"
    with pytest.raises(openai.BadRequestError) as caught:
        openai_sdk.responses.create(**asked)
    assert caught.value.code == "invalid_encrypted_content"
