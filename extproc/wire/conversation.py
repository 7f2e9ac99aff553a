"""Which conversation a request belongs to, when the caller does not say so in a header.

A session limit must hold for callers that send no session header, so the session is taken from what
an agent repeats on every turn: how the conversation began.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator

import msgspec

from extproc.wire.inference_request import InferenceRequest

OPENING_BYTES = 256 * 1024
"""How much of the prompt is looked at. A longer opening is cut here, on every turn alike."""

DIGEST_BYTES = 12
"""96 bits: no two conversations of one credential meet by chance."""

_SCAN = json.JSONDecoder().raw_decode
_SEPARATORS = re.compile(r"[ \t\n\r,]*")
_LONE_SURROGATES = "surrogatepass"


class _Metadata(msgspec.Struct):
    user_id: str | None = None


_decode_metadata = msgspec.json.Decoder(_Metadata | None).decode


def conversation_root(request: InferenceRequest) -> str:
    """A digest that is the same on every turn of a conversation.

    It is Anthropic's ``metadata.user_id`` when given: Claude Code puts user, account and session
    into it. Else it is made of the system prompt and the messages up to the first of the user. On
    later turns clients move cache markers, and write the same text as a string or as a list of
    blocks, so only texts and roles count. Other callers of the same prompt share the digest: it
    groups, it does not identify.
    """
    body = request.body
    named = _user_id(body.raw("metadata"))
    if named:
        return _digest("user_id\0" + named)
    texts = [_opening_text(body.raw("system")), _opening_text(body.raw("instructions"))]
    raw = body.raw("messages") or body.raw("input") or body.raw("prompt") or b""
    texts.append(_opening_text(raw, stop_at_user=True))
    return _digest("\0".join(texts))


def _user_id(metadata: bytes | None) -> str:
    if metadata is None:
        return ""
    try:
        decoded = _decode_metadata(metadata)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
    return (decoded and decoded.user_id) or ""


def _digest(text: str) -> str:
    data = text.encode("utf-8", _LONE_SURROGATES)
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).hexdigest()


def _opening_text(raw: bytes | None, *, stop_at_user: bool = False) -> str:
    """The texts of a JSON value; of a list of messages only those up to the first of the user."""
    if raw is None:
        return ""
    # Cut bytes may end inside a character; what is left out is left out on every turn.
    text = raw[:OPENING_BYTES].decode("utf-8", "ignore")
    if not text.startswith("["):
        try:
            return "\0".join(_texts(_SCAN(text)[0]))
        except (ValueError, RecursionError):
            return text
    found: list[str] = []
    at = _skip(text, 1)
    while not text.startswith("]", at):
        try:
            element, end = _SCAN(text, at)
            found += _texts(element)
        except (ValueError, RecursionError):  # cut, or numbers and nesting beyond the parser's
            found.append(text[at:])
            break
        if stop_at_user and (not isinstance(element, dict) or element.get("role") == "user"):
            break
        at = _skip(text, end)
    return "\0".join(found)


def _skip(text: str, at: int) -> int:
    separators = _SEPARATORS.match(text, at)
    assert separators is not None, "the pattern matches the empty string"
    return separators.end()


def _texts(value: object) -> Iterator[str]:
    """Every string that is content, in order; markers such as ``cache_control`` are not."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for element in value:
            yield from _texts(element)
    elif isinstance(value, dict):
        for key, element in value.items():
            if key not in ("cache_control", "type", "id", "status"):
                yield from _texts(element)
