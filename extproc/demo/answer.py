"""What one answer says and counts, whatever the dialect it is given in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from extproc.demo.asked import Json
from extproc.demo.faults import Lie
from extproc.demo.parts import Part

Dialect = Literal["openai", "anthropic", "gemini", "bedrock"]

CREATED = 1_790_000_000
"""The time in every answer: the same request gives the same answer."""

Events = Iterator[tuple[bytes, int]]
"""Events of a stream, each with the output tokens produced once it is sent."""

Finish = Literal["stop", "length", "tool_calls", "refusal", "stop_sequence"]

PIECES_BEFORE_ERROR = 3
"""Where a stream that is told to fail does."""

ERROR_MESSAGE = "The demo provider was told to fail."


class BadRequestError(Exception):
    """The request is not what the real API would accept; the text says why.

    ``code`` is the dialect's own: OpenAI's ``error.code``, Google's ``status``, the name of an AWS
    exception. Empty: what the status stands for.
    """

    def __init__(self, message: str, status: int = 400, code: str = "", param: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param


class Step(NamedTuple):
    """One piece of a streamed answer, and the output tokens of a choice before and after it."""

    place: int
    part: Part
    number: int
    """Of the piece in its part, from 0."""
    piece: str
    before: int
    after: int

    @property
    def is_last(self) -> bool:
        """It completes its part."""
        return self.number == len(self.part.pieces) - 1


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
    parts: tuple[Part, ...] = ()
    finish: Finish = "stop"
    stop_sequence: str = ""
    fails: bool = False
    """The stream ends in an error after its first pieces."""
    logprobs: bool = False
    encrypted_reasoning: bool = False

    @property
    def text(self) -> str:
        """Everything that is said aloud."""
        return "".join(part.text for part in self.parts if part.kind == "text")

    @property
    def hidden_tokens(self) -> int:
        """Output tokens of a choice that no part shows."""
        return (
            0
            if any(p.kind in ("thought", "redacted") for p in self.parts)
            else (self.reasoning_tokens)
        )

    def steps(self) -> Iterator[Step]:
        """The pieces in order. Thoughts are produced, and billed, before the first word, also where
        nobody sees them."""
        produced, sent = self.hidden_tokens, 0
        before = produced
        for place, part in enumerate(self.parts):
            for number, piece in enumerate(part.pieces):
                if self.fails and sent == PIECES_BEFORE_ERROR:
                    return
                after = produced + part.tokens * (number + 1) // len(part.pieces)
                yield Step(place, part, number, piece, before, after)
                before, sent = after, sent + 1
            produced += part.tokens

    @property
    def produced_before_error(self) -> int:
        """Output tokens of a stream that fails."""
        return self.choices * max((step.after for step in self.steps()), default=0)

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
