"""One message to an MCP server: what it asks for, and how it is answered when it is refused.

Only the top level is read, and of a tool call its name and its arguments. Two parsers that read the
same bytes differently are the way around every check, so whatever they could disagree about is
refused: keys that come twice, and keys that a parser without regard for case takes for another.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
from collections.abc import Iterable
from typing import NamedTuple

import msgspec
import orjson

from extproc.values.refusal import Refusal, RefusalCode
from extproc.wire.error_body import refusal_metadata
from extproc.wire.errors import WireError
from extproc.wire.json_object import JsonObject, split_object

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""What the official SDKs' servers take."""
MAX_ID_BYTES = 256
MAX_METHOD_CHARACTERS = 128
MAX_TOOL_CHARACTERS = 128
"""The longest name that the specification allows."""
MAX_NORMALISED_BYTES = 64 * 1024
"""Arguments up to this are told apart by what they mean; longer ones by their bytes, as sorting
them would hold up everybody else."""

TOOLS_CALL = "tools/call"
TOOLS_LIST = "tools/list"
MIRRORED = ("mcp-method", "mcp-name")
"""Headers that repeat the body (since 2026-07-28), for those who do not read bodies."""
SESSION_HEADER = "mcp-session-id"

_STATE = ("requestState", "inputResponses")
"""Of a call that goes on after the server asked something back."""


def _folded(*keys: str) -> dict[str, str]:
    return {key.casefold(): key for key in keys}


_KEYS = _folded("jsonrpc", "id", "method", "params", "result", "error")
_PARAMS = _folded("name", "arguments", "task", "_meta", *_STATE)
_WHITESPACE = b" \t\n\r"
_decode_any = msgspec.json.Decoder().decode

_ERROR_CODES = {
    RefusalCode.INVALID_REQUEST: -32600,
    RefusalCode.DUPLICATE_KEY: -32600,
    RefusalCode.TOOL_NOT_ALLOWED: -32602,
    RefusalCode.HEADER_MISMATCH: -32020,
    RefusalCode.INTERNAL_ERROR: -32603,
}
_REFUSED = -32000
"""The gateway's own number for what JSON-RPC and MCP have none for; ``data.code`` says more."""
_REFUSAL_KEY = "tokenweir/refusal"
"""Where a refused tool call tells programs what it tells the model in words."""


class Message(NamedTuple):
    """One JSON-RPC message, as far as it is read."""

    id: bytes | None
    """As JSON; None for a message that wants no answer."""
    method: str
    """Empty for an answer to what the server asked."""
    tool: str = ""
    """Of ``tools/call``."""
    arguments: bytes = b""
    """Of ``tools/call``, as JSON; empty for none."""
    state: bytes = b""
    """Of a call that goes on: what tells it from its beginning."""


def parse_message(body: bytes) -> Message:
    """Reads one message. Raises ``WireError``: 413 for one that is too long, 400 for what is not
    one unambiguous JSON-RPC message."""
    if len(body) > MAX_MESSAGE_BYTES:
        raise WireError(
            f"The message is longer than {MAX_MESSAGE_BYTES} bytes.",
            code=RefusalCode.REQUEST_TOO_LARGE,
        )
    if body.lstrip(_WHITESPACE)[:1] == b"[":
        raise WireError("Batches are not accepted: send each message by itself.")
    message = split_object(body)
    _check_keys(message, _KEYS)
    if message.raw("jsonrpc") != b'"2.0"':
        raise WireError("The body is not a JSON-RPC 2.0 message.", param="jsonrpc")
    request_id = _id(message)
    if "method" not in message.values:
        if request_id is None or not ("result" in message.values or "error" in message.values):
            raise WireError("The message has no method.", param="method")
        return Message(None, "")
    method = _text(message, "method", MAX_METHOD_CHARACTERS)
    if method != TOOLS_CALL:
        return Message(request_id, method)
    if request_id is None:
        raise WireError("A tool call needs an id.", param="id")
    params = split_object(message.raw("params") or b"", "params")
    _check_keys(params, _PARAMS)
    tool = _text(params, "name", MAX_TOOL_CHARACTERS)
    state = b"".join([params.raw(key) or b"" for key in _STATE])
    return Message(request_id, method, tool, params.raw("arguments") or b"", state)


def check_mirrored(message: Message, headers: Iterable[tuple[str, bytes]]) -> None:
    """Raises ``WireError`` where a header says another method or tool than the body: whoever is
    behind us may believe the header."""
    for name, value in headers:
        if name not in MIRRORED:
            continue
        if name == "mcp-method":
            same = value == message.method.encode()
        else:
            same = not message.tool or _header_text(value) == message.tool
        if not same:
            raise WireError(
                f"{name} and the body differ.", code=RefusalCode.HEADER_MISMATCH, param=name
            )


def digest_of(message: Message) -> bytes:
    """What two calls of a tool have in common when they ask for the same: key order and blanks do
    not count."""
    arguments = message.arguments
    if len(arguments) <= MAX_NORMALISED_BYTES:
        # What cannot be read as JSON is compared by its bytes.
        with contextlib.suppress(msgspec.DecodeError, RecursionError):
            arguments = msgspec.json.encode(_decode_any(arguments or b"{}"), order="sorted")
    text = b"\0".join((message.tool.encode(), arguments, message.state))
    return hashlib.blake2b(text, digest_size=16, usedforsecurity=False).digest()


# -- answers --------------------------------------------------------------------------------------


def error_message(
    refusal: Refusal, message_id: bytes | None, request_id: str, number: int
) -> bytes:
    """A JSON-RPC error: for what is wrong with the message or its sender. ``number`` is the policy
    generation's."""
    error = {
        "code": _ERROR_CODES.get(refusal.code, _REFUSED),
        "message": refusal.message,
        "data": refusal_metadata(refusal, request_id, number),
    }
    return _answer(message_id, b"error", error)


def refused_result(refusal: Refusal, message_id: bytes, request_id: str, number: int) -> bytes:
    """The result of a tool call that may not be made now: an error that the model reads."""
    metadata = refusal_metadata(refusal, request_id, number)
    advice = "Do not repeat the call."
    if refusal.retryable:
        advice = f"Try again in {refusal.retry_after_s} s."
    result = {
        "content": [{"type": "text", "text": f"{refusal.message} {advice}"}],
        "isError": True,
        "resultType": "complete",
        "_meta": {_REFUSAL_KEY: metadata},
    }
    return _answer(message_id, b"result", result)


def _answer(message_id: bytes | None, kind: bytes, value: object) -> bytes:
    return b'{"jsonrpc":"2.0","id":%b,"%b":%b}' % (message_id or b"null", kind, orjson.dumps(value))


# -- fields ---------------------------------------------------------------------------------------


def _check_keys(found: JsonObject, known: dict[str, str]) -> None:
    for key in found.values:
        meant = known.get(key.casefold())
        if meant is not None and meant != key:
            raise WireError(f"A key differs from {meant} in its letters only.")


def _id(message: JsonObject) -> bytes | None:
    raw = message.raw("id")
    if raw is None or raw == b"null":
        return None
    if len(raw) > MAX_ID_BYTES or raw[:1] not in b'"-0123456789':
        raise WireError("The id is neither a short text nor a number.", param="id")
    return raw


def _text(found: JsonObject, key: str, longest: int) -> str:
    try:
        text = msgspec.json.decode(found.raw(key) or b"", type=str)
    except msgspec.DecodeError:
        text = ""
    if not text or len(text) > longest or not text.isprintable():
        raise WireError(f"{key} must be a text of 1 to {longest} characters.", param=key)
    return text


def _header_text(value: bytes) -> str | None:
    """A header's value, which may be wrapped as ``=?base64?...?=``; None if it cannot be read."""
    try:
        if value.startswith(b"=?base64?") and value.endswith(b"?="):
            value = base64.b64decode(value[9:-2], validate=True)
        return value.decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
