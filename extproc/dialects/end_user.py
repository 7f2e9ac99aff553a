"""The name of whoever uses the caller's product, as long as a provider takes it."""

from __future__ import annotations

import hashlib

OPENAI_CHARACTERS = 64
ANTHROPIC_CHARACTERS = 256


def end_user_id(name: str, most_characters: int) -> str:
    """The name, or a digest of one that is too long: the same user stays the same user. Claude Code
    puts device, account and session into it, some 190 characters."""
    if len(name) <= most_characters:
        return name
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
