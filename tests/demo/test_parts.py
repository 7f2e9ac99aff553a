from __future__ import annotations

import json
from typing import get_args

import pytest

from extproc.demo.asked import Asked, ToolSpec
from extproc.demo.parts import AnswerKind, parts_of

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
ASKED = Asked("m", tools=(ToolSpec("get_weather", SCHEMA),), schema=SCHEMA)
KINDS = {
    "text": ["text"],
    "tools": ["call"],
    "parallel_tools": ["text", "call", "call"],
    "thinking": ["thought", "text"],
    "thinking_tools": ["thought", "call"],
    "redacted_thinking": ["redacted", "text"],
    "json": ["text"],
    "refusal": ["refusal"],
    "stop_sequence": ["text"],
    "image": ["text", "image"],
    "long": ["text"],
    "error": ["text"],
}


@pytest.mark.parametrize("kind", get_args(AnswerKind))
def test_every_kind_has_its_parts_and_they_count_up(kind: AnswerKind) -> None:
    reasoning = 8 if "thinking" in kind else 0
    parts = parts_of(kind, ASKED, 32, reasoning, 0)
    assert [part.kind for part in parts] == KINDS[kind]
    assert sum(part.tokens for part in parts) == 32
    assert parts == parts_of(kind, ASKED, 32, reasoning, 0)


def test_calls_follow_the_schema_and_differ() -> None:
    _, one, two = parts_of("parallel_tools", ASKED, 32, 0, 0)
    assert json.loads(one.text) == one.arguments == {"city": "sample 1"}
    assert two.arguments == {"city": "sample 2"}
    assert len(one.pieces) > 1


def test_without_tools_there_is_text() -> None:
    assert [part.kind for part in parts_of("tools", Asked("m"), 32, 0, 0)] == ["text"]


def test_json_without_a_schema_is_an_object() -> None:
    (part,) = parts_of("json", Asked("m"), 32, 0, 0)
    assert json.loads(part.text) == {"answer": "sample"}
