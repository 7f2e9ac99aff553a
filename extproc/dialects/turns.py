"""Putting turns together: neighbours of one role are one turn, results know their tool, and what an
API demands of their order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import orjson

from extproc.dialects.conversation import (
    Json,
    Media,
    Part,
    Role,
    Text,
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
    arguments = _parsed(call.arguments)
    if not isinstance(arguments, dict):
        raise UntranslatableError(where, "the arguments of a tool call are no JSON object")
    return arguments


def shown_arguments(arguments: str, otherwise: str) -> Json:
    """A model's arguments as the object that clients expect. What is none is kept under the key
    ``otherwise``, so that the caller sees what the model wrote."""
    value = _parsed(arguments)
    return value if isinstance(value, dict) else {otherwise: value}


def _parsed(arguments: str) -> Any:
    """The text itself where it is no JSON."""
    try:
        return orjson.loads(arguments or "{}")
    except orjson.JSONDecodeError:
        return arguments


def results_first(parts: Iterable[Part]) -> list[Part]:
    """A user's parts as Claude demands them: results answer the calls before them."""
    return sorted(parts, key=lambda part: not isinstance(part, ToolResult))


_BEGIN = "."
"""What a user says who has said nothing: the least that providers take for words."""


def told_turns(turns: Sequence[Turn], is_told: Callable[[Part], bool]) -> list[Turn]:
    """The turns without the parts that a target is not told, alternating also where nothing of a
    turn is left."""
    told: list[Turn] = []
    for turn in turns:
        parts = [part for part in turn.parts if is_told(part)]
        if parts:
            add_parts(told, turn.role, parts)
    return told


def opened_by_user(turns: Sequence[Turn]) -> tuple[list[Turn], list[str]]:
    """The turns as those APIs want them that know no conversation without a user's first word, and
    what is to be told of it."""
    if turns and turns[0].role is Role.USER:
        return list(turns), []
    return [Turn(Role.USER, [Text(_BEGIN)]), *turns], ["messages[0].role"] if turns else []


def without_trailing_space(turns: Sequence[Turn]) -> list[Turn]:
    """The turns, where the last one is an answer that has begun without space at its end, which
    Claude refuses to go on from."""
    if not turns or turns[-1].role is not Role.ASSISTANT or not turns[-1].parts:
        return list(turns)
    *parts, last = turns[-1].parts
    if not isinstance(last, Text) or last.text == last.text.rstrip():
        return list(turns)
    kept = replace(last, text=last.text.rstrip())
    return [*turns[:-1], Turn(Role.ASSISTANT, [*parts, kept])]


def calls_in_words(turns: Sequence[Turn]) -> list[Turn]:
    """The turns with calls and results as text, for APIs that take those with tools only: what was
    called and what came of it is told, and nothing can be called."""
    return [Turn(turn.role, list(_in_words(turn.parts))) for turn in turns]


def has_calls(turns: Sequence[Turn]) -> bool:
    """Whether some turn calls a tool or gives a result."""
    return any(isinstance(part, ToolCall | ToolResult) for turn in turns for part in turn.parts)


def _says(part: Text | Media) -> bool:
    return isinstance(part, Media) or bool(part.text.strip())


def _in_words(parts: Iterable[Part]) -> Iterator[Part]:
    for part in parts:
        if isinstance(part, ToolCall):
            yield Text(f"[called the tool {part.name} with {part.arguments}]")
        elif isinstance(part, ToolResult):
            what = "failed" if part.is_error else "answered"
            yield Text(f"[the tool {part.name} {what}:]".replace("  ", " "))
            yield from (said for said in part.parts if _says(said))
        else:
            yield part
