"""Putting turns together: neighbours of one role are one turn, and results know their tool."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import orjson

from extproc.dialects.conversation import (
    Json,
    Part,
    Role,
    ToolCall,
    ToolResult,
    Turn,
    UntranslatableError,
)
from extproc.wire.call_ids import split_call_id


def add_parts(turns: list[Turn], role: Role, parts: Iterable[Part]) -> None:
    """Appends parts to the conversation; to the last turn if it is of the same role."""
    if turns and turns[-1].role is role:
        turns[-1].parts.extend(parts)
    else:
        turns.append(Turn(role, list(parts)))


def link_tool_results(turns: Sequence[Turn]) -> None:
    """Takes signatures out of call ids again, and tells each result the name of its tool."""
    names: dict[str, str] = {}
    for turn in turns:
        for part in turn.parts:
            if isinstance(part, ToolCall):
                part.call_id, part.signature = split_call_id(part.call_id)
                names[part.call_id] = part.name
            elif isinstance(part, ToolResult):
                part.call_id, _ = split_call_id(part.call_id)
                part.name = part.name or names.get(part.call_id, "")


def arguments_object(call: ToolCall, where: str) -> Json:
    """A call's arguments as an object. Raises ``UntranslatableError``: what a model wrote may be no
    JSON."""
    try:
        arguments = orjson.loads(call.arguments or "{}")
    except orjson.JSONDecodeError:
        arguments = None
    if not isinstance(arguments, dict):
        raise UntranslatableError(where, "the arguments of a tool call are no JSON object")
    return arguments
