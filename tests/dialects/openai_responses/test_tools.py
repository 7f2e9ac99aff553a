"""Codex's tools as functions, and calls of them in Codex's own form."""

from __future__ import annotations

import json
from typing import Any

import pytest

from extproc.dialects.conversation import (
    Conversation,
    KnownAs,
    Text,
    ToolCall,
    ToolResult,
    UntranslatableError,
)
from extproc.dialects.openai_responses.reading import read_request
from extproc.dialects.openai_responses.tools import (
    function_name,
    written_call,
)
from extproc.dialects.tool_names import MAX_NAME_CHARACTERS

SHELL = {"type": "function", "name": "shell", "parameters": {"type": "object"}, "strict": False}
PATCH = {
    "type": "custom",
    "name": "apply_patch",
    "description": "Edits files.",
    "format": {"type": "grammar", "syntax": "lark", "definition": "start: /.+/"},
}
GITHUB = {
    "type": "namespace",
    "name": "mcp__github",
    "description": "Issues of the team.",
    "tools": [{"type": "function", "name": "list", "parameters": {"type": "object"},
               "defer_loading": True}],
}  # fmt: skip
SEARCH = {
    "type": "tool_search",
    "execution": "client",
    "description": "Finds tools.",
    "parameters": {"type": "object", "properties": {"query": {"type": "string"}}},
}


def read(*tools: Any, **fields: Any) -> Conversation:
    body = {"model": "m", "input": "hi", "tools": tools, **fields}
    return read_request(json.dumps(body).encode())


def test_every_tool_of_codex_is_a_function_elsewhere() -> None:
    conversation = read(SHELL, PATCH, GITHUB, SEARCH, {"type": "web_search"})
    assert [tool.name for tool in conversation.tools] == [
        "shell", "apply_patch", "mcp__github__list", "tool_search",
    ]  # fmt: skip
    patch = conversation.tools[1]
    assert patch.schema["required"] == ["input"]
    assert "start: /.+/" in patch.schema["properties"]["input"]["description"]
    assert conversation.known_as == {
        "apply_patch": KnownAs("custom", "apply_patch"),
        "mcp__github__list": KnownAs("function", "list", "mcp__github"),
        "tool_search": KnownAs("tool_search", "tool_search"),
    }
    assert conversation.system == [
        Text("About the tools named mcp__github__*: Issues of the team.")
    ]
    assert conversation.dropped == ["tools.defer_loading", "tools.web_search"]


def test_calls_and_results_come_back_as_those_of_functions() -> None:
    found = {"type": "function", "name": "close", "parameters": {"type": "object"}}
    conversation = read(
        PATCH,
        GITHUB,
        SEARCH,
        input=[
            {"type": "custom_tool_call", "call_id": "c1", "name": "apply_patch", "input": "*** x"},
            {"type": "custom_tool_call_output", "call_id": "c1", "output": "Done"},
            {"type": "function_call", "call_id": "c2", "namespace": "mcp__github", "name": "list",
             "arguments": '{"a":1}'},
            {"type": "function_call_output", "call_id": "c2", "output": "[]"},
            {"type": "tool_search_call", "call_id": "c3", "execution": "client",
             "arguments": {"query": "close"}, "status": "completed"},
            {"type": "tool_search_output", "call_id": "c3", "execution": "client",
             "status": "completed", "tools": [{**GITHUB, "tools": [found, *GITHUB["tools"]]}]},
            {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {}},
            {"type": "message", "role": "user", "content": "go on"},
        ],
    )  # fmt: skip
    parts = [part for turn in conversation.turns for part in turn.parts]
    calls = [part for part in parts if isinstance(part, ToolCall)]
    assert [(call.name, call.arguments) for call in calls] == [
        ("apply_patch", '{"input":"*** x"}'),
        ("mcp__github__list", '{"a":1}'),
        ("tool_search", '{"query":"close"}'),
    ]
    results = [part for part in parts if isinstance(part, ToolResult)]
    assert [result.name for result in results] == [call.name for call in calls]
    assert results[2].parts == [
        Text("Tools that can be called now: mcp__github__close, mcp__github__list")
    ]
    assert [tool.name for tool in conversation.tools].count("mcp__github__list") == 1
    assert "mcp__github__close" in [tool.name for tool in conversation.tools]
    assert "input.web_search_call" in conversation.dropped


@pytest.mark.parametrize(
    ("name", "arguments", "item"),
    [
        ("shell", '{"a":1}', {"type": "function_call", "name": "shell", "arguments": '{"a":1}'}),
        ("apply_patch", '{"input":"*** x"}',
         {"type": "custom_tool_call", "name": "apply_patch", "input": "*** x"}),
        ("mcp__github__list", "{}",
         {"type": "function_call", "namespace": "mcp__github", "name": "list", "arguments": "{}"}),
        ("tool_search", '{"query":"x"}',
         {"type": "tool_search_call", "execution": "client", "arguments": {"query": "x"}}),
        ("tool_search", "no json",
         {"type": "tool_search_call", "execution": "client", "arguments": {"query": "no json"}}),
    ],
)  # fmt: skip
def test_a_call_is_told_in_the_form_that_was_declared(
    name: str, arguments: str, item: dict[str, Any]
) -> None:
    known_as = read(SHELL, PATCH, GITHUB, SEARCH).known_as
    written = written_call(ToolCall("c1", name, arguments), "1", known_as)
    assert written.pop("id").endswith("_1")
    assert written == {"call_id": "c1", "status": "completed", **item}


def test_a_chosen_tool_is_chosen_by_the_name_it_has_elsewhere() -> None:
    choice = {"type": "function", "name": "list", "namespace": "mcp__github"}
    chosen = read(GITHUB, tool_choice=choice).tool_choice
    assert chosen is not None
    assert chosen.name == "mcp__github__list"


def test_names_are_such_as_every_api_takes() -> None:
    assert function_name("list", "") == "list"
    assert function_name("list", "mcp__x__") == "mcp__x__list"
    assert function_name("list", "a.b") == "a_b__list"
    long = function_name("l" * 50, "n" * 50)
    assert len(long) == MAX_NAME_CHARACTERS
    assert long != function_name("l" * 49 + "x", "n" * 50)


@pytest.mark.parametrize(
    ("tools", "param"),
    [
        ([{"type": "web_search"}], "tools[0].type"),
        ([{"type": "file_search"}, SHELL], "tools[0].type"),
        ([{**SEARCH, "execution": "server"}], "tools[0].execution"),
        ([{**GITHUB, "tools": [GITHUB]}], "tools[0].tools[0].type"),
        ([{**PATCH, "format": {"type": "regex"}}], "tools[0].format.type"),
        ([{**PATCH, "new": 1}], "tools[0].new"),
        ([{**SHELL, "name": "mcp__github__list"}, GITHUB], "tools[1].tools[0].name"),
    ],
)
def test_what_cannot_be_carried_is_refused_by_name(tools: list[Any], param: str) -> None:
    with pytest.raises(UntranslatableError) as caught:
        read(*tools)
    assert caught.value.param == param
