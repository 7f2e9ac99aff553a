"""What both of OpenAI's APIs declare alike."""

from __future__ import annotations

from typing import Any

import pytest

from extproc.dialects.conversation import AnswerFormat, Tool, ToolChoice, UntranslatableError
from extproc.dialects.fields import Fields
from extproc.dialects.openai_requests import chosen, declared_format, declared_tool
from extproc.wire.errors import WireError


def test_a_tool_and_a_schema_with_and_without_everything() -> None:
    full: dict[str, Any] = {"name": "f", "description": "d", "strict": True}
    parameters = {"type": "object", "required": ["a"]}
    fields = Fields({**full, "parameters": parameters}, "tools[0]")
    assert declared_tool(fields) == Tool("f", "d", parameters, True)
    fields.done()
    empty = {"type": "object", "properties": {}}
    assert declared_tool(Fields({"name": "f"}, "")) == Tool("f", "", empty, None)
    schema = {**full, "schema": {"type": "string"}}
    wanted = AnswerFormat({"type": "string"}, "f", "d", True)
    assert declared_format(Fields({"type": "json_schema", **schema}, "format")) == wanted
    wrapped = Fields({"type": "json_schema", "json_schema": schema}, "response_format")
    assert declared_format(wrapped, schema_in="json_schema") == wanted
    bare = AnswerFormat({"type": "object"}, "", "", None)
    assert declared_format(Fields({"type": "json_schema"}, "")) == bare
    with pytest.raises(WireError, match="name is required"):
        declared_tool(Fields({}, ""))


def test_what_is_not_read_is_left_for_the_owner_to_refuse() -> None:
    fields = Fields({"name": "f", "new": 1}, "")
    declared_tool(fields)
    with pytest.raises(UntranslatableError, match="new"):
        fields.done()


@pytest.mark.parametrize("word", ["auto", "none", "required"])
def test_a_choice_is_a_word_or_an_object(word: str) -> None:
    assert chosen(Fields({"tool_choice": word}, "")) == ToolChoice(word)
    assert chosen(Fields({}, "")) is None
    named = chosen(Fields({"tool_choice": {"name": "f"}}, ""))
    assert isinstance(named, Fields)
    assert named.text("name") == "f"


@pytest.mark.parametrize("value", ["any", "", 7, ["auto"]])
def test_no_other_choice(value: object) -> None:
    with pytest.raises(WireError):
        chosen(Fields({"tool_choice": value}, ""))
