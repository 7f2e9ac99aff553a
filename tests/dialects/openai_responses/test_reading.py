"""Responses requests as Codex and the SDK send them, read whole or refused by name."""

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
from extproc.wire.call_ids import FOREIGN
from extproc.wire.errors import WireError

MARKED = f"{FOREIGN}anthropic.s"


def read(**fields: Any) -> Conversation:
    return read_request(json.dumps({"model": "m", "input": "hi", **fields}).encode())


def test_a_short_question() -> None:
    assert read() == Conversation("m", [Turn(Role.USER, [Text("hi")])])


def test_a_turn_as_codex_sends_it() -> None:
    conversation = read(
        instructions="be brief",
        input=[
            {
                "type": "message",
                "role": "developer",
                "content": [{"type": "input_text", "text": "rules"}],
            },
            {"role": "user", "content": [{"type": "input_text", "text": "do"}]},
            {
                "type": "reasoning",
                "id": "rs_1",
                "summary": [{"type": "summary_text", "text": "hm"}],
                "encrypted_content": "enc",
            },
            {"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": MARKED},
            {
                "type": "message",
                "role": "assistant",
                "id": "msg_1",
                "status": "completed",
                "content": [
                    {"type": "output_text", "text": "so", "annotations": []},
                    {"type": "refusal", "refusal": "no"},
                ],
            },
            {
                "type": "function_call",
                "id": "fc_1",
                "call_id": "c1",
                "name": "shell",
                "arguments": '{"a": 1}',
                "status": "completed",
            },
            {"type": "function_call_output", "call_id": "c1", "output": "done"},
            {
                "type": "function_call_output",
                "call_id": "c2",
                "output": [
                    {"type": "input_image", "image_url": "data:image/png;base64,QQ==",
                     "detail": "low"},
                ],
            },
        ],
        store=False,
        include=["reasoning.encrypted_content"],
        prompt_cache_key="k",
        reasoning={"effort": "high", "summary": "auto"},
        text={"verbosity": "low"},
        parallel_tool_calls=True,
        stream=True,
    )  # fmt: skip
    assert [text.text for text in conversation.system] == ["be brief", "rules"]
    assert conversation.turns == [
        Turn(Role.USER, [Text("do")]),
        Turn(
            Role.ASSISTANT,
            [
                Thinking("hm", "enc", Vendor.OPENAI, item_id="rs_1"),
                Thinking("", "s", Vendor.ANTHROPIC),
                Text("so"),
                Refused("no"),
                ToolCall("c1", "shell", '{"a": 1}'),
            ],
        ),
        Turn(
            Role.USER,
            [
                ToolResult("c1", [Text("done")], name="shell"),
                ToolResult("c2", [Media("image", "image/png", data="QQ==", detail="low")]),
            ],
        ),
    ]
    assert conversation.thinking == ThinkingWish("effort", effort="high", show="auto")
    assert conversation.dropped == ["text.verbosity", "include", "prompt_cache_key", "store"]


def test_tools_choice_and_formats() -> None:
    schema = {"type": "object"}
    conversation = read(
        tools=[{"type": "function", "name": "f", "parameters": schema, "strict": True}],
        tool_choice={"type": "function", "name": "f"},
        text={"format": {"type": "json_schema", "name": "n", "schema": schema, "strict": True}},
        max_output_tokens=9,
    )
    assert conversation.tools == [Tool("f", "", schema, True)]
    assert conversation.tool_choice == ToolChoice("named", "f")
    assert conversation.answer_format == AnswerFormat(schema, "n", "", True)
    assert conversation.max_output_tokens == 9
    assert read(text={"format": {"type": "json_object"}}).answer_format == AnswerFormat()


def test_files_of_every_source() -> None:
    parts = [
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,QQ"},
        {"type": "input_file", "file_url": "https://x/y.pdf"},
        {"type": "input_file", "file_id": "file-1"},
    ]
    assert read(input=[{"role": "user", "content": parts}]).turns[0].parts == [
        Media("document", "application/pdf", data="QQ", name="a.pdf"),
        Media("document", "", url="https://x/y.pdf"),
        Media("document", "", file_id="file-1"),
    ]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "local_shell"}]}, "tools[0].type"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_video"}]}]},
         "input[0].content[0].type"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice"),
        ({"service_tier": "priority"}, "service_tier"),
    ],
)  # fmt: skip
def test_what_no_other_dialect_can_say_is_refused_by_name(
    fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(UntranslatableError) as caught:
        read(**fields)
    assert caught.value.param == param


def test_what_is_no_request_is_refused_by_name() -> None:
    with pytest.raises(WireError) as caught:
        read(input=[{"type": "function_call", "name": "f"}])
    assert caught.value.refusal.param == "input[0].call_id"
