"""Conversations as Converse requests, checked by Amazon's own service model."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from bedrock_api import check_request
from dialect_conversations import conversations
from dialect_turns import assistant, user
from hypothesis import given
from hypothesis import strategies as st

from extproc.demo.strict.bedrock import check
from extproc.dialects.bedrock.writing import write_request
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

CLAUDE = TargetFacts("anthropic.claude-haiku-4-5", Vendor.ANTHROPIC)
LLAMA = TargetFacts("us.meta.llama4-maverick-17b-instruct-v1:0", Vendor.OTHER)


def written(*turns: Turn, facts: TargetFacts = CLAUDE, **fields: Any) -> dict[str, Any]:
    request = write_request(Conversation("asked", list(turns), **fields), facts)
    document: dict[str, Any] = json.loads(request.body)
    check_request(document)
    return document


def dropped(*turns: Turn, facts: TargetFacts = CLAUDE, **fields: Any) -> tuple[str, ...]:
    return write_request(Conversation("asked", list(turns), **fields), facts).dropped


def test_paths_name_the_model_and_the_way_of_answering() -> None:
    conversation = Conversation("asked", [user(Text("hi"))])
    assert write_request(conversation, LLAMA).path == (
        "/model/us.meta.llama4-maverick-17b-instruct-v1%3A0/converse"
    )
    conversation.stream = True
    assert write_request(conversation, CLAUDE).path.endswith("/converse-stream")


def test_cache_marks_are_blocks_after_what_they_mark() -> None:
    mark = CacheMark("1h")
    document = written(
        user(Text("hi", mark)),
        system=[Text("a", mark), Text("b")],
        tools=[Tool("f", "d", {"type": "object"}, cache=mark)],
    )
    point = {"cachePoint": {"type": "default", "ttl": "1h"}}
    assert document["system"] == [{"text": "a"}, point, {"text": "b"}]
    assert document["messages"][0]["content"] == [{"text": "hi"}, point]
    assert document["toolConfig"]["tools"][1] == point


def test_an_agents_turn_with_thinking_tools_images_and_documents() -> None:
    document = written(
        user(
            Text("do"),
            Media("image", "image/png", data="QQ=="),
            Media("document", "application/pdf", data="QQ==", name="a_b/c.pdf"),
            Media("document", "text/plain", text="words"),
        ),
        assistant(
            Thinking("hm", "s", Vendor.ANTHROPIC),
            Thinking("foreign", "o", Vendor.OPENAI),
            ToolCall("t1", "f", '{"a":1}'),
        ),
        user(
            Text("and?"),
            ToolResult("t1", [Text("one"), Media("image", "image/jpeg", data="QQ==")], True),
        ),
        tools=[Tool("f", "d", {"type": "object"})],
    )
    first, second, third = (message["content"] for message in document["messages"])
    assert first[2]["document"]["name"] == "a b c pdf"
    assert first[3]["document"]["source"] == {"bytes": "d29yZHM="}
    assert second == [
        {"reasoningContent": {"reasoningText": {"text": "hm", "signature": "s"}}},
        {"toolUse": {"toolUseId": "t1", "name": "f", "input": {"a": 1}}},
    ]
    assert third[0]["toolResult"]["status"] == "error"
    assert third[1] == {"text": "and?"}


def test_limits_choice_and_formats() -> None:
    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    document = written(
        user(Text("x")),
        tools=[Tool("f", "", schema, strict=True)],
        tool_choice=ToolChoice("named", "f"),
        max_output_tokens=7,
        temperature=0.5,
        top_k=3,
        stop=["s"],
        answer_format=AnswerFormat(schema, "n"),
    )
    assert document["inferenceConfig"] == {
        "maxTokens": 7, "temperature": 0.5, "stopSequences": ["s"],
    }  # fmt: skip
    assert document["additionalModelRequestFields"] == {"top_k": 3}
    assert document["toolConfig"]["toolChoice"] == {"tool": {"name": "f"}}
    assert document["outputConfig"]["textFormat"]["structure"]["jsonSchema"]["name"] == "n"
    assert "toolConfig" not in written(
        user(Text("x")), tools=[Tool("f", "d", schema)], tool_choice=ToolChoice("none")
    )
    assert "JSON" in written(user(Text("x")), answer_format=AnswerFormat())["system"][0]["text"]


def test_claude_thinks_and_other_models_are_not_asked_to() -> None:
    wish = ThinkingWish("budget", 2_000)
    fields: dict[str, Any] = {"thinking": wish, "max_output_tokens": 8_000, "temperature": 0.3}
    document = written(user(Text("x")), **fields)
    assert document["additionalModelRequestFields"]["thinking"]["budget_tokens"] == 2_000
    assert "temperature" not in document["inferenceConfig"]
    assert dropped(user(Text("x")), **fields) == ("temperature",)
    assert dropped(user(Text("x")), facts=LLAMA, thinking=wish) == ("thinking",)
    effort = ThinkingWish("effort", effort="low")
    assert dropped(user(Text("x")), thinking=effort, max_output_tokens=1_000) == ("thinking",)
    with pytest.raises(UntranslatableError, match="budget_tokens"):
        dropped(user(Text("x")), thinking=wish, max_output_tokens=2_000)


def test_what_is_left_out_is_told() -> None:
    assert dropped(user(Text("x")), seed=1, end_user="u", parallel_tools=False) == (
        "parallel_tool_calls", "seed", "user",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("conversation", "param"),
    [
        (Conversation("m", [user(Text("x"))], choices=2), "n"),
        (Conversation("m", [user(Text("x"))], logprobs=True), "logprobs"),
        (Conversation("m", [user(Text("x"))], temperature=1.2), "temperature"),
        (Conversation("m", [user(Text("x"))], extra={"novel": 1}), "novel"),
        (Conversation("m", [user(Media("image", "", url="https://x"))]), "messages[0]"),
        (Conversation("m", [user(Media("image", "image/bmp", data="QQ=="))]), "messages[0]"),
        (Conversation("m", [user(Media("audio", "audio/wav", data="QQ=="))]), "messages[0]"),
    ],
)
def test_what_bedrock_cannot_be_told_is_refused_by_name(
    conversation: Conversation, param: str
) -> None:
    with pytest.raises(UntranslatableError) as caught:
        write_request(conversation, CLAUDE)
    assert caught.value.param == param


# -- what the real API refuses --------------------------------------------------------------------

TOOLS = [Tool("f", "d", {"type": "object", "properties": {}})]
LOOP = [
    user(Text("x")),
    assistant(ToolCall("a.b:c" * 20, "f", '{"a":1}')),
    user(ToolResult("a.b:c" * 20, [], name="f")),
]


def strictly(*turns: Turn, facts: TargetFacts = CLAUDE, **fields: Any) -> dict[str, Any]:
    document = written(*turns, facts=facts, **fields)
    check(json.loads(json.dumps(document)), facts.model)
    return document


def test_ids_that_bedrock_refuses_have_a_short_form_for_call_and_result() -> None:
    document = strictly(*LOOP, tools=TOOLS)
    call = document["messages"][1]["content"][0]["toolUse"]
    result = document["messages"][2]["content"][0]["toolResult"]
    assert call["toolUseId"] == result["toolUseId"]


@pytest.mark.parametrize("fields", [{}, {"tools": TOOLS, "tool_choice": ToolChoice("none")}])
def test_where_no_tool_may_be_called_earlier_calls_are_words(fields: dict[str, Any]) -> None:
    """Bedrock demands tools beside calls, and cannot say that none may be called."""
    document = strictly(*LOOP, **fields)
    assert "toolConfig" not in document
    assert document["messages"][1]["content"] == [{"text": '[called the tool f with {"a":1}]'}]
    assert document["messages"][2]["content"] == [{"text": "[the tool f answered:]"}]
    assert dropped(*LOOP, **fields) == ("messages.tool_calls",)
    thinks = {**fields, "thinking": ThinkingWish("budget", 2_000), "max_output_tokens": 8_000}
    assert dropped(*LOOP, **thinks) == ("messages.tool_calls",)  # no round of tools is open


def test_documents_have_names_of_their_own_and_a_word_beside_them() -> None:
    def pdf(name: str) -> Media:
        return Media("document", "application/pdf", data="QQ==", name=name)

    def asked(*names: str) -> Turn:
        return user(*(pdf(name) for name in names))

    turns = [asked("a  b.pdf", "A_B_PDF", ""), assistant(Text("so")), asked("", "x" * 300)]
    document = strictly(*turns)
    first, third = document["messages"][0]["content"], document["messages"][2]["content"]
    names = [block["document"]["name"] for block in first + third if "document" in block]
    assert names[:4] == ["a b pdf", "A B PDF 2", "document", "document 2"]
    assert first[-1] == {"text": "Attached: a b pdf, A B PDF 2, document"}
    # Names of earlier turns stay, so that what is cached is found again.
    assert strictly(*turns, assistant(Text("y")), asked(""))["messages"][:3] == document["messages"]


def test_turns_are_those_that_bedrock_takes() -> None:
    document = strictly(
        assistant(Text("Hello.")),
        user(Text("x")),
        assistant(Thinking("foreign", "o", Vendor.OPENAI)),
        user(Text("y")),
        system=[Text(" ")],
    )
    roles = [message["role"] for message in document["messages"]]
    assert roles == ["user", "assistant", "user"]
    assert "system" not in document


def test_a_schema_is_closed() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}}
    strictly(user(Text("x")), answer_format=AnswerFormat(schema, "n", strict=True))
    strictly(user(Text("x")), tools=[Tool("f", "d", schema, strict=True)])


def test_what_no_name_fits_is_refused() -> None:
    for name in ("a.b", "x" * 65):
        with pytest.raises(UntranslatableError, match="tools"):
            strictly(user(Text("x")), tools=[Tool(name, "d", {"type": "object"})])
    with pytest.raises(UntranslatableError, match="stop"):
        strictly(user(Text("x")), stop=["\n"])


MODELS = (
    "anthropic.claude-haiku-4-5", "us.anthropic.claude-opus-4-8", "anthropic.claude-sonnet-5",
    "amazon.nova-pro-v1:0",
)  # fmt: skip


@given(conversations(), st.sampled_from(MODELS))
def test_whatever_is_written_bedrock_takes(conversation: Conversation, model: str) -> None:
    with contextlib.suppress(UntranslatableError):  # refused by us, and by name
        request = write_request(conversation, TargetFacts(model, Vendor.OTHER, 64_000))
        check(json.loads(request.body), model)
