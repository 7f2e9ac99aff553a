"""Putting turns together: neighbours of one role are one turn, and results know their tool."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from extproc.dialects.conversation import Part, Role, ToolCall, ToolResult, Turn


def add_parts(turns: list[Turn], role: Role, parts: Iterable[Part]) -> None:
    """Appends parts to the conversation; to the last turn if it is of the same role."""
    if turns and turns[-1].role is role:
        turns[-1].parts.extend(parts)
    else:
        turns.append(Turn(role, list(parts)))


def name_tool_results(turns: Sequence[Turn]) -> None:
    """Tells each tool result the name of the tool that it answers, where the call is there."""
    names: dict[str, str] = {}
    for turn in turns:
        for part in turn.parts:
            if isinstance(part, ToolCall):
                names[part.call_id] = part.name
            elif isinstance(part, ToolResult) and not part.name:
                part.name = names.get(part.call_id, "")
