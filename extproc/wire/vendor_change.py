"""What an earlier vendor left in a conversation, where it goes on at the caller's own.

Answers that were translated hand the caller thoughts that another vendor signed, or nobody, and ids
of calls that another vendor made. Those of Claude and of OpenAI refuse both, and a request to them
in their own dialect is not translated: here its few bytes that they refuse are edited out. Every
other byte stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec
import orjson

from extproc.values.dialect import Operation
from extproc.wire.call_ids import (
    CHAT_ID_CHARACTERS,
    CLAUDE_ID_CHARACTERS,
    FOREIGN,
    RESPONSES_ID_CHARACTERS,
    fitting_call_id,
    split_call_id,
)
from extproc.wire.errors import WireError
from extproc.wire.inference_request import InferenceRequest
from extproc.wire.json_object import JsonObject, split_object

MARK = FOREIGN.encode()
"""A request without it has nothing that is edited here."""
MAX_OBJECTS = 1_000_000
"""JSON objects in a conversation, braces in its texts counted too. Each may take 50 bytes for a
moment; the longest sessions have some ten thousand. One with more is left to the vendor."""
MAX_ID_BYTES = CLAUDE_ID_CHARACTERS + 2
"""With its quotes. Anthropic names no bound of ids; with a signature in them they have thousands of
characters, which the prompt may hold too."""
_ID_KEYS = {"tool_use": "id", "tool_result": "tool_use_id"}
_THOUGHTS = ("thinking", "redacted_thinking")


class Change(NamedTuple):
    """What becomes of a request."""

    edits: dict[str, bytes]
    """New JSON texts of its top-level fields."""
    dropped: tuple[str, ...]
    """What was left out, for people."""


NO_CHANGE = Change({}, ())


class _Message(msgspec.Struct):
    role: str = ""
    content: msgspec.Raw = msgspec.Raw(b"")
    tool_calls: msgspec.Raw = msgspec.Raw(b"")
    tool_call_id: str | None = None


class _Block(msgspec.Struct):
    type: str = ""
    signature: str | None = None
    data: str | None = None
    encrypted_content: str | None = None
    call_id: str | None = None


_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_message = msgspec.json.Decoder(_Message).decode
_decode_block = msgspec.json.Decoder(_Block).decode


def change_of(request: InferenceRequest) -> Change:
    """The change that the caller's own vendor needs. What cannot be read is left to the vendor to
    refuse."""
    edit = _EDITS.get(request.operation)
    if edit is None or request.body.body.count(b"{") > MAX_OBJECTS:
        return NO_CHANGE
    try:
        return edit(request.body)
    except (msgspec.DecodeError, UnicodeDecodeError, WireError):
        return NO_CHANGE


def _of_messages(body: JsonObject) -> Change:
    """Anthropic: no thought but its own. Where it is to think (by a budget) and the tools that it
    is given the results of were called without a thought of its own, it refuses to: it does not
    think then, until the next question."""
    before = [bytes(raw) for raw in _decode_list(body.raw("messages") or b"[]")]
    dropped: list[str] = []
    messages = _told(before, dropped)
    edits = {} if messages == before else {"messages": _joined(messages)}
    if _thinks_by_budget(body) and _in_thoughtless_round(messages):
        edits["thinking"] = b'{"type":"disabled"}'
        dropped.append("thinking")
        kept = _without_clearing(body)
        if kept is not None:
            edits["context_management"] = kept
    return Change(edits, tuple(dropped))


def _told(messages: list[bytes], dropped: list[str]) -> list[bytes]:
    """The messages without foreign thoughts, and with ids that are not longer for what travels in
    them."""
    told: list[bytes] = []
    for message in messages:
        blocks = _blocks(message) if MARK in message else []
        own = [block for block in blocks if not _is_foreign(block)]
        if len(own) < len(blocks):
            dropped[:] = ["messages.thinking"]
        written = [_with_short_id(block) for block in own]
        if written == blocks:
            told.append(message)
        elif written:  # a message of nothing else is left out: it may not be empty
            told.append(split_object(message).replaced("content", _joined(written)))
    return told


def _with_short_id(block: bytes) -> bytes:
    key = _ID_KEYS.get(_decode_block(block).type) if MARK in block else None
    if key is None:
        return block
    name = split_object(block).raw(key) or b""
    return _renamed(block, key, CLAUDE_ID_CHARACTERS) if len(name) > MAX_ID_BYTES else block


def _blocks(message: bytes) -> list[bytes]:
    """Of a message whose content is a list; none of one in plain text."""
    content = bytes(_decode_message(message).content)
    return list(map(bytes, _decode_list(content))) if content.startswith(b"[") else []


def _is_foreign(raw: bytes) -> bool:
    if MARK not in raw:
        return False
    block = _decode_block(raw)
    signature = block.signature if block.type == "thinking" else block.data
    return block.type in _THOUGHTS and (signature or "").startswith(FOREIGN)


def _thinks_by_budget(body: JsonObject) -> bool:
    raw = body.raw("thinking") or b""
    return raw.startswith(b"{") and split_object(raw).raw("type") == b'"enabled"'


def _in_thoughtless_round(messages: list[bytes]) -> bool:
    """The last turn gives results, and the turn before it does not begin with a thought.
    Neighbours of one role are one turn."""
    rest = list(messages)
    results = False
    while rest and _decode_message(rest[-1]).role == "user":
        kinds = [_decode_block(block).type for block in _blocks(rest.pop())]
        results = results or "tool_result" in kinds
    first = ""
    while rest and _decode_message(rest[-1]).role == "assistant":
        blocks = _blocks(rest.pop())
        first = _decode_block(blocks[0]).type if blocks else "text"
    return results and first not in _THOUGHTS


def _without_clearing(body: JsonObject) -> bytes | None:
    """``context_management`` without what clears old thoughts, which Anthropic refuses where it
    does not think; None where nothing of it changes."""
    raw = body.raw("context_management") or b""
    if b"clear_thinking" not in raw:
        return None
    management = split_object(raw)
    edits = [bytes(edit) for edit in _decode_list(management.raw("edits") or b"[]")]
    kept = [edit for edit in edits if not _decode_block(edit).type.startswith("clear_thinking")]
    return management.patched({"edits": _joined(kept)})


def _of_chat(body: JsonObject) -> Change:
    """OpenAI chat: ids no longer than its own. What travelled in them is for their own vendor."""
    messages = [_with_short_ids(bytes(raw)) for raw in _decode_list(body.raw("messages") or b"[]")]
    return Change({"messages": _joined(messages)}, ())


def _with_short_ids(message: bytes) -> bytes:
    if MARK not in message:
        return message
    told = _decode_message(message)
    calls = bytes(told.tool_calls)
    if calls.startswith(b"["):
        written = [_renamed(bytes(raw), "id", CHAT_ID_CHARACTERS) for raw in _decode_list(calls)]
        return split_object(message).replaced("tool_calls", _joined(written))
    if told.tool_call_id is not None:
        return _renamed(message, "tool_call_id", CHAT_ID_CHARACTERS)
    return message


def _of_responses(body: JsonObject) -> Change:
    """OpenAI's responses: no reasoning but its own, and ids no longer than its own."""
    raw = body.raw("input") or b""
    if not raw.startswith(b"["):
        return NO_CHANGE
    items: list[bytes] = []
    removed = False
    for item in map(bytes, _decode_list(raw)):
        known = _decode_block(item) if MARK in item else _Block()
        if known.type == "reasoning" and (known.encrypted_content or "").startswith(FOREIGN):
            removed = True
        elif known.call_id is not None:
            items.append(_renamed(item, "call_id", RESPONSES_ID_CHARACTERS))
        else:
            items.append(item)
    return Change({"input": _joined(items)}, ("input.reasoning",) if removed else ())


def _renamed(raw: bytes, key: str, most: int) -> bytes:
    """The object with its id as the vendor takes it."""
    parsed = split_object(raw)
    value = parsed.raw(key)
    call_id = None if value is None else orjson.loads(value)
    if not isinstance(call_id, str) or FOREIGN not in call_id:
        return raw
    return parsed.replaced(key, orjson.dumps(fitting_call_id(split_call_id(call_id)[0], most)))


def _joined(items: list[bytes]) -> bytes:
    return b"[%b]" % b",".join(items)


_EDITS: dict[Operation, Callable[[JsonObject], Change]] = {
    Operation.MESSAGES: _of_messages,
    Operation.COUNT_TOKENS: _of_messages,
    Operation.CHAT_COMPLETIONS: _of_chat,
    Operation.RESPONSES: _of_responses,
}
