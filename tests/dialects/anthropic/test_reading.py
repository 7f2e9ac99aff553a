"""Messages requests as Anthropic's clients send them, read whole or refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from extproc.dialects.answer import Answer, PartEnded, PartKind, PartStarted, Stop
from extproc.dialects.anthropic.answers import write_answer
from extproc.dialects.anthropic.reading import read_request
from extproc.dialects.anthropic.streams import MessageStreamWriter
from extproc.dialects.codec import Context
from extproc.dialects.conversation import (
    AnswerFormat,
    CacheMark,
    Conversation,
    Media,
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
from extproc.wire.errors import WireError

MARK = {"type": "ephemeral", "ttl": "1h"}


def read(**fields: Any) -> Conversation:
    document = {
        "model": "m",
        "max_tokens": 9,
        "messages": [{"role": "user", "content": "hi"}],
        **fields,
    }
    return read_request(json.dumps(document).encode())


def turns(*several: Any) -> list[Turn]:
    return read(messages=list(several)).turns


def test_a_short_question() -> None:
    assert read() == Conversation("m", [Turn(Role.USER, [Text("hi")])], max_output_tokens=9)


def test_system_arrays_and_cache_marks_stay() -> None:
    assert read(system="one").system == [Text("one")]
    blocks = [{"type": "text", "text": "a", "cache_control": MARK}, {"type": "text", "text": "b"}]
    assert read(system=blocks).system == [Text("a", CacheMark("1h")), Text("b")]


def test_a_turn_of_an_agent_with_thinking_tools_and_images_in_a_result() -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QQ"}}
    read_turns = turns(
        {"role": "user", "content": "do"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "redacted_thinking", "data": "xx"},
                {"type": "text", "text": "so"},
                {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": [1, {"b": None}]}},
                {"type": "tool_use", "id": "t2", "name": "g", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "t1",
                    "content": [{"type": "text", "text": "one"}, image],
                    "cache_control": {"type": "ephemeral"},
                },
                {"type": "tool_result", "tool_use_id": "t2", "content": "bad", "is_error": True},
            ],
        },
    )
    assert read_turns[1].parts == [
        Thinking("hm", "s", Vendor.ANTHROPIC),
        Thinking("", "xx", Vendor.ANTHROPIC, redacted=True),
        Text("so"),
        ToolCall("t1", "f", '{"a":[1,{"b":null}]}'),
        ToolCall("t2", "g", "{}"),
    ]
    assert read_turns[2].parts == [
        ToolResult(
            "t1",
            [Text("one"), Media("image", "image/png", data="QQ")],
            name="f",
            cache=CacheMark(),
        ),
        ToolResult("t2", [Text("bad")], True, "g"),
    ]


def test_thinking_without_a_signature_is_nobodys() -> None:
    block = {"type": "thinking", "thinking": "hm", "signature": ""}
    assert turns({"role": "assistant", "content": [block]})[0].parts == [Thinking("hm")]


def test_documents_of_every_source() -> None:
    sources = [
        {"type": "base64", "media_type": "application/pdf", "data": "QQ"},
        {"type": "text", "media_type": "text/plain", "data": "words"},
        {"type": "url", "url": "https://x/y.pdf"},
        {"type": "file", "file_id": "file_1"},
    ]
    blocks = [{"type": "document", "source": source, "title": "t"} for source in sources]
    assert turns({"role": "user", "content": blocks})[0].parts == [
        Media("document", "application/pdf", data="QQ", name="t"),
        Media("document", "text/plain", text="words", name="t"),
        Media("document", "", url="https://x/y.pdf", name="t"),
        Media("document", "", file_id="file_1", name="t"),
    ]


def test_tools_and_choice() -> None:
    schema = {"type": "object", "properties": {}}
    conversation = read(
        tools=[
            {"name": "f", "description": "d", "input_schema": schema, "cache_control": MARK},
            {"name": "g", "input_schema": schema, "type": "custom", "defer_loading": True},
        ],
        tool_choice={"type": "tool", "name": "f", "disable_parallel_tool_use": True},
    )
    assert conversation.tools == [
        Tool("f", "d", schema, cache=CacheMark("1h")),
        Tool("g", "", schema),
    ]
    assert conversation.tool_choice == ToolChoice("named", "f")
    assert conversation.parallel_tools is False
    assert conversation.dropped == ["tools.defer_loading"]
    assert read(tool_choice={"type": "any"}).tool_choice == ToolChoice("required")


def test_hosted_tools_beside_the_callers_own_are_left_out_and_it_is_told() -> None:
    hosted = {"type": "web_search_20250305", "name": "web_search", "max_uses": 8}
    own = {"name": "f", "input_schema": {"type": "object"}}
    conversation = read(tools=[hosted, own])
    assert [tool.name for tool in conversation.tools] == ["f"]
    assert conversation.dropped == ["tools.web_search"]
    with pytest.raises(UntranslatableError) as caught:
        read(tools=[own, hosted], tool_choice={"type": "tool", "name": "web_search"})
    assert caught.value.param == "tools[1].type"


def test_what_the_operator_says_in_the_middle_is_a_reminder_in_the_users_turn() -> None:
    conversation = read(
        messages=[
            {"role": "user", "content": "do"},
            {"role": "system", "content": "be quick"},
            {"role": "system", "content": [{"type": "text", "text": "x", "cache_control": MARK}]},
        ]
    )
    (turn,) = conversation.turns
    assert turn.parts == [
        Text("do"),
        Text("<system-reminder>\nbe quick\n</system-reminder>"),
        Text("<system-reminder>\nx\n</system-reminder>", CacheMark("1h")),
    ]
    assert conversation.dropped == ["messages.role", "messages.role"]
    image = {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}}
    with pytest.raises(UntranslatableError):
        read(messages=[{"role": "system", "content": [image]}])
    with pytest.raises(UntranslatableError):
        read(messages=[{"role": "tool", "content": "x"}])


def test_a_tools_long_name_is_short_elsewhere_and_long_again_for_the_caller() -> None:
    """Agents name a plugin, a server and a tool in one; OpenAI, Google and Bedrock take 64."""
    long = "mcp__" + "n" * 90
    call = {"type": "tool_use", "id": "t1", "name": long, "input": {}}
    conversation = read(
        tools=[{"name": long, "input_schema": {"type": "object"}}],
        tool_choice={"type": "tool", "name": long},
        messages=[{"role": "user", "content": "x"}, {"role": "assistant", "content": [call]}],
    )
    (short,) = conversation.known_as
    assert len(short) == 64
    assert conversation.tools[0].name == short
    assert conversation.tool_choice == ToolChoice("named", short)
    assert conversation.turns[1].parts == [ToolCall("t1", short, "{}")]
    context = Context("r", 0, "m", known_as=conversation.known_as)
    answer = Answer("a", "m", [ToolCall("t1", short, "{}")], Stop.TOOL_CALLS, None)
    assert json.loads(write_answer(answer, context))["content"][0]["name"] == long
    events = [PartStarted(0, PartKind.TOOL_CALL, "t1", short), PartEnded(0)]
    assert long.encode() in MessageStreamWriter(context).write(events)


def test_tools_that_the_callers_search_found_are_named_in_its_result() -> None:
    found = {"type": "tool_reference", "tool_name": "mcp__x__list"}
    results = [{"type": "tool_result", "tool_use_id": "t1", "content": [found]}]
    (turn,) = turns({"role": "user", "content": results})
    assert turn.parts == [ToolResult("t1", [Text("The tool mcp__x__list can be called now.")])]


@pytest.mark.parametrize(
    ("fields", "wish"),
    [
        ({"thinking": {"type": "disabled"}}, ThinkingWish("off")),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 2_000}},
            ThinkingWish("budget", 2_000),
        ),
        ({"thinking": {"type": "adaptive"}}, ThinkingWish("adaptive")),
        ({"output_config": {"effort": "low"}}, ThinkingWish("adaptive", effort="low")),
    ],
)
def test_wishes_to_think(fields: dict[str, Any], wish: ThinkingWish) -> None:
    assert read(**fields).thinking == wish


def test_the_rest_of_the_fields() -> None:
    conversation = read(
        temperature=1, top_p=0.5, top_k=4, stop_sequences=["x"], stream=True,
        metadata={"user_id": "u"}, context_management={"edits": []}, novel=True,
        output_config={"format": {"type": "json_schema", "schema": {"type": "object"}}},
    )  # fmt: skip
    assert (conversation.temperature, conversation.top_p, conversation.top_k) == (1, 0.5, 4)
    assert (conversation.stop, conversation.stream, conversation.end_user) == (["x"], True, "u")
    assert conversation.answer_format == AnswerFormat({"type": "object"}, strict=True)
    assert conversation.dropped == ["context_management"]
    assert conversation.extra == {"novel": True}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"speed": "fast"}, "speed"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        (
            {"messages": [{"role": "user", "content": [{"type": "search_result"}]}]},
            "messages[0].content[0].type",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "y": 1}]}]},
            "messages[0].content[0].y",
        ),
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
        ({"messages": [{"role": "user", "content": [{"type": "tool_use"}]}]},
         "messages[0].content[0].id"),
        ({"tool_choice": {"type": "all"}}, "tool_choice.type"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
    ],
)  # fmt: skip
def test_what_is_no_request_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(WireError) as caught:
        read(**fields)
    assert caught.value.refusal.param == param
