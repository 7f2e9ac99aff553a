"""Each of Bedrock's rules by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import bedrock_api
import pytest
from demo_provider import Demo
from strictness import Json, changed, refusal_of, unknown_fields

from extproc.demo.signatures import sealed, sign
from extproc.demo.strict.bedrock import check

HAIKU = "eu.anthropic.claude-haiku-4-5-v1:0"
NOVA = "amazon.nova-pro-v1:0"
SPEC = {"name": "get", "inputSchema": {"json": {"type": "object"}}, "description": "d"}
POINT = {"cachePoint": {"type": "default"}}
PDF = {"document": {"format": "pdf", "name": "a (1)", "source": {"bytes": "AAAA"}}}
THINKING = {"type": "enabled", "budget_tokens": 1_024}
GOOD: Json = {
    "system": [{"text": "be"}, POINT],
    "inferenceConfig": {"maxTokens": 4_000},
    "additionalModelRequestFields": {"thinking": THINKING},
    "toolConfig": {"tools": [{"toolSpec": SPEC}, POINT], "toolChoice": {"auto": {}}},
    "messages": [
        {"role": "user", "content": [{"text": "hi"}, PDF]},
        {
            "role": "assistant",
            "content": [
                {
                    "reasoningContent": {
                        "reasoningText": {"text": "hm", "signature": sign("anthropic", "hm")}
                    }
                },
                {"reasoningContent": {"redactedContent": sealed("anthropic", "hm")}},
                {"toolUse": {"toolUseId": "t-1", "name": "get", "input": {}}},
                {"toolUse": {"toolUseId": "t-2", "name": "get", "input": {}}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"toolResult": {"toolUseId": "t-2", "content": [{"text": "ok"}]}},
                {"toolResult": {"toolUseId": "t-1", "content": [], "status": "error"}},
                {"text": "go on"},
            ],
        },
    ],
}
Change = Callable[[Json], Any]


def block(body: Json, message: int, place: int) -> Json:
    found: Json = body["messages"][message]["content"][place]
    return found


RULES: dict[str, tuple[Change, str]] = {
    "unknown_field": (lambda b: b.update(frob=1), "extraneous key [frob] is not permitted"),
    "unknown_field_in_a_block": (
        lambda b: block(b, 0, 0).update(cache_control={}),
        "#/messages/0/content/0/cache_control: extraneous key",
    ),
    "wrong_type": (
        lambda b: b["inferenceConfig"].update(maxTokens="x"),
        "Value at 'inferenceConfig.maxTokens' failed to satisfy constraint",
    ),
    "temperature_above_1": (lambda b: b["inferenceConfig"].update(temperature=1.5), "<= 1"),
    "two_members_of_a_union": (lambda b: block(b, 0, 0).update(POINT), "exactly one of"),
    "system_role": (lambda b: b["messages"][0].update(role="system"), "[user, assistant]"),
    "assistant_first": (lambda b: b["messages"].pop(0), "must start with a user message"),
    "no_alternation": (
        lambda b: b["messages"].insert(0, {"role": "user", "content": [{"text": "x"}]}),
        "A conversation must alternate between user and assistant roles.",
    ),
    "empty_content": (
        lambda b: b["messages"][0].update(content=[]),
        "The content field in the Message object at messages.0 is empty.",
    ),
    "blank_text": (
        lambda b: block(b, 0, 0).update(text=" "),
        "The text field in the ContentBlock object at messages.0.content.0 is blank.",
    ),
    "no_tool_config": (
        lambda b: b.pop("toolConfig"),
        "The toolConfig field must be defined when using toolUse and toolResult content blocks.",
    ),
    "call_without_result": (
        lambda b: b["messages"][2]["content"].pop(0),
        "Expected toolResult blocks at messages.2.content for the following Ids: t-2",
    ),
    "call_at_the_end": (lambda b: b["messages"].pop(), "messages.2.content for the following Ids"),
    "result_without_call": (
        lambda b: b["messages"][1]["content"].pop(3),
        "exceeds the number of toolUse blocks of previous turn",
    ),
    "id_pattern": (
        lambda b: block(b, 1, 2)["toolUse"].update(toolUseId="t 1"),
        "Member must satisfy regular expression pattern: [a-zA-Z0-9_.:-]+",
    ),
    "long_id": (
        lambda b: block(b, 1, 2)["toolUse"].update(toolUseId="t" * 65),
        "at most 64 characters",
    ),
    "tool_name": (lambda b: tool(b).update(name="a.b"), "[a-zA-Z0-9_-]+"),
    "empty_description": (lambda b: tool(b).update(description=""), "at least 1 characters"),
    "no_tools": (lambda b: b["toolConfig"].update(tools=[]), "at least 1 items"),
    "tools_of_one_name": (
        lambda b: b["toolConfig"]["tools"].append({"toolSpec": SPEC}),
        "duplicate tool names",
    ),
    "unknown_choice": (
        lambda b: b["toolConfig"].update(toolChoice={"tool": {"name": "put"}}),
        "The tool put of toolChoice is not in toolConfig.",
    ),
    "document_name": (
        lambda b: block(b, 0, 1)["document"].update(name="a.pdf"),
        "does not follow the naming guidelines",
    ),
    "two_spaces_in_a_document_name": (
        lambda b: block(b, 0, 1)["document"].update(name="a  b"),
        "more than one consecutive whitespace character",
    ),
    "two_documents_of_one_name": (
        lambda b: b["messages"][0]["content"].append(PDF),
        "can't contain duplicate document names",
    ),
    "a_document_of_the_same_name_in_a_later_result": (
        lambda b: block(b, 2, 0)["toolResult"]["content"].append(
            {"document": {**PDF["document"], "name": "A (1)"}}
        ),
        "can't contain duplicate document names",
    ),
    "blank_text_in_a_result": (
        lambda b: block(b, 2, 0)["toolResult"]["content"][0].update(text=""),
        "text content blocks must be non-empty",
    ),
    "open_schema_of_the_answer": (lambda b: b.update(answer_in('{"type": "object"}')), "false"),
    "bounded_schema_of_the_answer": (
        lambda b: b.update(answer_in('{"type": "integer", "minimum": 1}')),
        "'minimum' is not supported",
    ),
    "open_schema_of_a_strict_tool": (lambda b: tool(b).update(strict=True), "must be false"),
    "document_without_text": (
        lambda b: b["messages"][0]["content"].pop(0),
        "must include a text content block",
    ),
    "document_by_the_assistant": (
        lambda b: b["messages"][1]["content"].append(PDF),
        "only allowed in a message of the role user",
    ),
    "call_by_the_user": (
        lambda b: b["messages"][0]["content"].append(block(b, 1, 2)),
        "only allowed in a message of the role assistant",
    ),
    "five_cache_points": (
        lambda b: b["messages"][0]["content"].extend([POINT] * 3),
        "A maximum of 4 cachePoint blocks may be provided. Found 5.",
    ),
    "changed_thought": (
        lambda b: block(b, 1, 0)["reasoningContent"]["reasoningText"].update(text="hm!"),
        "The model returned the following errors: messages.1.content.0: Invalid `signature` in "
        "`thinking` block",
    ),
    "unsigned_thought": (
        lambda b: block(b, 1, 0)["reasoningContent"]["reasoningText"].pop("signature"),
        "Invalid `signature`",
    ),
    "foreign_redacted_thought": (
        lambda b: block(b, 1, 1)["reasoningContent"].update(redactedContent="AAAA"),
        "Invalid `data` in `redacted_thinking` block",
    ),
    "no_thought_in_an_open_loop": (
        lambda b: b["messages"][1].update(content=b["messages"][1]["content"][2:]),
        "must start with a thinking block",
    ),
    "small_budget": (
        lambda b: b["additionalModelRequestFields"]["thinking"].update(budget_tokens=10),
        "equal to 1024",
    ),
    "temperature_with_thinking": (
        lambda b: b["inferenceConfig"].update(temperature=0.5),
        "`temperature` may only be set to 1",
    ),
    "forced_tool_with_thinking": (
        lambda b: b["toolConfig"].update(toolChoice={"any": {}}),
        "forces tool use",
    ),
    "unknown_field_of_the_model": (
        lambda b: b["additionalModelRequestFields"].update(frob=1),
        "The model returned the following errors: frob: Extra inputs are not permitted",
    ),
}


def answer_in(schema: str) -> Json:
    structure = {"jsonSchema": {"name": "a", "schema": schema}}
    return {"outputConfig": {"textFormat": {"type": "json_schema", "structure": structure}}}


def tool(body: Json) -> Json:
    found: Json = body["toolConfig"]["tools"][0]["toolSpec"]
    return found


def test_the_good_request_is_good_also_to_botocore() -> None:
    check(GOOD, HAIKU)
    bedrock_api.check_request(GOOD)
    check({"messages": [{"role": "user", "content": [{"text": "hi"}]}]}, NOVA)


@pytest.mark.parametrize("rule", RULES)
def test_rule(rule: str) -> None:
    change, words = RULES[rule]
    assert words in str(refusal_of(partial(check, model=HAIKU), changed(GOOD, change)))


def test_no_field_that_botocore_knows_is_unknown() -> None:
    shape: Any = bedrock_api.service().operation_model("Converse").input_shape
    names = {*shape.members, "frob"} - {"modelId"}
    assert unknown_fields(partial(check, model=HAIKU), GOOD, names) == {"frob"}
    message = shape.members["messages"].member
    for name in message.members["content"].member.members:
        body = changed(GOOD, lambda b, n=name: b["messages"][0]["content"].append({n: 1}))
        assert "extraneous key" not in str(refusal_of(partial(check, model=HAIKU), body)), name


def test_it_is_refused_in_awss_shape(demo: Demo, bedrock_sdk: Any) -> None:
    demo.faults("aws", strict=True)
    asked = {"modelId": HAIKU, "messages": [{"role": "user", "content": [{"text": "hi"}]}]}
    bedrock_sdk.converse(**asked)
    asked["messages"] = asked["messages"] * 2
    for call in (bedrock_sdk.converse, bedrock_sdk.converse_stream):
        with pytest.raises(bedrock_sdk.exceptions.ValidationException, match="must alternate"):
            call(**asked)
    assert [line["status"] for line in demo.bill(3)] == [200, 400, 400]


def test_a_tool_loop_with_thinking_comes_back_unchanged(demo: Demo, bedrock_sdk: Any) -> None:
    demo.faults("aws", strict=True, answer="thinking_tools")
    messages: list[Json] = [{"role": "user", "content": [{"text": "hi"}]}]
    asked = {
        "modelId": HAIKU,
        "messages": messages,
        **{name: GOOD[name] for name in GOOD if name != "messages"},
    }
    message = bedrock_sdk.converse(**asked)["output"]["message"]
    call = message["content"][1]["toolUse"]["toolUseId"]
    result = {"toolResult": {"toolUseId": call, "content": [{"text": "ok"}]}}
    messages += [message, {"role": "user", "content": [result]}]
    assert bedrock_sdk.converse(**asked)["stopReason"] == "tool_use"
    message["content"][0]["reasoningContent"]["reasoningText"]["text"] += "!"
    with pytest.raises(bedrock_sdk.exceptions.ValidationException, match="Invalid `signature`"):
        bedrock_sdk.converse(**asked)
