"""Neighbours of one role are one turn, and a tool's result knows its tool."""

from __future__ import annotations

from extproc.dialects.conversation import Role, Text, ToolCall, ToolResult, Turn
from extproc.dialects.turns import add_parts, name_tool_results


def test_turns_alternate() -> None:
    turns: list[Turn] = []
    add_parts(turns, Role.USER, [Text("a")])
    add_parts(turns, Role.USER, [Text("b")])
    add_parts(turns, Role.ASSISTANT, [Text("c")])
    assert turns == [Turn(Role.USER, [Text("a"), Text("b")]), Turn(Role.ASSISTANT, [Text("c")])]


def test_results_are_named_by_the_call_they_answer() -> None:
    known, unknown = ToolResult("1", []), ToolResult("2", [])
    name_tool_results(
        [Turn(Role.ASSISTANT, [ToolCall("1", "f", "{}")]), Turn(Role.USER, [known, unknown])]
    )
    assert (known.name, unknown.name) == ("f", "")
