"""Chat requests as the official SDK sends them, read whole or refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from extproc.dialects.conversation import (
    AnswerFormat,
    Conversation,
    Media,
    Refused,
    Role,
    Text,
    ThinkingWish,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
    UntranslatableError,
)
from extproc.dialects.openai_chat.reading import read_request
from extproc.wire.errors import WireError


def read(**fields: Any) -> Conversation:
    document = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}
    return read_request(json.dumps(document).encode())


def messages(*several: Any) -> Conversation:
    return read(messages=list(several))


def test_a_short_question() -> None:
    assert read() == Conversation("m", [Turn(Role.USER, [Text("hi")])])


def test_instructions_are_gathered_and_a_late_one_is_told() -> None:
    conversation = messages(
        {"role": "system", "content": "one"},
        {"role": "developer", "content": [{"type": "text", "text": "two"}]},
        {"role": "user", "content": "hi"},
        {"role": "system", "content": "three"},
    )
    assert [text.text for text in conversation.system] == ["one", "two", "three"]
    assert conversation.dropped == ["messages[3].position"]


def test_images_audio_and_files_keep_their_bytes() -> None:
    conversation = messages(
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "look"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}},
                {"type": "image_url", "image_url": {"url": "https://x/y", "detail": "low"}},
                {"type": "input_audio", "input_audio": {"data": "QQ==", "format": "mp3"}},
                {"type": "file", "file": {"file_data": "data:application/pdf;base64,QQ=="}},
                {"type": "file", "file": {"file_id": "file-1"}},
            ],
        }
    )
    assert conversation.turns[0].parts == [
        Text("look"),
        Media("image", "image/png", data="QUJD"),
        Media("image", "", url="https://x/y", detail="low"),
        Media("audio", "audio/mpeg", data="QQ=="),
        Media("document", "application/pdf", data="QQ=="),
        Media("document", "", file_id="file-1"),
    ]


def test_parallel_tool_calls_and_their_results_are_two_turns() -> None:
    calls = [
        {"id": c, "type": "function", "function": {"name": n, "arguments": '{"a": 1 }'}}
        for c, n in (("c1", "f"), ("c2", "g"))
    ]
    conversation = messages(
        {"role": "user", "content": "do"},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": "one"},
        {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "two"}]},
        {"role": "user", "content": "and?"},
    )
    assert conversation.turns[1:] == [
        Turn(
            Role.ASSISTANT,
            [ToolCall("c1", "f", '{"a": 1 }'), ToolCall("c2", "g", '{"a": 1 }')],
        ),
        Turn(
            Role.USER,
            [
                ToolResult("c1", [Text("one")], name="f"),
                ToolResult("c2", [Text("two")], name="g"),
                Text("and?"),
            ],
        ),
    ]


def test_an_assistants_refusal_is_kept_and_its_empty_text_is_not() -> None:
    conversation = messages(
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "", "refusal": "no"},
        {"role": "assistant", "content": [{"type": "text", "text": "a"}], "annotations": []},
    )
    assert conversation.turns[1] == Turn(Role.ASSISTANT, [Refused("no"), Text("a")])


def test_tools_choice_and_format() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    conversation = read(
        tools=[
            {"type": "function", "function": {"name": "f", "parameters": schema, "strict": True}},
            {"type": "function", "function": {"name": "g", "description": "d"}},
        ],
        tool_choice={"type": "function", "function": {"name": "f"}},
        parallel_tool_calls=False,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "n", "schema": schema, "strict": True},
        },
    )
    assert conversation.tools == [
        Tool("f", "", schema, True),
        Tool("g", "d", {"type": "object", "properties": {}}),
    ]
    assert conversation.tool_choice == ToolChoice("named", "f")
    assert conversation.parallel_tools is False
    assert conversation.answer_format == AnswerFormat(schema, "n", "", True)
    assert read(response_format={"type": "json_object"}).answer_format == AnswerFormat()
    assert read(response_format={"type": "text"}).answer_format is None


def test_limits_and_sampling() -> None:
    conversation = read(
        max_tokens=5, max_completion_tokens=9, temperature=0, top_p=0.5, stop="x", seed=1, n=2,
        logprobs=True, top_logprobs=3, logit_bias={"5": 1}, reasoning_effort="high", user="u",
        stream=True, stream_options={"include_usage": True}, presence_penalty=0.1,
    )  # fmt: skip
    assert conversation.max_output_tokens == 9
    assert (conversation.temperature, conversation.top_p, conversation.stop) == (0, 0.5, ["x"])
    assert (conversation.seed, conversation.choices, conversation.top_logprobs) == (1, 2, 3)
    assert conversation.thinking == ThinkingWish("effort", effort="high")
    assert (conversation.end_user, conversation.stream) == ("u", True)
    assert read(reasoning_effort="none").thinking == ThinkingWish("off", effort="none")


def test_what_changes_no_answer_is_left_out_by_name_and_what_is_unknown_is_kept() -> None:
    conversation = read(store=True, metadata={"a": "b"}, prompt_cache_key="k", shiny_new={"x": 1})
    assert conversation.dropped == ["metadata", "prompt_cache_key", "store"]
    assert conversation.extra == {"shiny_new": {"x": 1}}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"service_tier": "priority"}, "service_tier"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"messages": [{"role": "function", "name": "f", "content": "x"}]}, "messages[0].role"),
        (
            {"messages": [{"role": "user", "content": [{"type": "video_url"}]}]},
            "messages[0].content[0].type",
        ),
        ({"messages": [{"role": "user", "content": "x", "odd": 1}]}, "messages[0].odd"),
        ({"tools": [{"type": "custom", "custom": {"name": "c"}}]}, "tools[0].type"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
    ],
)
def test_what_no_other_dialect_can_say_is_refused_by_name(
    fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(UntranslatableError) as caught:
        read(**fields)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"temperature": "hot"}, "temperature"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
    ],
)
def test_what_is_no_request_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(WireError) as caught:
        read(**fields)
    assert caught.value.refusal.param == param
