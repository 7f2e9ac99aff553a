"""How much a request lets the model think, and how to ask for less.

A thinking budget is part of the output and must stay at least ``MIN_THINKING_TOKENS`` and below the
maximum, or the provider refuses the request. Adaptive thinking has no budget and is never touched.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from extproc.values.dialect import Operation
from extproc.wire.errors import WireError
from extproc.wire.inference_request import InferenceRequest
from extproc.wire.json_object import JsonObject, split_object

MIN_THINKING_TOKENS = 1_024
"""Anthropic's own least budget; it refuses a smaller one."""

LOW_EFFORTS = ("none", "minimal", "low")
"""Efforts that are not lowered any further."""

Edits = Mapping[str, bytes]
"""New JSON texts of top-level fields of a body, by key."""

NO_EDITS: Edits = {}
SAID_OF_EDITS = {
    "reasoning_effort": "reasoning_effort=low",
    "reasoning": "reasoning_effort=low",
    "thinking": f"thinking_budget_tokens={MIN_THINKING_TOKENS}",
}
"""What the caller is told of each field that is changed here."""

_decode_text = msgspec.json.Decoder(str).decode


def thinking_budget_tokens(request: InferenceRequest) -> int:
    """The thinking budget of an Anthropic request; 0 where none is named."""
    thinking = _thinking(request)
    raw = b"" if thinking is None else thinking.raw("budget_tokens") or b""
    # Longer is no number that any maximum exceeds: the provider's business, and not to be read.
    return int(raw) if raw.isdigit() and len(raw) <= 9 else 0


def less_thinking(request: InferenceRequest) -> Edits:
    """The thinking budget at its least; nothing where there is none, or it is so low already."""
    thinking = _thinking(request)
    if thinking is None or thinking_budget_tokens(request) <= MIN_THINKING_TOKENS:
        return NO_EDITS
    return {"thinking": thinking.patched({"budget_tokens": b"%d" % MIN_THINKING_TOKENS})}


def less_effort(request: InferenceRequest) -> Edits:
    """OpenAI's reasoning effort at ``low``; nothing where it is not named, so that a model that
    does not know the field is not sent it, or is that low already."""
    if request.operation is Operation.CHAT_COMPLETIONS:
        effort = request.body.raw("reasoning_effort")
        if effort is None or effort == b"null" or _text(effort) in LOW_EFFORTS:
            return NO_EDITS
        return {"reasoning_effort": b'"low"'}
    if request.operation is Operation.RESPONSES:
        reasoning = _object(request, "reasoning")
        if reasoning is None or _text(reasoning.raw("effort")) in LOW_EFFORTS:
            return NO_EDITS
        return {"reasoning": reasoning.patched({"effort": b'"low"'})}
    return NO_EDITS


def _thinking(request: InferenceRequest) -> JsonObject | None:
    """The thinking that has a budget."""
    if request.operation is not Operation.MESSAGES:
        return None
    thinking = _object(request, "thinking")
    if thinking is None or _text(thinking.raw("type")) != "enabled":
        return None
    return thinking


def _text(raw: bytes | None) -> str:
    """A string, however it is escaped; empty for what is none."""
    try:
        return _decode_text(raw or b"")
    except msgspec.DecodeError:
        return ""


def _object(request: InferenceRequest, key: str) -> JsonObject | None:
    """A field that is an object; None where it is not, which the provider may refuse."""
    raw = request.body.raw(key)
    if raw is None:
        return None
    try:
        return split_object(raw, key)
    except WireError:
        return None
