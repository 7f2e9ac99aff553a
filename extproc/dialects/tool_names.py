"""Names of tools that every target takes."""

from __future__ import annotations

import hashlib

MAX_NAME_CHARACTERS = 64
"""Of a function at OpenAI, Bedrock and Google. Anthropic takes twice as many, and agents put the
names of a plugin, a server and a tool into one."""
_DIGEST_CHARACTERS = 8


def short_name(name: str) -> str:
    """The name, or the same one of that length for a longer one: its beginning and a digest."""
    if len(name) <= MAX_NAME_CHARACTERS:
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    kept = name[: MAX_NAME_CHARACTERS - _DIGEST_CHARACTERS - 1]
    return f"{kept}_{digest[:_DIGEST_CHARACTERS]}"
