"""Each of Google's rules by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from demo_provider import Demo
from google import genai
from google.genai import errors, types
from strictness import Json, changed, refusal_of

from extproc.demo.signatures import call_text, sign
from extproc.demo.strict.gemini import check

FLASH, LITE, PRO, THREE = (
    "gemini-2.5-flash",
    "gemini-2.5-flash-lite",
    "gemini-2.5-pro",
    "gemini-3-pro",
)
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
CALL = {"name": "get", "args": {"city": "a"}, "id": "fc_1"}
SIGNATURE = sign("google", call_text("get", {"city": "a"}))
GOOD: Json = {
    "systemInstruction": {"parts": [{"text": "be"}]},
    "generationConfig": {"maxOutputTokens": 9, "thinkingConfig": {"thinkingLevel": "low"}},
    "tools": [{"functionDeclarations": [{"name": "get", "parametersJsonSchema": SCHEMA}]}],
    "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["get"]}},
    "contents": [
        {"role": "user", "parts": [{"text": "hi"}]},
        {
            "role": "model",
            "parts": [
                {"text": "hm", "thought": True},
                {"functionCall": CALL, "thoughtSignature": SIGNATURE},
                {"functionCall": {"name": "get", "args": {}}},
            ],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"name": "get", "id": "fc_1", "response": {"output": "ok"}}},
                {"functionResponse": {"name": "get", "response": {"output": "ok"}}},
            ],
        },
    ],
}
Change = Callable[[Json], Any]


def part(body: Json, content: int, place: int) -> Json:
    found: Json = body["contents"][content]["parts"][place]
    return found


def config(**fields: Any) -> Change:
    return lambda b: b["generationConfig"].update(fields)


RULES: dict[str, tuple[Change, str]] = {
    "unknown_field": (
        lambda b: b.update(frob=1),
        'Invalid JSON payload received. Unknown name "frob": Cannot find field.',
    ),
    "unknown_field_of_the_config": (
        config(maxTokens=1),
        "Unknown name \"maxTokens\" at 'generation_config': Cannot find field.",
    ),
    "wrong_type": (
        config(maxOutputTokens="x"),
        "Invalid value at 'generation_config.max_output_tokens' (integer)",
    ),
    "unknown_role": (
        lambda b: b["contents"][0].update(role="assistant"),
        "Please use a valid role: user, model.",
    ),
    "no_parts": (lambda b: b["contents"][0].update(parts=[]), "contents.parts must not be empty"),
    "part_without_data": (lambda b: part(b, 0, 0).clear(), "required oneof field 'data'"),
    "part_with_two": (lambda b: part(b, 0, 0).update(functionCall=CALL), "required oneof field"),
    "empty_text": (lambda b: part(b, 0, 0).update(text=""), "empty text parameter"),
    "bytes_that_are_none": (
        lambda b: part(b, 1, 1).update(thoughtSignature="?"),
        '(TYPE_BYTES), Base64 decoding failed for "?"',
    ),
    "function_name": (
        lambda b: b["tools"][0]["functionDeclarations"][0].update(name="a b"),
        "Invalid function name.",
    ),
    "json_schema_in_googles_own": (
        lambda b: b["tools"][0]["functionDeclarations"].append(
            {"name": "put", "parameters": {"type": "object", "$schema": "x"}}
        ),
        "Unknown name \"$schema\" at 'tools[0].function_declarations[1].parameters'",
    ),
    "two_functions_of_one_name": (
        lambda b: b["tools"][0]["functionDeclarations"].append({"name": "get"}),
        "Duplicate function declaration found: get",
    ),
    "response_without_call": (
        lambda b: b["contents"].pop(1),
        "function response turn comes immediately after a function call turn",
    ),
    "call_without_response": (
        lambda b: b["contents"][2]["parts"].pop(),
        "number of function response parts is equal to the number of function call parts",
    ),
    "call_at_the_end": (lambda b: b["contents"].pop(), "number of function response parts"),
    "text_instead_of_responses": (
        lambda b: b["contents"][2].update(parts=[{"text": "well?"}]),
        "number of function response parts",
    ),
    "response_of_another_function": (
        lambda b: part(b, 2, 0)["functionResponse"].update(name="put"),
        "the names of the function calls",
    ),
    "response_of_another_call": (
        lambda b: part(b, 2, 0)["functionResponse"].update(id="fc_9"),
        "the ids of the function calls",
    ),
    "call_by_the_user": (lambda b: b["contents"][1].update(role="user"), "of the role model"),
    "response_by_the_model": (lambda b: b["contents"][2].update(role="model"), "of the role user"),
    "call_after_the_models_own_turn": (
        lambda b: b["contents"].insert(1, {"role": "model", "parts": [{"text": "so"}]}),
        "immediately after a user turn or after a function response turn",
    ),
    "unsigned_call": (
        lambda b: part(b, 1, 1).pop("thoughtSignature"),
        "Function call is missing a thought_signature in functionCall parts.",
    ),
    "changed_call": (
        lambda b: part(b, 1, 1)["functionCall"]["args"].update(city="b"),
        "Thought signature is not valid.",
    ),
    "foreign_signature": (
        lambda b: part(b, 1, 1).update(thoughtSignature=sign("anthropic", "hm")),
        "Thought signature is not valid.",
    ),
    "allowed_names_in_auto": (
        lambda b: b["toolConfig"]["functionCallingConfig"].update(mode="AUTO"),
        "should only be set when mode is ANY",
    ),
    "allowed_name_that_is_not_declared": (
        lambda b: b["toolConfig"]["functionCallingConfig"].update(allowedFunctionNames=["put"]),
        "put is not a declared function",
    ),
    "any_without_functions": (lambda b: b.pop("tools"), "without function_declarations"),
    "six_stops": (config(stopSequences=list("abcdef")), "at most 5"),
    "schema_without_json": (config(responseJsonSchema=SCHEMA), "response_mime_type"),
    "two_schemas": (
        config(responseJsonSchema=SCHEMA, responseSchema={"type": "OBJECT"}),
        "Only one of",
    ),
    "logprobs_alone": (config(logprobs=2), "logprobs requires response_logprobs"),
    "budget_and_level": (
        config(thinkingConfig={"thinkingLevel": "low", "thinkingBudget": 1_024}),
        "only set only one of thinking budget and thinking level",
    ),
    "level_that_pro_lacks": (
        config(thinkingConfig={"thinkingLevel": "minimal"}),
        "Thinking level MINIMAL is not supported for this model",
    ),
}


def test_the_good_request_is_good() -> None:
    check(GOOD, THREE)
    for mark in ("skip_thought_signature_validator", "context_engineering_is_the_way_to_go"):
        check(changed(GOOD, lambda b, m=mark: part(b, 1, 1).update(thoughtSignature=m)), THREE)
    check({"contents": [{"parts": [{"text": "hi"}]}]}, FLASH)


@pytest.mark.parametrize("rule", RULES)
def test_rule(rule: str) -> None:
    change, words = RULES[rule]
    assert words in str(refusal_of(partial(check, model=THREE), changed(GOOD, change)))


def test_unsigned_calls_are_fine_before_gemini_3_and_in_turns_that_are_over() -> None:
    unsigned = changed(GOOD, lambda b: part(b, 1, 1).pop("thoughtSignature"))
    before = changed(unsigned, lambda b: b.pop("generationConfig"))
    check(before, FLASH)
    over = changed(
        unsigned,
        lambda b: b["contents"].extend(
            [
                {"role": "model", "parts": [{"text": "done"}]},
                {"role": "user", "parts": [{"text": "more"}]},
            ]
        ),
    )
    check(over, THREE)


@pytest.mark.parametrize(
    ("model", "thinking", "words"),
    [
        (FLASH, {"thinkingBudget": 0}, ""),
        (FLASH, {"thinkingBudget": -1}, ""),
        (PRO, {"thinkingBudget": 128}, ""),
        (PRO, {"thinkingBudget": 0}, "Budget 0 is invalid. This model only works in thinking mode"),
        (PRO, {"thinkingBudget": 40_000}, "between 128 and 32768"),
        (LITE, {"thinkingBudget": 100}, "between 512 and 24576"),
        (FLASH, {"thinkingLevel": "low"}, "Thinking level is not supported"),
        ("gemini-2.0-flash", {"thinkingBudget": 100}, "not supported by this model"),
        ("gemini-3-flash", {"thinkingLevel": "MINIMAL"}, ""),
        ("gemini-3.1-pro", {"thinkingLevel": "medium"}, ""),
    ],
)
def test_each_model_thinks_its_own_way(model: str, thinking: Json, words: str) -> None:
    body = {
        "contents": GOOD["contents"][:1],
        "generationConfig": {"thinkingConfig": thinking},
    }
    if words:
        assert words in str(refusal_of(partial(check, model=model), body))
    else:
        check(body, model)


def test_functions_and_json_exclude_each_other_before_gemini_3() -> None:
    body = {**GOOD, "generationConfig": {"responseMimeType": "application/json"}}
    check(body, THREE)
    assert "is unsupported" in str(refusal_of(partial(check, model=FLASH), body))


def test_it_is_refused_in_googles_shape(demo: Demo, google_sdk: genai.Client) -> None:
    demo.faults("google", strict=True)
    google_sdk.models.generate_content(
        model=FLASH,
        contents="hi",
        config={"system_instruction": "be", "thinking_config": {"thinking_budget": 0}},
    )
    google_sdk.models.count_tokens(model=FLASH, contents="hi")
    with pytest.raises(errors.ClientError) as caught:
        google_sdk.models.generate_content(
            model=FLASH, contents="hi", config={"stop_sequences": list("abcdef")}
        )
    assert (caught.value.code, caught.value.status) == (400, "INVALID_ARGUMENT")
    assert [line["status"] for line in demo.bill(2)] == [200, 400]


def test_a_tool_loop_comes_back_unchanged(demo: Demo, google_sdk: genai.Client) -> None:
    demo.faults("google", strict=True, answer="thinking_tools")
    declared = types.FunctionDeclaration(name="get", parameters_json_schema=SCHEMA)
    config = types.GenerateContentConfig(tools=[types.Tool(function_declarations=[declared])])
    contents = [types.Content(role="user", parts=[types.Part(text="hi")])]
    asked: Any = {"model": THREE, "contents": contents, "config": config}
    content = google_sdk.models.generate_content(**asked).candidates[0].content
    call = content.parts[-1].function_call
    answer = types.FunctionResponse(name="get", id=call.id, response={"output": "ok"})
    contents += [content, types.Content(role="user", parts=[types.Part(function_response=answer)])]
    assert google_sdk.models.generate_content(**asked).function_calls
    content.parts[-1].thought_signature = None
    with pytest.raises(errors.ClientError, match="missing a thought_signature"):
        google_sdk.models.generate_content(**asked)
