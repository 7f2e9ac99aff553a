"""An answer as every dialect can tell it: whole, or as the events of a stream.

A stream is the same in pieces: ``Started``, then for each part ``PartStarted``, its deltas and
``PartEnded`` (for an image ``Shown`` alone), then ``Stopped`` and ``Ended``. Readers give these
events in that order and close a part before they open the next one, whatever the provider
interleaves; writers rely on it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from extproc.dialects.conversation import Json, Media, Part
from extproc.values.usage import TokenUsage


class Stop(StrEnum):
    """Why an answer ended."""

    END = "end"
    MAX_TOKENS = "max_tokens"
    STOP_SEQUENCE = "stop_sequence"
    TOOL_CALLS = "tool_calls"
    REFUSAL = "refusal"
    """The model refused, or a content filter cut the answer."""
    PAUSE = "pause"
    """Anthropic ``pause_turn``: the caller is to send the answer back to go on."""
    CONTEXT_FULL = "context_full"


@dataclass(slots=True)
class Answer:
    """One complete answer."""

    answer_id: str
    model: str
    """As the provider names it."""
    parts: list[Part]
    stop: Stop
    usage: TokenUsage | None
    """None when the provider said none."""
    stop_sequence: str = ""
    logprobs: list[Json] = field(default_factory=list)
    """OpenAI's ``content`` entries of the first choice, as they came."""
    created_s: int = 0
    """Seconds since 1970 as the provider says; 0 when it does not."""
    others: list[Answer] = field(default_factory=list)
    """Further choices (``n`` > 1): their parts and stop only."""


class PartKind(StrEnum):
    """What kind of part a stream opens."""

    TEXT = "text"
    THINKING = "thinking"
    TOOL_CALL = "tool_call"
    REFUSED = "refused"


class Started(NamedTuple):
    """The provider has begun. ``usage`` is what it said so far (Anthropic: the input)."""

    answer_id: str
    model: str
    usage: TokenUsage | None
    created_s: int = 0


class PartStarted(NamedTuple):
    """A part begins. ``part`` counts from 0. ``call_id`` and ``name`` are of tool calls."""

    part: int
    kind: PartKind
    call_id: str = ""
    name: str = ""
    redacted: str = ""
    """Thinking that is withheld: its whole data, no deltas follow."""


class Delta(NamedTuple):
    """More of the part that is open: text, thought, refusal, or argument JSON."""

    part: int
    text: str
    logprobs: tuple[Json, ...] = ()


class Signature(NamedTuple):
    """The signature of the thinking (or Google: of the tool call) that is open."""

    part: int
    signature: str


class PartEnded(NamedTuple):
    """The part is complete."""

    part: int


class Shown(NamedTuple):
    """A part that is an image: it comes whole, and nothing else of it follows."""

    part: int
    media: Media


class Stopped(NamedTuple):
    """Why it ended, and the final usage as far as it is known by now."""

    stop: Stop
    stop_sequence: str = ""
    usage: TokenUsage | None = None


class Ping(NamedTuple):
    """Sign of life: forwarded, because clients give up on a silent stream."""


class Failed(NamedTuple):
    """The provider broke off with an error inside the stream."""

    error: ProviderError


class Ended(NamedTuple):
    """Nothing follows. ``usage`` is final when the provider said so."""

    usage: TokenUsage | None


Event = (
    Started | PartStarted | Delta | Signature | PartEnded | Shown | Stopped | Ping | Failed | Ended
)


class ProviderError(NamedTuple):
    """An error of a provider, by meaning: each writer gives it its own dialect's shape."""

    status: int
    kind: str
    """``invalid_request``, ``authentication``, ``permission``, ``not_found``, ``too_large``,
    ``rate_limit``, ``overloaded``, ``timeout``, ``context_length``, ``content_filter``, ``api``."""
    message: str
    """The provider's own words: clients branch on them, so they are kept."""
    param: str = ""
    code: str = ""
    """The provider's own machine code, kept as it came."""
