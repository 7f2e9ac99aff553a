"""What one answer says and counts, whatever the dialect it is given in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from extproc.demo.faults import Lie

Json = dict[str, Any]

CREATED = 1_790_000_000
"""The time in every answer: the same request gives the same answer."""

Events = Iterator[tuple[bytes, int]]
"""Server-sent events, each with the output tokens produced once it is sent."""

_WORDS = ("Tokens", "buy", "outcomes", "only", "when", "somebody", "counts", "both", "of", "them")


class BadRequestError(Exception):
    """The request is not what the real API would accept; the text says why."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer. Cached and written tokens are among the input, reasoning among the output."""

    id: str
    model: str
    input_tokens: int
    output_tokens: int
    max_tokens: int | None = None
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    choices: int = 1
    include_usage: bool = False
    omit_usage: bool = False
    lie: Lie = ""
    no_done: bool = False
    first_word: int = 0

    def words(self) -> list[str]:
        """One word for each output token of a choice that is not reasoning."""
        told = self.output_tokens // self.choices - self.reasoning_tokens
        return [_WORDS[(self.first_word + n) % len(_WORDS)] + " " for n in range(told)]

    @property
    def finish(self) -> str:
        """``length`` if the caller's maximum ended it, else ``stop``."""
        return "length" if self.output_tokens // self.choices == self.max_tokens else "stop"

    def reported(self) -> tuple[Any, Any]:
        """Input and output tokens as the usage says them: the truth, unless told to lie."""
        output = self.output_tokens
        lies: dict[str, tuple[Any, Any]] = {
            "negative": (-5, -7),
            "huge": (10**18, 10**18),
            "string": ("12", "34"),
            "float": (1.5, 2.5),
            "zero": (0, 0),
            "decreasing": (self.input_tokens, output // 2),
            "over_max_tokens": (self.input_tokens, 10 * (self.max_tokens or output) + 1),
        }
        return lies.get(self.lie, (self.input_tokens, output))


def event(document: Json, kind: str = "") -> bytes:
    """A server-sent event, named if the dialect names its events."""
    name = f"event: {kind}\n".encode() if kind else b""
    return name + b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"


def require(body: Json, name: str, kinds: type | tuple[type, ...]) -> None:
    """BadRequestError unless ``body[name]`` is there in one of these types (a bool is no int)."""
    if name not in body:
        raise BadRequestError(f"Missing required parameter: '{name}'.")
    allow(body, name, kinds)


def allow(body: Json, name: str, kinds: type | tuple[type, ...]) -> None:
    """BadRequestError if ``body[name]`` is there and of none of these types."""
    if name not in body:
        return
    value = body[name]
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    wrong_bool = isinstance(value, bool) and bool not in kinds
    if wrong_bool or not isinstance(value, kinds):
        expected = " or ".join(kind.__name__ for kind in kinds)
        raise BadRequestError(f"Invalid type for '{name}': expected {expected}.")


def require_messages(body: Json) -> None:
    """BadRequestError unless ``messages`` is a list of objects with a ``role``, and not empty."""
    require(body, "messages", list)
    if not body["messages"]:
        raise BadRequestError("Invalid 'messages': empty array.")
    for place, message in enumerate(body["messages"]):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise BadRequestError(f"Missing required parameter: 'messages[{place}].role'.")


def allow_maximum(body: Json, name: str) -> None:
    """BadRequestError if a token maximum is there and not a positive integer (or null)."""
    allow(body, name, (int, type(None)))
    maximum = body.get(name)
    if maximum is not None and maximum < 1:
        raise BadRequestError(f"Invalid '{name}': expected a value >= 1, but got {maximum}.")
