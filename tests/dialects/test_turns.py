"""Neighbours of one role are one turn, and a tool's result knows its tool."""

from __future__ import annotations

import base64

from extproc.dialects.conversation import Role, Text, ToolCall, ToolResult, Turn
from extproc.dialects.turns import add_parts, link_tool_results
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
