"""Conversations as generateContent requests: each part is one of the official package's types."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from dialect_conversations import conversations
from dialect_turns import assistant, user
from google.genai import types
from hypothesis import given
from hypothesis import strategies as st

from extproc.demo.strict.gemini import check
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
from extproc.dialects.gemini.writing import write_request

FLASH = TargetFacts("gemini-2.5-flash", Vendor.GOOGLE, base_path="/v1beta")
THREE = TargetFacts("gemini-3-pro", Vendor.GOOGLE)


def written(*turns: Turn, facts: TargetFacts = FLASH, **fields: Any) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(
        write_request(Conversation("asked", list(turns), **fields), facts).body
    )
    for content in document["contents"]:
        types.Content.model_validate(content)
    for tool in document.get("tools", ()):
        types.Tool.model_validate(tool)
    types.ToolConfig.model_validate(document.get("toolConfig", {}))
    types.GenerationConfig.model_validate(document.get("generationConfig", {}))
    return document


def test_paths_name_the_model_and_the_way_of_answering() -> None:
    conversation = Conversation("asked", [user(Text("hi"))])
    assert write_request(conversation, FLASH).path == (
        "/v1beta/models/gemini-2.5-flash:generateContent"
    )
    conversation.stream = True
    assert write_request(conversation, FLASH).path.endswith(":streamGenerateContent?alt=sse")


def test_turns_media_and_instructions() -> None:
    document = written(
        user(
            Text("look"),
            Media("image", "image/png", data="QQ=="),
            Media("image", "", url="https://x/y.jpg?z=1"),
            Media("document", "text/plain", text="words", name="t"),
        ),
        assistant(Text("ok"), Thinking("foreign", "s", Vendor.ANTHROPIC)),
        system=[Text("a"), Text("b")],
    )
    assert document["systemInstruction"] == {"parts": [{"text": "a"}, {"text": "b"}]}
    first, second = document["contents"]
    assert first["parts"][1] == {"inlineData": {"mimeType": "image/png", "data": "QQ=="}}
    assert first["parts"][2]["fileData"]["mimeType"] == "image/jpeg"
    assert second == {"role": "model", "parts": [{"text": "ok"}]}


def test_calls_and_results_with_names_and_images() -> None:
    document = written(
        user(Text("do")),
        assistant(ToolCall("c1", "f", '{"a":1}')),
        user(ToolResult("c1", [Text("one"), Media("image", "image/png", data="QQ==")], name="f")),
    )
    assert document["contents"][1]["parts"][0]["functionCall"] == {
        "id": "c1", "name": "f", "args": {"a": 1},
    }  # fmt: skip
    answer, image = document["contents"][2]["parts"]
    assert answer["functionResponse"]["response"] == {"output": "one"}
    assert "inlineData" in image


def test_signatures_go_back_and_calls_of_other_models_carry_the_documented_stand_in() -> None:
    def signatures(*calls: ToolCall, facts: TargetFacts = THREE) -> list[Any]:
        parts = written(user(Text("x")), assistant(*calls), facts=facts)["contents"][1]["parts"]
        return [part.get("thoughtSignature") for part in parts]

    own = ToolCall("c1", "f", "{}", signature="QUJD")
    other = ToolCall("c2", "f", "{}")
    assert signatures(own, other) == ["QUJD", None]
    assert signatures(other, other) == ["skip_thought_signature_validator", None]
    assert signatures(other, facts=FLASH) == [None]


def test_tools_choice_and_format() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    document = written(
        user(Text("x")),
        tools=[Tool("f", "d", schema)],
        tool_choice=ToolChoice("named", "f"),
        answer_format=AnswerFormat(schema),
        facts=THREE,
        max_output_tokens=7,
        temperature=0.5,
        stop=["s"],
        seed=1,
        top_k=3,
    )
    (declaration,) = document["tools"][0]["functionDeclarations"]
    assert declaration == {"name": "f", "description": "d", "parametersJsonSchema": schema}
    assert document["toolConfig"]["functionCallingConfig"] == {
        "mode": "ANY", "allowedFunctionNames": ["f"],
    }  # fmt: skip
    assert document["generationConfig"] == {
        "maxOutputTokens": 7, "temperature": 0.5, "topK": 3, "stopSequences": ["s"], "seed": 1,
        "responseMimeType": "application/json", "responseJsonSchema": schema,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("facts", "wish", "config"),
    [
        (FLASH, ThinkingWish("off"), {"thinkingBudget": 0, "includeThoughts": False}),
        (
            FLASH,
            ThinkingWish("budget", 2_000),
            {"thinkingBudget": 2_000, "includeThoughts": True},
        ),
        (
            FLASH,
            ThinkingWish("effort", effort="low"),
            {"thinkingBudget": 1_024, "includeThoughts": True},
        ),
        (FLASH, ThinkingWish("adaptive"), {"thinkingBudget": -1, "includeThoughts": True}),
        (THREE, ThinkingWish("off"), {"thinkingLevel": "low", "includeThoughts": False}),
        (
            THREE,
            ThinkingWish("budget", 20_000),
            {"thinkingLevel": "high", "includeThoughts": True},
        ),
    ],
)
def test_wishes_to_think(facts: TargetFacts, wish: ThinkingWish, config: Any) -> None:
    document = written(user(Text("x")), facts=facts, thinking=wish)
    assert document["generationConfig"]["thinkingConfig"] == config


def test_what_is_left_out_is_told() -> None:
    conversation = Conversation(
        "m",
        [user(Text("x"))],
        parallel_tools=False,
        end_user="u",
        thinking=ThinkingWish("budget", 5),
    )
    facts = TargetFacts("gemini-2.0-flash", Vendor.GOOGLE)
    assert write_request(conversation, facts).dropped == (
        "parallel_tool_calls", "user", "thinking",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("conversation", "param"),
    [
        (Conversation("m", [user(Text("x"))], logit_bias={"1": 1}), "logit_bias"),
        (Conversation("m", [user(Text("x"))], stop=list("abcdef")), "stop"),
        (Conversation("m", [user(Text("x"))], extra={"novel": 1}), "novel"),
        (Conversation("m", [user(Media("image", "", url="https://x/y"))]), "messages[0]"),
        (Conversation("m", [user(Media("image", "", file_id="f"))]), "messages[0]"),
        (Conversation("m", [user(ToolResult("c", [Text("x")]))]), "messages[0]"),
        (Conversation("m", [user(Text("x")), assistant(ToolCall("c", "f", "["))]), "messages[1]"),
    ],
)
def test_what_google_cannot_be_told_is_refused_by_name(
    conversation: Conversation, param: str
) -> None:
    with pytest.raises(UntranslatableError) as caught:
        write_request(conversation, FLASH)
    assert caught.value.param == param


# -- what the real API refuses --------------------------------------------------------------------

CLOSED = {"type": "object", "properties": {}, "additionalProperties": False}


def google(model: str) -> TargetFacts:
    return TargetFacts(model, Vendor.GOOGLE)


def strictly(*turns: Turn, facts: TargetFacts, **fields: Any) -> dict[str, Any]:
    document = written(*turns, facts=facts, **fields)
    check(json.loads(json.dumps(document)), facts.model)
    return document


@pytest.mark.parametrize(
    ("model", "wish", "config", "told"),
    [
        ("gemini-2.5-pro", ThinkingWish("off"), {"thinkingBudget": 128}, ("thinking",)),
        ("gemini-2.5-flash-lite", ThinkingWish("budget", 5), {"thinkingBudget": 512}, ()),
        ("gemini-2.5-flash", ThinkingWish("off"), {"thinkingBudget": 0}, ()),
        ("gemini-3-pro-preview", ThinkingWish("off"), {"thinkingLevel": "low"}, ("thinking",)),
        (
            "gemini-3-pro-preview",
            ThinkingWish("effort", effort="medium"),
            {"thinkingLevel": "high"},
            (),
        ),
        (
            "gemini-3.1-pro",
            ThinkingWish("effort", effort="medium"),
            {"thinkingLevel": "medium"},
            (),
        ),
        ("gemini-3.1-pro", ThinkingWish("effort", effort="minimal"), {"thinkingLevel": "low"}, ()),
        (
            "gemini-3-flash-preview",
            ThinkingWish("effort", effort="minimal"),
            {"thinkingLevel": "minimal"},
            (),
        ),
    ],
)
def test_each_model_is_asked_to_think_its_own_way(
    model: str, wish: ThinkingWish, config: Any, told: tuple[str, ...]
) -> None:
    facts = google(model)
    document = strictly(user(Text("x")), facts=facts, thinking=wish)
    thinking = document["generationConfig"]["thinkingConfig"]
    assert thinking.pop("includeThoughts") is (wish.mode != "off")
    assert thinking == config
    conversation = Conversation("m", [user(Text("x"))], thinking=wish)
    assert write_request(conversation, facts).dropped == told


def test_json_and_tools_exclude_each_other_before_gemini_3() -> None:
    tools = [Tool("f", "d", CLOSED)]
    fields: dict[str, Any] = {"tools": tools, "answer_format": AnswerFormat(CLOSED)}
    with pytest.raises(UntranslatableError, match="response_format"):
        strictly(user(Text("x")), facts=FLASH, **fields)
    strictly(user(Text("x")), facts=THREE, **fields)
    # Where none may be called none is offered.
    document = strictly(user(Text("x")), facts=FLASH, **fields, tool_choice=ToolChoice("none"))
    assert "tools" not in document
    fields["answer_format"] = AnswerFormat()
    document = strictly(user(Text("x")), facts=FLASH, **fields)
    assert "JSON" in document["systemInstruction"]["parts"][-1]["text"]
    conversation = Conversation("m", [user(Text("x"))], **fields)
    assert write_request(conversation, FLASH).dropped == ("response_format",)


def test_calls_come_after_a_users_turn() -> None:
    call, result = ToolCall("c", "f", "{}"), ToolResult("c", [], name="f")
    document = strictly(assistant(call), user(result), facts=FLASH)
    assert document["contents"][0] == {"role": "user", "parts": [{"text": "."}]}
    strictly(user(Text("")), assistant(call), user(result), facts=FLASH, system=[Text("")])


def test_a_tool_whose_name_google_refuses_is_refused_by_name() -> None:
    with pytest.raises(UntranslatableError, match="tools"):
        strictly(user(Text("x")), facts=FLASH, tools=[Tool("3d", "d", CLOSED)])


MODELS = (
    "gemini-2.0-flash", "gemini-2.5-pro", "gemini-2.5-flash", "gemini-2.5-flash-lite",
    "gemini-3-pro-preview", "gemini-3.1-pro", "gemini-3-flash-preview",
)  # fmt: skip


@given(conversations(), st.sampled_from(MODELS))
def test_whatever_is_written_google_takes(conversation: Conversation, model: str) -> None:
    with contextlib.suppress(UntranslatableError):  # refused by us, and by name
        check(json.loads(write_request(conversation, google(model)).body), model)
