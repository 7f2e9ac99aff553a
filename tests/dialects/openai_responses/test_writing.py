"""Conversations as Responses requests: each is a request of the official SDK's own type."""

from __future__ import annotations

import json
from typing import Any

import pytest
from dialect_turns import assistant, user
from openai.types.responses import response_create_params
from pydantic import TypeAdapter

from extproc.dialects.codec import TargetFacts
from extproc.dialects.conversation import (
    AnswerFormat,
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
from extproc.dialects.openai_responses.reading import read_request
from extproc.dialects.openai_responses.writing import write_request

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
