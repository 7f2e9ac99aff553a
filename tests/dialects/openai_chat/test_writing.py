"""Conversations as chat requests: each is a request of the official SDK's own type."""

from __future__ import annotations

import json
from typing import Any

import pytest
from dialect_turns import assistant, user
from openai.types.chat import completion_create_params
from pydantic import TypeAdapter

from extproc.dialects.codec import TargetFacts
from extproc.dialects.conversation import (
    AnswerFormat,
    CacheMark,
    Conversation,
    Media,
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
from extproc.dialects.openai_chat.reading import read_request
from extproc.dialects.openai_chat.writing import write_request

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
    schema = {"type": "object"}
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
        (ThinkingWish("off"), "none"),
        (ThinkingWish("budget", 1_024), "low"),
        (ThinkingWish("budget", 10_000), "medium"),
        (ThinkingWish("budget", 32_000), "high"),
        (ThinkingWish("adaptive"), "medium"),
        (ThinkingWish("effort", effort="xhigh"), "xhigh"),
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
