"""Each of Anthropic's rules by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anthropic
import pytest
from anthropic.types.message_create_params import MessageCreateParamsBase
from demo_provider import HAIKU, MESSAGES, Demo
from strictness import Json, changed, refusal_of, unknown_fields

from extproc.demo.signatures import sealed, sign
from extproc.demo.strict.anthropic_messages import check

MARK = {"type": "ephemeral"}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
PNG = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
GOOD: Json = {
    "model": HAIKU,
    "max_tokens": 4_000,
    "system": [{"type": "text", "text": "be", "cache_control": MARK}],
    "thinking": {"type": "enabled", "budget_tokens": 1_024},
    "tools": [{"name": "get", "input_schema": SCHEMA, "description": "d"}],
    "messages": [
        {"role": "user", "content": [{"type": "image", "source": PNG}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": sign("anthropic", "hm")},
                {"type": "redacted_thinking", "data": sealed("anthropic", "hm")},
                {"type": "tool_use", "id": "toolu_1", "name": "get", "input": {}},
                {"type": "tool_use", "id": "toolu_2", "name": "get", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_2", "content": "ok"},
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_1",
                    "content": [{"type": "image", "source": PNG}],
                    "is_error": True,
                },
                {"type": "text", "text": "go on"},
            ],
        },
    ],
}
Change = Callable[[Json], Any]


def block(body: Json, message: int, place: int) -> Json:
    found: Json = body["messages"][message]["content"][place]
    return found


def with_text(text: str) -> Change:
    return lambda b: b["messages"][2]["content"].append({"type": "text", "text": text})


RULES: dict[str, tuple[Change, str]] = {
    "unknown_field": (lambda b: b.update(frob=1), "frob: Extra inputs are not permitted"),
    "unknown_field_in_a_block": (
        lambda b: block(b, 2, 2).update(frob=1),
        "messages.2.content.2.frob: Extra inputs",
    ),
    "beta_field_without_beta": (lambda b: b.update(context_management={}), "Extra inputs"),
    "wrong_type": (lambda b: b.update(stream="yes"), "stream: Input should be a valid boolean"),
    "no_max_tokens": (lambda b: b.pop("max_tokens"), "max_tokens: Field required"),
    "null": (lambda b: b.update(temperature=None), "temperature: Input should be a valid number"),
    "temperature_above_1": (lambda b: b.update(temperature=1.5), "less than or equal to 1"),
    "system_role": (
        lambda b: b["messages"].insert(0, {"role": "system", "content": "be"}),
        'Unexpected role "system"',
    ),
    "first_message_by_the_assistant": (
        lambda b: b["messages"].insert(0, {"role": "assistant", "content": "hi"}),
        'first message must use the "user" role',
    ),
    "empty_content": (lambda b: b["messages"].insert(0, {"role": "user", "content": []}), "empty"),
    "empty_text": (with_text(""), "text content blocks must be non-empty"),
    "blank_text": (with_text(" \n"), "must contain non-whitespace text"),
    "empty_system": (lambda b: b["system"][0].update(text=""), "system: text content blocks"),
    "empty_text_in_a_result": (
        lambda b: block(b, 2, 1)["content"].append({"type": "text", "text": ""}),
        "must be non-empty",
    ),
    "trailing_whitespace": (
        lambda b: b["messages"].append({"role": "assistant", "content": "so "}),
        "cannot end with trailing whitespace",
    ),
    "five_cache_marks": (
        lambda b: [
            with_text(f"t{n}")(b) or block(b, 2, 3 + n).update(cache_control=MARK) for n in range(4)
        ],
        "A maximum of 4 blocks with cache_control may be provided. Found 5.",
    ),
    "long_mark_after_a_short_one": (
        lambda b: block(b, 2, 2).update(cache_control={**MARK, "ttl": "1h"}),
        "must not come after a ttl='5m'",
    ),
    "mark_on_thinking": (lambda b: block(b, 1, 0).update(cache_control=MARK), "Extra inputs"),
    "id_with_a_dot": (lambda b: block(b, 1, 2).update(id="a.b"), "String should match pattern"),
    "result_without_call": (
        lambda b: (
            block(b, 2, 0).update(tool_use_id="toolu_9") or b["messages"][1]["content"].pop(3)
        ),
        "unexpected `tool_use_id` found in `tool_result` blocks: toolu_9",
    ),
    "call_without_result": (
        lambda b: b["messages"][2]["content"].pop(0),
        "`tool_use` ids were found without `tool_result` blocks immediately after: toolu_2",
    ),
    "call_at_the_end": (lambda b: b["messages"].pop(), "toolu_1, toolu_2"),
    "results_behind_text": (
        lambda b: b["messages"][2]["content"].insert(0, {"type": "text", "text": "here"}),
        "without `tool_result` blocks immediately after",
    ),
    "two_results_of_a_call": (
        lambda b: b["messages"][2]["content"].insert(0, block(b, 2, 0)),
        "must have a single result",
    ),
    "ids_twice": (lambda b: block(b, 1, 3).update(id="toolu_1"), "must be unique"),
    "call_by_the_user": (
        lambda b: b["messages"][0]["content"].append(block(b, 1, 2)),
        "can only be in `assistant` messages",
    ),
    "result_by_the_assistant": (
        lambda b: b["messages"][1]["content"].append(block(b, 2, 0)),
        "can only be in `user` messages",
    ),
    "changed_thought": (
        lambda b: block(b, 1, 0).update(thinking="hm!"),
        "messages.1.content.0: Invalid `signature` in `thinking` block",
    ),
    "no_signature": (lambda b: block(b, 1, 0).update(signature=""), "Invalid `signature`"),
    "foreign_signature": (
        lambda b: block(b, 1, 0).update(signature=sign("google", "hm")),
        "Invalid `signature`",
    ),
    "foreign_redacted_thought": (
        lambda b: block(b, 1, 1).update(data=sealed("openai", "hm")),
        "Invalid `data` in `redacted_thinking` block",
    ),
    "thought_not_first_in_an_open_loop": (
        lambda b: b["messages"][1]["content"].insert(0, {"type": "text", "text": "so"}),
        "must start with a thinking block",
    ),
    "no_thought_in_an_open_loop": (
        lambda b: b["messages"][1].update(content=b["messages"][1]["content"][2:]),
        "Expected `thinking` or `redacted_thinking`, but found `tool_use`",
    ),
    "small_budget": (lambda b: b["thinking"].update(budget_tokens=1_023), "equal to 1024"),
    "budget_above_maximum": (lambda b: b.update(max_tokens=1_024), "`max_tokens` must be greater"),
    "temperature_with_thinking": (lambda b: b.update(temperature=0.5), "`temperature`"),
    "forced_tool_with_thinking": (
        lambda b: b.update(tool_choice={"type": "any"}),
        "Thinking may not be enabled when tool_choice forces tool use.",
    ),
    "both_samplings": (
        lambda b: b.pop("thinking") and b.update(temperature=0.5, top_p=0.5),
        "cannot both be specified",
    ),
    "tools_of_one_name": (lambda b: b["tools"].append(b["tools"][0]), "names must be unique"),
    "schema_without_type": (
        lambda b: b["tools"][0].update(input_schema={}),
        "tools.0.input_schema.type: Field required",
    ),
    "unknown_choice": (
        lambda b: b.pop("thinking") and b.update(tool_choice={"type": "tool", "name": "put"}),
        "Tool 'put' not found",
    ),
    "choice_without_tools": (
        lambda b: b.pop("tools") and b.update(tool_choice={"type": "auto"}),
        "only be specified while providing tools",
    ),
    "open_schema_in_strict_tool": (
        lambda b: b["tools"][0].update(strict=True),
        "'additionalProperties' must be explicitly set to false",
    ),
    "open_schema_of_the_answer": (
        lambda b: b.update(output_config={"format": {"type": "json_schema", "schema": SCHEMA}}),
        "output_config.format.schema: For 'object' type",
    ),
    "bound_in_the_schema_of_the_answer": (
        lambda b: b.update(
            output_config={
                "format": {"type": "json_schema", "schema": {"type": "integer", "minimum": 1}}
            }
        ),
        "For 'integer' type, property 'minimum' is not supported",
    ),
    "adaptive_thinking_of_an_older_model": (
        lambda b: b.update(thinking={"type": "adaptive"}),
        "adaptive thinking is not supported on this model",
    ),
    "image_type": (
        lambda b: block(b, 0, 0)["source"].update(media_type="image/tiff"),
        "media_type: Input should be 'image/jpeg'",
    ),
    "image_data": (lambda b: block(b, 0, 0)["source"].update(data="?"), "data: Input should be"),
    "blank_stop": (lambda b: b.update(stop_sequences=[" "]), "must contain non-whitespace"),
}


def test_the_good_request_is_good() -> None:
    check(GOOD)
    without = changed(GOOD, lambda b: b.pop("max_tokens"))
    check(without, counting=True)
    check(changed(GOOD, lambda b: b.update(context_management={})), beta=True)
    check({"model": HAIKU, "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}] * 2})


@pytest.mark.parametrize("rule", RULES)
def test_rule(rule: str) -> None:
    change, words = RULES[rule]
    assert words in str(refusal_of(check, changed(GOOD, change)))


def test_no_field_of_the_official_sdk_is_unknown() -> None:
    names = (*MessageCreateParamsBase.__annotations__, "stream")
    assert unknown_fields(check, GOOD, (*names, "frob")) == {"frob"}


def test_it_is_refused_in_anthropics_shape(demo: Demo, anthropic_sdk: anthropic.Anthropic) -> None:
    demo.faults("anthropic", strict=True)
    anthropic_sdk.messages.create(model=HAIKU, max_tokens=5, messages=MESSAGES)
    anthropic_sdk.messages.count_tokens(model=HAIKU, messages=MESSAGES)
    with pytest.raises(anthropic.BadRequestError) as caught:
        anthropic_sdk.messages.create(
            model=HAIKU, max_tokens=5, messages=MESSAGES, extra_body={"frob": 1}
        )
    body: Any = caught.value.body
    assert body["error"] == {
        "type": "invalid_request_error",
        "message": "frob: Extra inputs are not permitted",
    }
    with pytest.raises(anthropic.BadRequestError):
        anthropic_sdk.messages.count_tokens(model=HAIKU, messages=MESSAGES, extra_body={"frob": 1})
    assert [line["status"] for line in demo.bill(2)] == [200, 400]


def test_a_tool_loop_with_thinking_comes_back_unchanged(
    demo: Demo, anthropic_sdk: anthropic.Anthropic
) -> None:
    demo.faults("anthropic", strict=True, answer="thinking_tools")
    asked: Json = {**GOOD, "messages": list(MESSAGES)}
    with anthropic_sdk.messages.stream(**asked) as stream:
        message = stream.get_final_message()
    asked["messages"] += [
        {"role": "assistant", "content": message.content},
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": message.content[1].id, "content": "ok"}
            ],
        },
    ]
    assert anthropic_sdk.messages.create(**asked).stop_reason == "tool_use"
    message.content[0].thinking += "!"
    with pytest.raises(anthropic.BadRequestError, match="Invalid `signature`"):
        anthropic_sdk.messages.create(**asked)
