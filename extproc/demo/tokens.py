"""Counting input tokens: with a real encoding where one is installed, by length otherwise."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Literal

TokenizerMode = Literal["real", "byte"]

ENCODING = "o200k_base"
BYTES_PER_TOKEN_TENTHS = 36
"""3.6 bytes a token: English prose, where no encoding is installed."""

REAL_LIMIT_BYTES = 256 * 1024
"""Longer prompts are counted by length, so that tokenizing one never stalls the other streams."""
SAMPLE_BYTES = 64 * 1024
"""Of a longer prompt, so much is really counted: the rest is taken to be alike."""

_PROMPT_FIELDS = (
    "system",
    "systemInstruction",
    "instructions",
    "tools",
    "toolConfig",
    "messages",
    "contents",
    "input",
    "prompt",
)


class Tokenizer:
    """Counts the tokens of prompts. ``name`` says how."""

    def __init__(self) -> None:
        self._encode = _load_encoding()
        self.name = ENCODING if self._encode else "bytes/3.6 (bpe-openai is not installed)"

    def count_text(self, text: str) -> int:
        """Tokens of a text; never more than its UTF-8 bytes."""
        encoded = text.encode("utf-8", "replace")
        if self._encode is None:
            return -(-len(encoded) * 10 // BYTES_PER_TOKEN_TENTHS)
        if len(encoded) > REAL_LIMIT_BYTES:
            sample = self._encode(encoded[:SAMPLE_BYTES].decode("utf-8", "ignore"))
            return len(encoded) * len(sample) // SAMPLE_BYTES
        return len(self._encode(encoded.decode()))

    def count_prompt(self, body: dict[str, Any], raw: bytes, mode: TokenizerMode) -> int:
        """Input tokens of a request, without the hidden template.

        ``byte`` is the worst tokenizer there can be: every byte of the whole body is a token.
        """
        return len(raw) if mode == "byte" else self.count_text(prompt_text(body))


def prompt_text(body: dict[str, Any]) -> str:
    """Every string (and object key) that a model would read, a line each.

    Never longer than the JSON it came from: each string had two quotes there, and an escape is
    longer than what it stands for.
    """
    found: list[str] = []
    # A stack, not recursion: the nesting is the caller's.
    stack: list[Any] = [body[name] for name in reversed(_PROMPT_FIELDS) if name in body]
    while stack:
        value = stack.pop()
        if isinstance(value, str):
            found.append(value)
        elif isinstance(value, list):
            stack.extend(reversed(value))
        elif isinstance(value, dict):
            for name, inner in reversed(value.items()):
                stack += (inner, name)
    return "\n".join(found)


def _load_encoding() -> Callable[[str], list[int]] | None:
    """The real encoder, or None where its package is missing or broken."""
    try:
        encoding = importlib.import_module("bpe_openai").get_encoding(ENCODING)
    except (ImportError, AttributeError, OSError, ValueError):
        return None
    encode: Callable[[str], list[int]] = encoding.encode_ordinary
    return encode
