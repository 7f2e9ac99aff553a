"""Conversations as messages requests: each is a request of the official SDK's own type."""

from __future__ import annotations

import contextlib
import copy
import json
from dataclasses import replace
from typing import Any

import pytest
from anthropic.types import message_create_params
from dialect_conversations import changed_parts, conversations, plain_json
from dialect_turns import assistant, user
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from extproc.demo.strict.anthropic_messages import check
from extproc.dialects.anthropic.reading import read_request
from extproc.dialects.anthropic.writing import write_request
from extproc.dialects.codec import TargetFacts
from extproc.dialects.conversation import (
    AnswerFormat,
    CacheMark,
    Conversation,
    Media,
    Part,
    Refused,
    Role,
    Text,
    Thinking,
    ThinkingWish,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
    UntranslatableError,
    Vendor,
)
from extproc.dialects.end_user import end_user_id
from extproc.wire.call_ids import fitting_call_id

FACTS = TargetFacts("claude-haiku-4-5", Vendor.ANTHROPIC, headers=(("anthropic-beta", "b"),))
CHECK = TypeAdapter(message_create_params.MessageCreateParamsNonStreaming)


def written(*turns: Turn, **fields: Any) -> dict[str, Any]:
    fields.setdefault("max_output_tokens", 8_000)
    request = write_request(Conversation("asked", list(turns), **fields), FACTS)
    document: dict[str, Any] = json.loads(request.body)
    CHECK.validate_python({key: value for key, value in document.items() if key != "stream"})
    return document


def dropped(*turns: Turn, **fields: Any) -> tuple[str, ...]:
    return write_request(Conversation("asked", list(turns), **fields), FACTS).dropped


def test_path_headers_model_and_maximum() -> None:
    request = write_request(Conversation("asked", [user(Text("hi"))]), FACTS)
    assert request.path == "/v1/messages"
    assert request.headers == (("anthropic-version", "2023-06-01"), ("anthropic-beta", "b"))
    assert json.loads(request.body) == {
        "model": "claude-haiku-4-5",
        "max_tokens": 4_096,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
    }


def test_cache_marks_are_kept_wherever_they_are() -> None:
    mark = CacheMark("1h")
    document = written(
        user(Text("hi", mark), Media("image", "image/png", data="QQ", cache=mark)),
        system=[Text("a", mark)],
        tools=[Tool("f", "", {"type": "object"}, cache=mark)],
    )
    assert json.dumps(document).count('"ttl": "1h"') == 4


def test_tool_results_come_first_and_keep_their_images_and_errors() -> None:
    document = written(
        user(Text("do")),
        assistant(ToolCall("t1", "f", '{"a":1}'), ToolCall("t2", "g", "")),
        user(
            Text("and?"),
            ToolResult("t1", [Text("one"), Media("image", "", url="https://x")]),
            ToolResult("t2", [], is_error=True),
        ),
    )
    calls = document["messages"][1]["content"]
    assert [call["input"] for call in calls] == [{"a": 1}, {}]
    results = document["messages"][2]["content"]
    assert [block["type"] for block in results] == ["tool_result", "tool_result", "text"]
    assert results[0]["content"][1]["source"] == {"type": "url", "url": "https://x"}
    assert results[1] == {"type": "tool_result", "tool_use_id": "t2", "is_error": True}


def test_signed_thinking_goes_back_to_its_vendor_and_no_other_does() -> None:
    document = written(
        user(Text("x")),
        assistant(
            Thinking("hm", "s", Vendor.ANTHROPIC),
            Thinking("", "r", Vendor.ANTHROPIC, redacted=True),
            Thinking("foreign", "o", Vendor.OPENAI),
            Text("y"),
        ),
        user(Text("z")),
    )
    assert [block["type"] for block in document["messages"][1]["content"]] == [
        "thinking",
        "redacted_thinking",
        "text",
    ]


@pytest.mark.parametrize(
    ("wish", "thinking"),
    [
        (ThinkingWish("budget", 2_000), {"type": "enabled", "budget_tokens": 2_000}),
        (ThinkingWish("effort", effort="low"), {"type": "enabled", "budget_tokens": 2_048}),
        (ThinkingWish("effort", effort="high"), {"type": "enabled", "budget_tokens": 4_000}),
        (ThinkingWish("adaptive"), {"type": "enabled", "budget_tokens": 4_000}),
        (ThinkingWish("off"), None),
        (ThinkingWish("effort", effort="none"), None),
    ],
)
def test_wishes_to_think(wish: ThinkingWish, thinking: Any) -> None:
    assert written(user(Text("x")), thinking=wish).get("thinking") == thinking


def test_thinking_is_left_out_and_told_where_anthropic_would_refuse_it() -> None:
    loop = [
        user(Text("do")),
        assistant(ToolCall("t1", "f", "{}")),
        user(ToolResult("t1", [Text("x")])),
    ]
    wish = ThinkingWish("effort", effort="low")
    assert dropped(*loop, thinking=wish, max_output_tokens=8_000) == ("thinking",)
    assert dropped(user(Text("x")), thinking=wish, max_output_tokens=1_500) == ("thinking",)
    forced = ToolChoice("required")
    tools = [Tool("f", "", {"type": "object"})]
    assert dropped(user(Text("x")), thinking=wish, tools=tools, tool_choice=forced) == ("thinking",)
    with pytest.raises(UntranslatableError, match="budget_tokens"):
        dropped(user(Text("x")), thinking=ThinkingWish("budget", 500), max_output_tokens=8_000)


def test_temperature_is_left_out_and_told_while_it_thinks() -> None:
    wish = ThinkingWish("budget", 2_000)
    fields = {"thinking": wish, "temperature": 0.2, "max_output_tokens": 8_000}
    assert dropped(user(Text("x")), **fields) == ("temperature",)
    assert written(user(Text("x")), temperature=0.2)["temperature"] == 0.2


def test_formats() -> None:
    schema = {"type": "object", "additionalProperties": False}
    document = written(user(Text("x")), answer_format=AnswerFormat(schema, "n"))
    assert document["output_config"]["format"] == {"type": "json_schema", "schema": schema}
    document = written(user(Text("x")), answer_format=AnswerFormat())
    assert "JSON" in document["system"][-1]["text"]


def test_choice_and_parallel_tools() -> None:
    tools = [Tool("f", "d", {"type": "object"}, strict=True)]
    document = written(user(Text("x")), tools=tools, parallel_tools=False)
    assert document["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}
    document = written(user(Text("x")), tools=tools, tool_choice=ToolChoice("named", "f"))
    assert document["tool_choice"] == {"type": "tool", "name": "f"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"choices": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"logit_bias": {"1": 1}}, "logit_bias"),
        ({"presence_penalty": 0.1}, "presence_penalty"),
        ({"temperature": 1.5}, "temperature"),
        ({"extra": {"novel": 1}}, "novel"),
    ],
)
def test_what_anthropic_cannot_be_told_is_refused_by_name(
    fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(UntranslatableError) as caught:
        write_request(Conversation("m", [user(Text("x"))], **fields), FACTS)
    assert caught.value.param == param


@pytest.mark.parametrize("arguments", ["{", "[1]", '"x"'])
def test_arguments_that_are_no_object_are_refused_not_lost(arguments: str) -> None:
    with pytest.raises(UntranslatableError, match=r"messages\[1\]"):
        written(user(Text("x")), assistant(ToolCall("t", "f", arguments)))


def test_there_and_back_is_the_same_conversation() -> None:
    conversation = Conversation(
        "claude-haiku-4-5",
        [
            user(Text("do", CacheMark()), Media("image", "image/png", data="QQ==")),
            assistant(
                Thinking("hm", "s", Vendor.ANTHROPIC), Text("so"), ToolCall("c1", "f", '{"a":[1]}')
            ),
            user(ToolResult("c1", [Text("one")], True, "f"), Text("more")),
        ],
        system=[Text("be brief", CacheMark("1h"))],
        tools=[Tool("f", "d", {"type": "object"}, strict=False)],
        tool_choice=ToolChoice("required"),
        max_output_tokens=5,
        temperature=0.25,
        top_k=3,
        stop=["x", "y"],
        end_user="u",
        stream=True,
    )
    assert read_request(write_request(conversation, FACTS).body) == conversation


# -- what the real API refuses --------------------------------------------------------------------


def strictly(*turns: Turn, model: str = "claude-haiku-4-5", **fields: Any) -> dict[str, Any]:
    facts = TargetFacts(model, Vendor.ANTHROPIC, 64_000)
    document: dict[str, Any] = json.loads(
        write_request(Conversation("asked", list(turns), **fields), facts).body
    )
    check(copy.deepcopy(document))
    return document


def test_ids_that_anthropic_refuses_have_a_short_form_for_call_and_result() -> None:
    calls = [ToolCall(name, "f", "{}") for name in ("a.b:c", "x" * 65, "fine")]
    document = strictly(
        user(Text("x")), assistant(*calls), user(*(ToolResult(c.call_id, []) for c in calls))
    )
    ids = [block["id"] for block in document["messages"][1]["content"]]
    assert ids == [block["tool_use_id"] for block in document["messages"][2]["content"]]
    assert ids[2] == "fine"


def test_turns_are_those_that_claude_takes() -> None:
    document = strictly(
        assistant(Text("Hello.")), user(Text(" ")), user(Text("x")), assistant(Text("so \n")),
        system=[Text("")],
    )  # fmt: skip
    assert [message["role"] for message in document["messages"]] == [
        "user", "assistant", "user", "assistant",
    ]  # fmt: skip
    assert document["messages"][-1]["content"][0]["text"] == "so"
    assert "system" not in document
    assert dropped(assistant(Text("Hello."))) == ("messages[0].role",)
    only_system = strictly(system=[Text("Say hello.")])
    assert len(only_system["messages"]) == 1


@pytest.mark.parametrize("model", ["claude-haiku-4-5", "claude-opus-4-1", "claude-opus-4-7"])
def test_sampling_is_what_the_model_takes(model: str) -> None:
    strictly(user(Text("x")), model=model, temperature=0.2, top_p=0.9)


def test_a_schema_is_closed_and_its_bounds_are_told() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}}
    wanted = AnswerFormat(schema, "n", strict=True)
    tools = [Tool("f", "", schema, strict=True), Tool("g", "", schema)]
    document = strictly(user(Text("x")), answer_format=wanted, tools=tools)
    assert document["output_config"]["format"]["schema"]["additionalProperties"] is False
    assert document["tools"][1]["input_schema"] == schema
    assert dropped(user(Text("x")), answer_format=wanted) == ("response_format.minimum",)


def test_calls_of_earlier_turns_need_no_tools() -> None:
    strictly(user(Text("x")), assistant(ToolCall("c", "f", "{}")), user(ToolResult("c", [])))


def test_what_only_whitespace_would_stop_is_refused_and_a_long_user_short() -> None:
    with pytest.raises(UntranslatableError, match="stop"):
        strictly(user(Text("x")), stop=["\n"])
    strictly(user(Text("x")), end_user="u" * 257)


MODELS = (
    "claude-3-5-haiku-20241022", "claude-sonnet-4-20250514", "claude-opus-4-1", "claude-haiku-4-5",
    "claude-opus-4-6", "claude-opus-4-8", "claude-sonnet-5", "claude-fable-5",
)  # fmt: skip


@given(conversations(), st.sampled_from(MODELS))
def test_whatever_is_written_anthropic_takes(conversation: Conversation, model: str) -> None:
    facts = TargetFacts(model, Vendor.ANTHROPIC, 64_000)
    with contextlib.suppress(UntranslatableError):  # refused by us, and by name
        check(json.loads(write_request(conversation, facts).body))


@given(conversations())
def test_there_and_back_only_what_is_documented_is_lost(conversation: Conversation) -> None:
    facts = TargetFacts("claude-opus-4-6", Vendor.ANTHROPIC, 64_000)
    try:
        request = write_request(conversation, facts)
    except UntranslatableError:
        return
    back = read_request(request.body)
    assert back.turns == _kept(conversation.turns)
    system = [text for text in conversation.system if text.text.strip()]
    assert back.system[: len(system)] == system
    assert [(t.name, t.description, t.schema) for t in back.tools] == [
        (t.name, t.description, t.schema) for t in conversation.tools
    ]
    assert back.tool_choice in (conversation.tool_choice, None, ToolChoice("auto"))
    assert back.max_output_tokens == (conversation.max_output_tokens or 64_000)
    assert back.end_user == end_user_id(conversation.end_user, 256)
    for key in ("temperature", "top_p"):
        wanted, got = getattr(conversation, key), getattr(back, key)
        assert got == wanted or wanted == 1 or key in request.dropped
    assert (back.stream, back.stop) == (conversation.stream, conversation.stop)
    thinks = back.thinking is not None
    wished = conversation.thinking is not None and conversation.thinking.mode != "off"
    assert thinks == (wished and "thinking" not in request.dropped)


def _kept(turns: list[Turn]) -> list[Turn]:
    """Not: other vendors' thoughts and signatures, blank text, odd ids, how JSON is spaced, that a
    refusal is one, space at the very end; results come first."""

    def change(part: Part) -> Part | None:
        if isinstance(part, Thinking):
            return part if part.vendor is Vendor.ANTHROPIC and part.signature else None
        if isinstance(part, Text):
            return part if part.text.strip() else None
        if isinstance(part, Refused):
            return Text(part.text)
        if isinstance(part, ToolCall):
            call_id = fitting_call_id(part.call_id, 64, plain=True)
            return replace(
                part, call_id=call_id, arguments=plain_json(part.arguments), signature=""
            )
        if isinstance(part, ToolResult):
            call_id = fitting_call_id(part.call_id, 64, plain=True)
            told = [said for said in part.parts if isinstance(said, Media) or said.text.strip()]
            return replace(part, call_id=call_id, parts=[_media(said) for said in told])
        return _media(part)

    kept = changed_parts(turns, change)
    if kept and kept[0].role is Role.ASSISTANT:
        kept.insert(0, user(Text(".")))
    for turn in kept:
        turn.parts.sort(key=lambda part: not isinstance(part, ToolResult))
    last = kept[-1].parts[-1]
    if kept[-1].role is Role.ASSISTANT and isinstance(last, Text):
        kept[-1].parts[-1] = Text(last.text.rstrip())
    return kept


def _media(part: Text | Media) -> Text | Media:
    return replace(part, media_type="text/plain") if isinstance(part, Media) and part.text else part
