"""Neighbours of one role are one turn, and a tool's result knows its tool."""

from __future__ import annotations

import base64

from dialect_turns import assistant, user

from extproc.dialects.conversation import (
    CacheMark,
    Media,
    Role,
    Text,
    ToolCall,
    ToolResult,
    Turn,
)
from extproc.dialects.turns import (
    add_parts,
    calls_in_words,
    has_calls,
    link_tool_results,
    opened_by_user,
    told_turns,
    without_trailing_space,
)
from extproc.wire.call_ids import signed_call_id


def test_turns_alternate() -> None:
    turns: list[Turn] = []
    add_parts(turns, Role.USER, [Text("a")])
    add_parts(turns, Role.USER, [Text("b")])
    add_parts(turns, Role.ASSISTANT, [Text("c")])
    assert turns == [Turn(Role.USER, [Text("a"), Text("b")]), Turn(Role.ASSISTANT, [Text("c")])]


def test_results_are_named_by_the_call_they_answer() -> None:
    known, unknown = ToolResult("1", []), ToolResult("2", [])
    link_tool_results(
        [Turn(Role.ASSISTANT, [ToolCall("1", "f", "{}")]), Turn(Role.USER, [known, unknown])]
    )
    assert (known.name, unknown.name) == ("f", "")


def test_a_signature_travels_in_the_id_and_is_taken_out_again() -> None:
    signature = base64.b64encode(bytes(range(250, 256)) * 9).decode()
    name = signed_call_id("call_1", signature)
    call, result = ToolCall(name, "f", "{}"), ToolResult(name, [])
    link_tool_results([Turn(Role.ASSISTANT, [call]), Turn(Role.USER, [result])])
    assert (call.call_id, call.signature) == ("call_1", signature)
    assert (result.call_id, result.name) == ("call_1", "f")


def test_what_is_not_told_leaves_no_gap() -> None:
    turns = [user(Text("a")), assistant(Text("")), user(Text("b")), assistant(Text("c"))]
    told = told_turns(turns, lambda part: not isinstance(part, Text) or part.text != "")
    assert told == [user(Text("a"), Text("b")), assistant(Text("c"))]
    assert turns[0] == user(Text("a"))


def test_a_user_speaks_first() -> None:
    assert opened_by_user([user(Text("a"))]) == ([user(Text("a"))], [])
    opened, told = opened_by_user([assistant(Text("a"))])
    assert [turn.role for turn in opened] == [Role.USER, Role.ASSISTANT]
    assert told == ["messages[0].role"]
    # Only instructions: somebody has to ask for an answer.
    opened, told = opened_by_user([])
    assert [turn.role for turn in opened] == [Role.USER]
    assert told == []


def test_an_answer_that_is_to_be_gone_on_with_ends_without_space() -> None:
    last = assistant(Text("x ", CacheMark()), Text("y \n"))
    assert without_trailing_space([user(Text("a ")), last])[-1].parts[-1] == Text("y")
    assert last.parts[-1] == Text("y \n")
    for turns in ([], [user(Text("a "))], [assistant(ToolCall("c", "f", "{}"))]):
        assert without_trailing_space(turns) == turns


def test_calls_and_results_in_words_say_everything() -> None:
    image = Media("image", "image/png", data="QQ==")
    turns = [
        user(Text("do")),
        assistant(Text("so"), ToolCall("c", "f", '{"a":1}')),
        user(ToolResult("c", [Text("one"), Text(" "), image], True, "f"), Text("and?")),
    ]
    assert has_calls(turns)
    words = calls_in_words(turns)
    assert not has_calls(words)
    assert words[1].parts == [Text("so"), Text('[called the tool f with {"a":1}]')]
    assert words[2].parts == [Text("[the tool f failed:]"), Text("one"), image, Text("and?")]
    assert calls_in_words([user(ToolResult("c", []))])[0].parts == [Text("[the tool answered:]")]
