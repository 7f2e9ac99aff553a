"""Ids of tool calls, as other vendors take them, and what travels in them.

A vendor refuses ids that are longer than its own, or hold other characters. What fits is left as it
is; what does not becomes a short form of itself, the same for a call and its result, now and in
every later turn.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re

FOREIGN = "__tokenweir-foreign-"
"""In ids of calls and in signatures of thinking: another vendor's, handed to a caller whose own
vendor would not know it. Looked for in the bytes of every request that is not translated, so it is
long (which makes the search fast) and needs no escape in JSON. All vendors' ids and base64 are
letters, digits, _ and - at most, and none holds this."""

CHAT_ID_CHARACTERS = 40
RESPONSES_ID_CHARACTERS = 64
CLAUDE_ID_CHARACTERS = 64
"""The longest that OpenAI's two APIs and Claude take. Anthropic names no bound; Bedrock does."""

_PLAIN = re.compile(r"[A-Za-z0-9_-]+")
_SHORT_CHARACTERS = 32
"""Of the hash in a short form: 128 bits, so no two ids meet. With its prefix 37, below OpenAI's 40,
which is the least of all bounds."""


def marked_call_id(call_id: str) -> str:
    """The id of a call that another vendor's model made."""
    return call_id if FOREIGN in call_id else call_id + FOREIGN


def signed_call_id(call_id: str, signature: str) -> str:
    """A call's id with its signature in it. Google wants the signature back with the call, and no
    other dialect has a field for it; every client gives ids back as they are."""
    if not signature:
        return call_id
    try:
        raw = base64.b64decode(signature, validate=True)
    except (binascii.Error, ValueError):
        return call_id
    return f"{call_id}{FOREIGN}{base64.urlsafe_b64encode(raw).decode().rstrip('=')}"


def split_call_id(call_id: str) -> tuple[str, str]:
    """The id as its vendor made it, and the signature that travelled in it; empty if none did."""
    name, mark, coded = call_id.partition(FOREIGN)
    if not mark or not name:
        return call_id, ""
    try:
        raw = base64.urlsafe_b64decode(coded + "=" * (-len(coded) % 4))
    except (binascii.Error, ValueError):
        return call_id, ""
    return name, base64.b64encode(raw).decode()


def fitting_call_id(call_id: str, most: int, *, plain: bool = False) -> str:
    """The id, or its short form where it is longer than ``most`` or, if ``plain``, holds anything
    but letters, digits, _ and -."""
    if 0 < len(call_id) <= most and (not plain or _PLAIN.fullmatch(call_id)):
        return call_id
    digest = hashlib.sha256(call_id.encode("utf-8", "surrogatepass")).hexdigest()
    return f"call_{digest[:_SHORT_CHARACTERS]}"
