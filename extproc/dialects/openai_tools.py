"""Tools, their choice and the answer's format, as both of OpenAI's APIs declare them. Chat wraps
each in an object of its own; the words inside are the same."""

from __future__ import annotations

from extproc.dialects.conversation import AnswerFormat, Tool, ToolChoice
from extproc.dialects.fields import Fields

_CHOICES = ("auto", "none", "required")


def declared_tool(function: Fields) -> Tool:
    """A function; whoever asked finishes the object."""
    return Tool(
        function.needed_text("name"),
        function.text("description"),
        function.json("parameters") or {"type": "object", "properties": {}},
        function.boolean("strict"),
    )


def declared_schema(schema: Fields) -> AnswerFormat:
    """A schema that the answer must fit; whoever asked finishes the object."""
    return AnswerFormat(
        schema.json("schema") or {"type": "object"},
        schema.text("name"),
        schema.text("description"),
        schema.boolean("strict"),
    )


def chosen(fields: Fields) -> ToolChoice | Fields | None:
    """``tool_choice``: a word's meaning, or the object that names a function."""
    value = fields.raw("tool_choice")
    if not isinstance(value, str):
        return fields.object("tool_choice")
    if value not in _CHOICES:
        raise fields.wrong("tool_choice", "auto, none, required or an object")
    return ToolChoice(value)
