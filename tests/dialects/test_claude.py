"""What each generation of Claude is asked, whoever hosts it."""

from __future__ import annotations

from typing import Any

import pytest
from dialect_turns import assistant, user

from extproc.dialects.claude import (
    claudes_turns,
    generation_of,
    is_told,
    sampling_fields,
    thinking_fields,
)
from extproc.dialects.conversation import (
    Conversation,
    Text,
    Thinking,
    ThinkingWish,
    ToolCall,
    ToolChoice,
    ToolResult,
    UntranslatableError,
    Vendor,
)

LOW = ThinkingWish("effort", effort="low")
BUDGET = ThinkingWish("budget", 2_000)
OFF = ThinkingWish("off")


@pytest.mark.parametrize(
    ("model", "family", "version"),
    [
        ("claude-opus-4-20250514", "opus", (4, 0)),
        ("claude-opus-4-1-20250805", "opus", (4, 1)),
        ("eu.anthropic.claude-haiku-4-5-20251001-v1:0", "haiku", (4, 5)),
        ("claude-sonnet-4@20250514", "sonnet", (4, 0)),
        ("anthropic/claude-opus-4.6", "opus", (4, 6)),
        ("us.anthropic.claude-opus-4-8", "opus", (4, 8)),
        ("claude-sonnet-5", "sonnet", (5, 0)),
        ("claude-3-7-sonnet-latest", "claude", (3, 7)),
        ("anthropic.claude-3-haiku-20240307-v1:0", "claude", (3, 0)),
        ("claude-mythos-preview", "mythos", (5, 0)),
        ("deepseek-chat", "", (0, 0)),
    ],
)
def test_generations(model: str, family: str, version: tuple[int, int]) -> None:
    assert generation_of(model) == (family, version)


@pytest.mark.parametrize(
    ("model", "wish", "fields", "dropped"),
    [
        ("claude-haiku-4-5", None, {}, []),
        ("claude-haiku-4-5", OFF, {}, []),
        ("claude-haiku-4-5", BUDGET, {"type": "enabled", "budget_tokens": 2_000}, []),
        ("claude-haiku-4-5", LOW, {"type": "enabled", "budget_tokens": 2_048}, []),
        (
            "claude-haiku-4-5",
            ThinkingWish("adaptive", show="omitted"),
            {"type": "enabled", "budget_tokens": 4_000, "display": "omitted"},
            [],
        ),
        ("claude-opus-4-6", BUDGET, {"type": "enabled", "budget_tokens": 2_000}, []),
        ("claude-opus-4-6", LOW, {"type": "adaptive", "effort": "low"}, []),
        ("claude-opus-4-7", BUDGET, {"type": "adaptive", "effort": "low"}, []),
        ("claude-opus-4-7", ThinkingWish("adaptive"), {"type": "adaptive"}, []),
        (
            "claude-opus-4-7",
            ThinkingWish("effort", effort="xhigh"),
            {"type": "adaptive", "effort": "xhigh"},
            [],
        ),
        (
            "claude-opus-4-6",
            ThinkingWish("effort", effort="xhigh"),
            {"type": "adaptive", "effort": "high"},
            [],
        ),
        (
            "claude-sonnet-5",
            ThinkingWish("effort", effort="minimal"),
            {"type": "adaptive", "effort": "low"},
            [],
        ),
        ("claude-sonnet-5", None, {}, []),
        ("claude-sonnet-5", OFF, {"type": "disabled"}, []),
        ("claude-fable-5", OFF, {}, ["thinking"]),
        ("claude-3-5-haiku-latest", LOW, {}, ["thinking"]),
        ("some-other-model", BUDGET, {"type": "enabled", "budget_tokens": 2_000}, []),
    ],
)
def test_wishes_to_think(
    model: str, wish: ThinkingWish | None, fields: dict[str, Any], dropped: list[str]
) -> None:
    conversation = Conversation("m", [user(Text("x"))], thinking=wish)
    written, left_out = thinking_fields(conversation, model, 8_000)
    effort = fields.pop("effort", None)
    assert written.get("thinking", {}) == fields
    assert written.get("output_config", {}).get("effort") == effort
    assert left_out == dropped


def test_where_it_may_not_think_it_is_not_asked_to() -> None:
    forced = Conversation("m", [user(Text("x"))], thinking=LOW, tool_choice=ToolChoice("required"))
    assert thinking_fields(forced, "claude-opus-4-6", 8_000) == ({}, ["thinking"])
    off = {"thinking": {"type": "disabled"}}
    assert thinking_fields(forced, "claude-sonnet-5", 8_000) == (off, ["thinking"])
    forced.thinking = None
    assert thinking_fields(forced, "claude-sonnet-5", 8_000) == (off, [])
    loop = [user(Text("x")), assistant(ToolCall("c", "f", "{}")), user(ToolResult("c", []))]
    in_loop = Conversation("m", loop, thinking=LOW)
    assert thinking_fields(in_loop, "claude-haiku-4-5", 8_000) == ({}, ["thinking"])
    assert "thinking" in thinking_fields(in_loop, "claude-opus-4-6", 8_000)[0]
    begun = Conversation("m", [user(Text("x")), assistant(Text("y"))], thinking=LOW)
    assert thinking_fields(begun, "claude-opus-4-6", 8_000) == ({}, ["thinking"])


def test_a_budget_without_room_is_refused_and_a_wish_is_left_out() -> None:
    conversation = Conversation("m", [user(Text("x"))], thinking=BUDGET)
    with pytest.raises(UntranslatableError, match="budget_tokens"):
        thinking_fields(conversation, "claude-haiku-4-5", 2_000)
    conversation.thinking = LOW
    assert thinking_fields(conversation, "claude-haiku-4-5", 1_500) == ({}, ["thinking"])


@pytest.mark.parametrize(
    ("model", "thinks", "wanted", "kept", "dropped"),
    [
        ("claude-haiku-4-5", False, (0.2, None, 5), {"temperature": 0.2, "top_k": 5}, []),
        ("claude-haiku-4-5", False, (0.2, 0.9, None), {"temperature": 0.2}, ["top_p"]),
        ("claude-haiku-4-5", False, (1, 0.9, None), {"top_p": 0.9}, []),
        ("claude-opus-4-1", False, (0.2, 1, None), {"temperature": 0.2}, []),
        (
            "claude-opus-4-20250514", False, (0.2, 0.9, None),
            {"temperature": 0.2, "top_p": 0.9}, [],
        ),
        ("claude-haiku-4-5", True, (0.2, None, 5), {}, ["temperature", "top_k"]),
        ("claude-haiku-4-5", True, (1, 0.97, None), {"top_p": 0.97}, []),
        ("claude-haiku-4-5", True, (None, 0.5, None), {}, ["top_p"]),
        ("claude-opus-4-7", False, (0.2, 1, None), {}, ["temperature"]),
        ("claude-sonnet-5", False, (1, 0.5, 3), {}, ["top_p", "top_k"]),
    ],
)  # fmt: skip
def test_sampling(
    model: str, thinks: bool, wanted: Any, kept: dict[str, Any], dropped: list[str]
) -> None:
    temperature, top_p, top_k = wanted
    conversation = Conversation("m", [], temperature=temperature, top_p=top_p, top_k=top_k)
    assert sampling_fields(conversation, model, thinks=thinks) == (kept, dropped)


def test_turns_as_claude_is_told_them() -> None:
    own, foreign = Thinking("a", "s", Vendor.ANTHROPIC), Thinking("b", "s", Vendor.GOOGLE)
    assert [is_told(part) for part in (own, foreign, Text(" \n"), Text("x"))] == [
        True, False, False, True,
    ]  # fmt: skip
    turns, told = claudes_turns(
        [
            assistant(Text("hello")),
            user(Text(" ")),
            assistant(foreign, Text("there")),
            user(Text("x")),
            assistant(foreign),
            user(Text("y")),
            assistant(Text("go on \n")),
        ]
    )
    assert turns == [
        user(Text(".")),
        assistant(Text("hello"), Text("there")),
        user(Text("x"), Text("y")),
        assistant(Text("go on")),
    ]
    assert told == ["messages[0].role"]
