"""What an answer consists of: words by default, or what the fault ``answer`` asks for.

The same kind means the same in every dialect, whole or streamed. Nothing is drawn by chance: the
same request gets the same parts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from extproc.demo.asked import Asked, ToolSpec
from extproc.demo.sample import sample

AnswerKind = Literal[
    "text",
    "tools",
    "parallel_tools",
    "thinking",
    "thinking_tools",
    "redacted_thinking",
    "json",
    "refusal",
    "stop_sequence",
    "image",
    "long",
    "error",
]
PartKind = Literal["text", "thought", "redacted", "call", "refusal", "image"]

DEFAULT_REASONING_TOKENS = 8
"""Of an answer that is to think, where ``reasoning_tokens`` says no other number."""

PIECE_CHARACTERS = 7
"""JSON is streamed in pieces of this many characters: they cut through names, numbers, escapes."""

PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJg"
    "gg=="
)
"""The image of every answer that has one: a single pixel, in base64."""

_WORDS = ("Tokens", "buy", "outcomes", "only", "when", "somebody", "counts", "both", "of", "them")
_THOUGHTS = ("First", "I", "weigh", "what", "each", "token", "would", "buy")
_REFUSAL = ("I", "cannot", "help", "with", "that")


@dataclass(frozen=True, slots=True)
class Part:
    """One part. ``pieces`` are its deltas, together ``tokens`` long."""

    kind: PartKind
    pieces: tuple[str, ...]
    tokens: int
    name: str = ""
    """Of a call: the tool."""
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """All of it: words, thoughts, or the arguments as JSON."""
        return "".join(self.pieces)


def parts_of(
    kind: AnswerKind, asked: Asked, tokens: int, reasoning_tokens: int, first_word: int
) -> tuple[Part, ...]:
    """The parts of an answer of ``tokens``, thoughts included."""
    told = tokens - reasoning_tokens
    parts: list[Part] = []
    if kind in ("thinking", "thinking_tools"):
        parts.append(_words("thought", _THOUGHTS, 0, reasoning_tokens))
    elif kind == "redacted_thinking":
        thought = _words("thought", _THOUGHTS, 0, reasoning_tokens).text
        parts.append(Part("redacted", (thought,), reasoning_tokens))
    calls = asked.tools_to_call(2 if kind == "parallel_tools" else 1)
    if kind in ("tools", "thinking_tools", "parallel_tools") and calls:
        if kind == "parallel_tools":
            spoken = min(3, told)
            parts.append(_words("text", _WORDS, first_word, spoken))
            told -= spoken
        return (*parts, *_calls(calls, told))
    if kind == "json":
        schema = asked.schema if asked.schema is not None else _ANY_ANSWER
        return (*parts, Part("text", _cut(json.dumps(sample(schema))), told))
    if kind == "refusal":
        return (_words("refusal", _REFUSAL, 0, told),)
    parts.append(_words("text", _WORDS, first_word, told))
    if kind == "image":
        parts.append(Part("image", (PNG,), 0))
    return tuple(parts)


_ANY_ANSWER = {"type": "object", "properties": {"answer": {"type": "string"}}}


def _words(kind: PartKind, words: Sequence[str], first: int, tokens: int) -> Part:
    """One word a token."""
    pieces = tuple(words[(first + place) % len(words)] + " " for place in range(tokens))
    return Part(kind, pieces, tokens)


def _calls(tools: Sequence[ToolSpec], tokens: int) -> list[Part]:
    share = tokens // len(tools)
    calls = []
    for place, tool in enumerate(tools):
        arguments = sample(tool.schema, f"sample {place + 1}")
        arguments = arguments if isinstance(arguments, dict) else {}
        counted = tokens - share * (len(tools) - 1) if place == 0 else share
        calls.append(Part("call", _cut(json.dumps(arguments)), counted, tool.name, arguments))
    return calls


def _cut(text: str) -> tuple[str, ...]:
    return tuple(
        text[start : start + PIECE_CHARACTERS] for start in range(0, len(text), PIECE_CHARACTERS)
    )
