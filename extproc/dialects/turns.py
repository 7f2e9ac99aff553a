"""Putting turns together: neighbours of one role are one turn, and results know their tool."""

from __future__ import annotations

import base64
import binascii
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

_MARK = "__sig__"
"""Between a call's id and its signature. Ids of all vendors are letters, digits, _ and -."""


def add_parts(turns: list[Turn], role: Role, parts: Iterable[Part]) -> None:
    """Appends parts to the conversation; to the last turn if it is of the same role."""
    if turns and turns[-1].role is role:
        turns[-1].parts.extend(parts)
    else:
        turns.append(Turn(role, list(parts)))


def signed_call_id(call_id: str, signature: str) -> str:
    """A call's id with its signature in it. Google wants the signature back with the call, and no
    other dialect has a field for it; every client gives ids back as they are."""
    if not signature:
        return call_id
    try:
        raw = base64.b64decode(signature, validate=True)
    except (binascii.Error, ValueError):
        return call_id
    return f"{call_id}{_MARK}{base64.urlsafe_b64encode(raw).decode().rstrip('=')}"


def link_tool_results(turns: Sequence[Turn]) -> None:
    """Takes signatures out of call ids again, and tells each result the name of its tool."""
    names: dict[str, str] = {}
    for turn in turns:
        for part in turn.parts:
            if isinstance(part, ToolCall):
                part.call_id, part.signature = _split(part.call_id)
                names[part.call_id] = part.name
            elif isinstance(part, ToolResult):
                part.call_id, _ = _split(part.call_id)
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


def _split(call_id: str) -> tuple[str, str]:
    name, mark, coded = call_id.partition(_MARK)
    if not mark:
        return call_id, ""
    try:
        raw = base64.urlsafe_b64decode(coded + "=" * (-len(coded) % 4))
    except (binascii.Error, ValueError):
        return call_id, ""
    return name, base64.b64encode(raw).decode()
