"""Conversations as chat requests: each is a request of the official SDK's own type."""

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
from openai.types.chat import completion_create_params
from pydantic import TypeAdapter

from extproc.demo.strict.openai_chat import check
from extproc.dialects.codec import TargetFacts
from extproc.dialects.conversation import (
    AnswerFormat,
    CacheMark,
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
from extproc.dialects.openai_chat.reading import read_request
from extproc.dialects.openai_chat.writing import write_request
from extproc.wire.call_ids import fitting_call_id

PLAIN = TargetFacts("gpt-4o-mini", Vendor.OPENAI, base_path="/v1")
THINKER = TargetFacts("gpt-5-mini", Vendor.OPENAI, base_path="/v1")
CHECK = TypeAdapter(completion_create_params.CompletionCreateParamsNonStreaming)


def written(*turns: Turn, facts: TargetFacts = PLAIN, **fields: Any) -> dict[str, Any]:
    request = write_request(Conversation("asked", list(turns), **fields), facts)
    document: dict[str, Any] = json.loads(request.body)
    CHECK.validate_python({key: value for key, value in document.items() if key != "stream"})
    return document


def test_the_path_and_the_model_are_the_targets() -> None:
    request = write_request(Conversation("asked", [user(Text("hi"))]), PLAIN)
    assert request.path == "/v1/chat/completions"
    assert json.loads(request.body) == {
        "model": "gpt-4o-mini",
        "messages": [{"role": "user", "content": "hi"}],
    }


def test_system_blocks_stay_apart_and_cache_marks_need_no_word() -> None:
    document = written(user(Text("hi")), system=[Text("a", CacheMark()), Text("b")])
    assert document["messages"][0] == {
        "role": "system",
        "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
    }


def test_results_come_before_what_is_said_beside_them_and_their_images_follow() -> None:
    document = written(
        user(Text("do")),
        assistant(Text("so"), ToolCall("c1", "f", '{"a":1}'), ToolCall("c2", "g", "{}")),
        user(
            ToolResult("c1", [Text("one"), Media("image", "image/png", data="QQ==")]),
            ToolResult("c2", [Text("bad")], is_error=True),
            Text("go on"),
        ),
    )
    assert document["messages"][1]["tool_calls"][0]["function"]["arguments"] == '{"a":1}'
    first, second, after = document["messages"][2:]
    assert first == {"role": "tool", "tool_call_id": "c1", "content": "one"}
    assert [part["text"] for part in second["content"]] == ["The tool failed:", "bad"]
    assert [part["type"] for part in after["content"]] == ["text", "image_url", "text"]
    assert after["content"][1]["image_url"]["url"] == "data:image/png;base64,QQ=="


def test_another_vendors_thinking_is_not_given_on() -> None:
    document = written(
        user(Text("x")),
        assistant(Thinking("hm", "sig", Vendor.ANTHROPIC), Text("y")),
        assistant(Thinking("only")),
        user(Text("z")),
    )
    assert [message["role"] for message in document["messages"]] == ["user", "assistant", "user"]
    assert "hm" not in json.dumps(document)


def test_a_refusal_goes_back_as_one() -> None:
    document = written(user(Text("x")), assistant(Refused("no")), user(Text("why")))
    assert document["messages"][1]["content"] == [{"type": "refusal", "refusal": "no"}]


def test_tools_choice_format_and_limits() -> None:
    schema = {"type": "object", "additionalProperties": False}
    document = written(
        user(Text("x")),
        tools=[Tool("f", "d", schema, True)],
        tool_choice=ToolChoice("named", "f"),
        parallel_tools=False,
        answer_format=AnswerFormat(schema, "n", strict=True),
        max_output_tokens=7,
        stop=["s"],
        temperature=0.5,
        seed=3,
        end_user="u",
    )
    assert document["tools"][0]["function"] == {
        "name": "f", "description": "d", "parameters": schema, "strict": True,
    }  # fmt: skip
    assert document["tool_choice"] == {"type": "function", "function": {"name": "f"}}
    assert document["response_format"]["json_schema"]["schema"] == schema
    assert (document["max_tokens"], document["stop"], document["user"]) == (7, ["s"], "u")


def test_a_stream_asks_for_its_usage() -> None:
    document = written(user(Text("x")), stream=True)
    assert document["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    ("wish", "effort"),
    [
        (ThinkingWish("off"), "minimal"),
        (ThinkingWish("budget", 1_024), "low"),
        (ThinkingWish("budget", 10_000), "medium"),
        (ThinkingWish("budget", 32_000), "high"),
        (ThinkingWish("adaptive"), "medium"),
        (ThinkingWish("effort", effort="xhigh"), "high"),
    ],
)
def test_thinking_becomes_an_effort_where_the_model_thinks(wish: ThinkingWish, effort: str) -> None:
    document = written(user(Text("x")), facts=THINKER, thinking=wish, max_output_tokens=9)
    assert document["reasoning_effort"] == effort
    assert document["max_completion_tokens"] == 9


def test_a_model_that_does_not_think_is_not_asked_to_and_that_is_told() -> None:
    conversation = Conversation("m", [user(Text("x"))], thinking=ThinkingWish("budget", 2_000))
    request = write_request(conversation, PLAIN)
    assert b"reasoning" not in request.body
    assert request.dropped == ("thinking",)


@pytest.mark.parametrize(
    ("conversation", "param"),
    [
        (Conversation("m", [user(Text("x"))], top_k=4), "top_k"),
        (Conversation("m", [user(Text("x"))], stop=list("abcde")), "stop_sequences"),
        (Conversation("m", [user(Text("x"))], extra={"novel": 1}), "novel"),
        (Conversation("m", [user(Media("document", "", url="https://x"))]), "messages[0]"),
        (Conversation("m", [user(Media("image", "", file_id="f"))]), "messages[0]"),
    ],
)
def test_what_openai_cannot_be_told_is_refused_by_name(
    conversation: Conversation, param: str
) -> None:
    with pytest.raises(UntranslatableError) as caught:
        write_request(conversation, PLAIN)
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
        tools=[Tool("f", "d", {"type": "object"}, strict=False)],
        tool_choice=ToolChoice("required"),
        max_output_tokens=5,
        temperature=0.25,
        stop=["x", "y"],
    )
    assert read_request(write_request(conversation, PLAIN).body) == conversation


# -- what the real API refuses --------------------------------------------------------------------

CLOSED = {"type": "object", "properties": {"a": {}}, "additionalProperties": False}


def openai(model: str) -> TargetFacts:
    return TargetFacts(model, Vendor.OPENAI)


def strictly(*turns: Turn, facts: TargetFacts = PLAIN, **fields: Any) -> dict[str, Any]:
    document = written(*turns, facts=facts, **fields)
    check(document)
    return document


def dropped(*turns: Turn, facts: TargetFacts = PLAIN, **fields: Any) -> tuple[str, ...]:
    return write_request(Conversation("asked", list(turns), **fields), facts).dropped


def test_long_ids_have_a_short_form_for_call_result_and_image() -> None:
    name = "toolu_" + "x" * 60
    image = Media("image", "image/png", data="QQ==")
    turns = [user(Text("x")), assistant(ToolCall(name, "f", "{}"))]
    document = strictly(*turns, user(ToolResult(name, [Text("1"), image])))
    _, call, result, shown = document["messages"]
    short = call["tool_calls"][0]["id"]
    assert result["tool_call_id"] == short
    assert short in shown["content"][0]["text"]
    assert strictly(*turns, user(ToolResult(name, [Text("2")])))["messages"][1] == call


@pytest.mark.parametrize("model", ["gpt-5", "o3", "gpt-5.1", "gpt-5.6"])
def test_sampling_and_efforts_are_those_of_the_model(model: str) -> None:
    wish = ThinkingWish("effort", effort="low")
    fields: dict[str, Any] = {"thinking": wish, "temperature": 0.2, "top_p": 1}
    document = strictly(user(Text("x")), facts=openai(model), **fields)
    assert document["reasoning_effort"] == "low"
    assert dropped(user(Text("x")), facts=openai(model), **fields) == ("temperature",)


def test_newer_models_do_not_think_beside_tools() -> None:
    fields: dict[str, Any] = {
        "thinking": ThinkingWish("effort", effort="low"),
        "tools": [Tool("f", "d", CLOSED)],
    }
    assert "reasoning_effort" in strictly(user(Text("x")), facts=openai("gpt-5.1"), **fields)
    assert "reasoning_effort" not in strictly(user(Text("x")), facts=openai("gpt-5.4"), **fields)
    document = strictly(user(Text("x")), facts=openai("gpt-5.6"), **fields)
    assert document["reasoning_effort"] == "none"
    assert dropped(user(Text("x")), facts=openai("gpt-5.6"), **fields) == ("thinking",)


def test_a_schema_with_keys_that_may_be_absent_is_followed_but_not_held_to() -> None:
    wanted = AnswerFormat(CLOSED, "n", strict=True)
    tools = [Tool("f", "d", CLOSED, strict=True)]
    document = strictly(user(Text("x")), answer_format=wanted, tools=tools)
    assert document["response_format"]["json_schema"]["strict"] is False
    assert dropped(user(Text("x")), answer_format=wanted, tools=tools) == (
        "tools.f.strict", "response_format.strict",
    )  # fmt: skip


def test_long_users_names_and_json_without_the_word() -> None:
    assert len(strictly(user(Text("x")), end_user="u" * 65)["user"]) == 64
    with pytest.raises(UntranslatableError, match="tools"):
        strictly(user(Text("x")), tools=[Tool("x" * 65, "d", CLOSED)])
    document = strictly(user(Text("x")), answer_format=AnswerFormat())
    assert document["messages"][0]["role"] == "system"
    assert len(strictly(user(Text("JSON!")), answer_format=AnswerFormat())["messages"]) == 1


MODELS = (
    "gpt-4o", "gpt-5", "gpt-5-codex", "gpt-5-pro", "gpt-5-chat-latest", "o3", "gpt-5.1", "gpt-5.4",
    "gpt-5.6",
)  # fmt: skip


@given(conversations(), st.sampled_from(MODELS))
def test_whatever_is_written_openai_takes(conversation: Conversation, model: str) -> None:
    with contextlib.suppress(UntranslatableError):  # refused by us, and by name
        check(json.loads(write_request(conversation, openai(model)).body))


@given(conversations())
def test_there_and_back_only_what_is_documented_is_lost(conversation: Conversation) -> None:
    request = write_request(conversation, openai("gpt-4o"))
    back = read_request(request.body)
    assert changed_parts(back.turns, _kept_part) == changed_parts(conversation.turns, _kept_part)
    assert _media_bytes(back.turns) == _media_bytes(conversation.turns)
    wanted = conversation.answer_format
    said = conversation.system
    if back.system != said:
        assert wanted is not None  # "JSON" had to be said
        assert wanted.schema is None
        assert back.system[1:] == said
    assert back.tools == conversation.tools
    assert back.answer_format == wanted
    if conversation.tools:
        assert back.tool_choice == conversation.tool_choice
        assert back.parallel_tools == conversation.parallel_tools
    for key in ("max_output_tokens", "temperature", "top_p", "stop", "stream"):
        assert getattr(back, key) == getattr(conversation, key)
    assert back.end_user == end_user_id(conversation.end_user, 64)
    assert back.thinking is None


def _kept_part(part: Part) -> Part | None:
    """Not: thoughts, signatures, empty text, odd ids, that a tool failed (which is said in words),
    media in results (which follow as the user's), documents as such."""
    if isinstance(part, Text):
        return part if part.text and not part.text.startswith("Returned by tool call") else None
    if isinstance(part, ToolCall):
        return replace(part, call_id=fitting_call_id(part.call_id, 40), signature="")
    if isinstance(part, ToolResult):
        call_id = fitting_call_id(part.call_id, 40)
        said = [_kept_part(one) for one in part.parts]
        texts = [one for one in said if isinstance(one, Text) and one.text]
        failed = [Text("The tool failed:")] if part.is_error else []
        return replace(part, call_id=call_id, is_error=False, parts=[*failed, *texts])
    if isinstance(part, Media) and part.text:
        return Text(f"{part.name}\n\n{part.text}" if part.name else part.text)
    return None if isinstance(part, Thinking | Media) else part


def _media_bytes(turns: list[Turn]) -> list[str]:
    parts = [part for turn in turns for part in turn.parts]
    parts += [said for part in parts if isinstance(part, ToolResult) for said in part.parts]
    return sorted(part.data for part in parts if isinstance(part, Media) and part.data)
