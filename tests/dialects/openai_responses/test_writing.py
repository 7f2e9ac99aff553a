"""Conversations as Responses requests: each is a request of the official SDK's own type."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from typing import Any

import pytest
from dialect_conversations import changed_parts, conversations
from dialect_turns import assistant, user
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import response_create_params
from pydantic import TypeAdapter

from extproc.demo.signatures import sealed
from extproc.demo.strict.openai_responses import check
from extproc.dialects.codec import TargetFacts
from extproc.dialects.conversation import (
    AnswerFormat,
    Conversation,
    Media,
    Part,
    Refused,
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
from extproc.dialects.openai_responses.reading import read_request
from extproc.dialects.openai_responses.writing import write_request
from extproc.wire.call_ids import fitting_call_id

THINKER = TargetFacts("gpt-5-mini", Vendor.OPENAI, base_path="/v1")
PLAIN = TargetFacts("gpt-4o-mini", Vendor.OPENAI, base_path="/v1")
CHECK: TypeAdapter[Any] = TypeAdapter(response_create_params.ResponseCreateParamsNonStreaming)


def written(*turns: Turn, facts: TargetFacts = PLAIN, **fields: Any) -> dict[str, Any]:
    request = write_request(Conversation("asked", list(turns), **fields), facts)
    document: dict[str, Any] = json.loads(request.body)
    CHECK.validate_python({key: value for key, value in document.items() if key != "stream"})
    return document


def test_nothing_is_stored_and_the_path_is_the_targets() -> None:
    request = write_request(Conversation("asked", [user(Text("hi"))]), PLAIN)
    assert request.path == "/v1/responses"
    assert json.loads(request.body)["store"] is False


def test_calls_results_and_thoughts_are_items_between_messages() -> None:
    document = written(
        user(Text("do"), Media("image", "image/png", data="QQ==")),
        assistant(
            Thinking("hm", "enc", Vendor.OPENAI, item_id="rs_1"),
            Thinking("foreign", "s", Vendor.ANTHROPIC),
            Text("so"),
            ToolCall("c1", "f", "{}"),
        ),
        user(
            ToolResult("c1", [Text("one"), Media("image", "", url="https://x")], True),
            Text("and?"),
        ),
    )
    assert [item["type"] for item in document["input"]] == [
        "message", "reasoning", "message", "function_call", "function_call_output", "message",
    ]  # fmt: skip
    assert document["input"][1]["encrypted_content"] == "enc"
    output = document["input"][4]["output"]
    assert [part["type"] for part in output] == ["input_text", "input_text", "input_image"]


def test_a_model_that_thinks_gives_its_thoughts_along() -> None:
    wish = ThinkingWish("budget", 10_000)
    document = written(user(Text("x")), facts=THINKER, thinking=wish)
    assert document["reasoning"] == {"effort": "medium", "summary": "auto"}
    assert document["include"] == ["reasoning.encrypted_content"]
    conversation = Conversation("m", [user(Text("x"))], thinking=wish, seed=1)
    assert write_request(conversation, PLAIN).dropped == ("seed", "thinking")


def test_tools_choice_and_formats() -> None:
    schema = {"type": "object"}
    document = written(
        user(Text("x")),
        tools=[Tool("f", "d", schema)],
        tool_choice=ToolChoice("named", "f"),
        parallel_tools=False,
        answer_format=AnswerFormat(schema, "n", strict=True),
        max_output_tokens=70,
    )
    assert document["tools"] == [
        {"type": "function", "name": "f", "description": "d", "parameters": schema,
         "strict": False},
    ]  # fmt: skip
    assert document["tool_choice"] == {"type": "function", "name": "f"}
    assert document["text"]["format"]["name"] == "n"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"choices": 2}, "n"),
        ({"stop": ["x"]}, "stop"),
        ({"top_k": 1}, "top_k"),
        ({"presence_penalty": 1.0}, "presence_penalty"),
        ({"logit_bias": {"1": 1}}, "logit_bias"),
        ({"extra": {"novel": 1}}, "novel"),
    ],
)
def test_what_it_cannot_be_told_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(UntranslatableError) as caught:
        write_request(Conversation("m", [user(Text("x"))], **fields), PLAIN)
    assert caught.value.param == param


def test_there_and_back_is_the_same_conversation() -> None:
    conversation = Conversation(
        "gpt-4o-mini",
        [
            user(Text("do"), Media("image", "image/png", data="QQ==", detail="low")),
            assistant(Text("so"), ToolCall("c1", "f", '{"a": [1, 2] }')),
            user(ToolResult("c1", [Text("one")], name="f"), Text("more")),
        ],
        system=[Text("be brief")],
        tools=[Tool("f", "d", {"type": "object", "additionalProperties": False}, strict=True)],
        tool_choice=ToolChoice("required"),
        max_output_tokens=50,
        temperature=0.25,
        dropped=["store"],
    )
    assert read_request(write_request(conversation, PLAIN).body) == conversation


# -- what the real API refuses --------------------------------------------------------------------


def openai(model: str) -> TargetFacts:
    return TargetFacts(model, Vendor.OPENAI)


def strictly(*turns: Turn, facts: TargetFacts = PLAIN, **fields: Any) -> dict[str, Any]:
    document = written(*turns, facts=facts, **fields)
    check(document)
    return document


def test_ids_results_and_thoughts_are_those_that_openai_takes() -> None:
    name = "x" * 65
    thought = Thinking("hm", sealed("openai", "hm"), Vendor.OPENAI)
    document = strictly(
        user(Text("x")),
        assistant(ToolCall(name, "f", "{}")),
        user(ToolResult(name, [])),
        assistant(Text("so"), thought),  # cut before anything followed
    )
    _, call, result, _ = document["input"]
    assert call["call_id"] == result["call_id"]
    assert result["output"] == ""


def test_a_thought_with_nothing_but_blank_text_after_it_is_left_out() -> None:
    thought = Thinking("hm", sealed("openai", "hm"), Vendor.OPENAI)
    assert len(strictly(user(Text("x")), assistant(thought, Text("")))["input"]) == 1


@pytest.mark.parametrize("model", ["gpt-5", "o3", "gpt-5.1"])
def test_sampling_and_efforts_are_those_of_the_model(model: str) -> None:
    fields: dict[str, Any] = {"thinking": ThinkingWish("effort", effort="low"), "temperature": 0.2}
    strictly(user(Text("x")), facts=openai(model), **fields)
    conversation = Conversation("m", [user(Text("x"))], **fields)
    assert write_request(conversation, openai(model)).dropped == ("temperature",)


def test_a_maximum_is_never_raised_and_a_long_user_short() -> None:
    with pytest.raises(UntranslatableError, match="max_tokens"):
        strictly(user(Text("x")), max_output_tokens=15)
    assert len(strictly(user(Text("x")), end_user="u" * 65)["safety_identifier"]) == 64
    document = strictly(user(Text("x")), answer_format=AnswerFormat())
    assert "JSON" in document["input"][0]["content"]


MODELS = ("gpt-4o", "gpt-5", "gpt-5-codex", "o3", "gpt-5.1", "gpt-5.6")


@given(conversations(), st.sampled_from(MODELS))
def test_whatever_is_written_openai_takes(conversation: Conversation, model: str) -> None:
    with contextlib.suppress(UntranslatableError):  # refused by us, and by name
        check(json.loads(write_request(conversation, openai(model)).body))


@given(conversations())
def test_there_and_back_only_what_is_documented_is_lost(conversation: Conversation) -> None:
    conversation.stop = []
    request = write_request(conversation, openai("gpt-5.1"))
    back = read_request(request.body)
    assert changed_parts(back.turns, _kept_part) == _without_last_thought(
        changed_parts(conversation.turns, _kept_part)
    )
    said = "\n\n".join(text.text for text in conversation.system)
    assert (back.system[0].text if back.system and said else "") == said
    assert [(t.name, t.description, t.schema) for t in back.tools] == [
        (t.name, t.description, t.schema) for t in conversation.tools
    ]
    wanted = conversation.answer_format
    assert back.answer_format == wanted
    if conversation.tools:
        assert back.tool_choice == conversation.tool_choice
        assert back.parallel_tools == conversation.parallel_tools
    assert back.max_output_tokens == conversation.max_output_tokens
    assert back.end_user == end_user_id(conversation.end_user, 64)
    for key in ("temperature", "top_p"):
        value = getattr(conversation, key)
        assert getattr(back, key) == value or value == 1 or key in request.dropped
    assert (back.thinking is None) == (conversation.thinking is None)


def _kept_part(part: Part) -> Part | None:
    """Not: others' thoughts, signatures, odd ids, that a tool failed or an answer is a refusal
    (which is said in words), documents as such."""
    if isinstance(part, Refused):
        return Text(part.text)
    if isinstance(part, Thinking):
        return part if part.vendor is Vendor.OPENAI and part.signature else None
    if isinstance(part, ToolCall):
        return replace(part, call_id=fitting_call_id(part.call_id, 64), signature="")
    if isinstance(part, ToolResult):
        call_id = fitting_call_id(part.call_id, 64)
        told = [said for said in map(_kept_said, part.parts) if said is not None]
        failed = [Text("The tool failed:")] if part.is_error else []
        return replace(part, call_id=call_id, is_error=False, parts=[*failed, *told], name="")
    return _kept_said(part)


def _kept_said(part: Text | Media) -> Text | Media | None:
    if isinstance(part, Text):
        return part if part.text else None
    if part.text:
        return Text(f"{part.name}\n\n{part.text}" if part.name else part.text)
    if part.kind == "image":
        return replace(part, detail="auto")
    return replace(part, name=part.name or "document.pdf")


def _without_last_thought(turns: list[Turn]) -> list[Turn]:
    """OpenAI takes no thought that nothing follows in its turn."""
    for turn in turns:
        while turn.parts and isinstance(turn.parts[-1], Thinking):
            turn.parts.pop()
    return changed_parts(turns, lambda part: part)
