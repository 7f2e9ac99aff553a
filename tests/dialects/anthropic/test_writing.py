"""Conversations as messages requests: each is a request of the official SDK's own type."""

from __future__ import annotations

import json
from typing import Any

import pytest
from anthropic.types import message_create_params
from dialect_turns import assistant, user
from pydantic import TypeAdapter

from extproc.dialects.anthropic.reading import read_request
from extproc.dialects.anthropic.writing import write_request
from extproc.dialects.codec import TargetFacts
from extproc.dialects.conversation import (
    AnswerFormat,
    CacheMark,
    Conversation,
    Media,
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
