"""What a dialect's module offers: the seam that translation is built on.

A *caller* dialect reads requests and writes answers; a *target* dialect writes requests and reads
answers. Everything is pure: bytes and values in, bytes and values out, no clock, no randomness (ids
that a dialect must invent are made from ``Context.request_id``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol

from extproc.dialects.answer import Answer, Event, ProviderError
from extproc.dialects.conversation import Conversation, KnownAs, Vendor


class Context(NamedTuple):
    """What a translation knows besides the bytes."""

    request_id: str
    now_s: int
    """For ``created`` fields that a provider does not give."""
    asked_model: str
    """The name the caller asked for."""
    include_usage: bool = True
    """The caller wants the usage chunk of an OpenAI stream."""
    vendor: Vendor = Vendor.OTHER
    """Who answers: whose signatures a stream's thoughts carry."""
    known_as: Mapping[str, KnownAs] = MappingProxyType({})
    """Of the request: see ``Conversation``."""


class TargetFacts(NamedTuple):
    """What a writer must know of the model it writes for."""

    model: str
    """As the provider names it."""
    vendor: Vendor
    max_output_tokens: int | None = None
    """Of the model: Anthropic and Bedrock must be told one when the caller names none."""
    base_path: str = ""
    """Of the endpoint: what the path is put behind."""
    anthropic_version: str = "2023-06-01"
    headers: tuple[tuple[str, str], ...] = ()
    """Of the caller's request, those that a provider may read (``anthropic-beta``)."""


class WrittenRequest(NamedTuple):
    """A request as the target's API takes it."""

    path: str
    """With query string."""
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    """To set; content-type is JSON without saying."""
    dropped: tuple[str, ...] = ()
    """Fields left out that change no answer."""


class AnswerTranslation(Protocol):
    """One attempt's answer on its way to the caller."""

    @property
    def is_whole(self) -> bool:
        """Known with the headers: nothing goes on before the answer's end."""
        ...

    def on_headers(self, status: int, content_type: str, error_name: str = "") -> str:
        """The provider's status and type, and what its headers call an error; the content type that
        the caller gets."""
        ...

    def on_body(self, data: bytes, *, end: bool) -> bytes:
        """The next bytes for the caller. Raises ``WireError`` and ``StreamError``."""
        ...


class StreamReader(Protocol):
    """A provider's stream in any cut, to events. The same bytes give the same events, however they
    are cut; no event is held back longer than the bytes that complete it."""

    def feed(self, data: bytes) -> Sequence[Event]:
        """Takes the next bytes. Raises ``StreamError`` for what is no stream of the dialect."""
        ...

    def end(self) -> Sequence[Event]:
        """The body is over: a last event that had no blank line, and ``Ended`` if it is due."""
        ...


class StreamWriter(Protocol):
    """Events to the caller's stream."""

    def write(self, events: Sequence[Event]) -> bytes:
        """The bytes for some events; may be empty."""
        ...


class StreamError(Exception):
    """A provider's stream that cannot be read: too long an event, or no such framing."""


class CallerDialect(Protocol):
    """A dialect that clients speak."""

    content_type: str
    stream_content_type: str

    def read_request(self, body: bytes) -> Conversation:
        """Raises ``WireError`` for what is no request, ``UntranslatableError`` for what no other
        dialect can say."""
        ...

    def write_answer(self, answer: Answer, context: Context) -> bytes:
        """A whole answer."""
        ...

    def stream_writer(self, context: Context) -> StreamWriter:
        """For one stream."""
        ...

    def write_error(self, error: ProviderError, context: Context) -> bytes:
        """An error body."""
        ...


class TargetDialect(Protocol):
    """A dialect that providers speak."""

    def write_request(self, conversation: Conversation, facts: TargetFacts) -> WrittenRequest:
        """Raises ``UntranslatableError``."""
        ...

    def read_answer(self, body: bytes, context: Context) -> Answer:
        """Raises ``WireError`` for what is no answer."""
        ...

    def stream_reader(self, context: Context) -> StreamReader:
        """For one stream."""
        ...

    def read_error(self, status: int, body: bytes, name: str = "") -> ProviderError:
        """Total: whatever came (HTML, nothing, another shape) is some error. ``name`` is what the
        headers call it: AWS says it there and not in the body (``x-amzn-errortype``)."""
        ...
