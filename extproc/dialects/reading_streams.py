"""What the readers of providers' streams have in common, whatever the dialect.

``SseStreamReader`` is the reader of a stream of JSON in server-sent events: dialects say what an
event means, and what it means that the body is over. ``PartSequence`` is for the APIs whose parts
follow one another without saying where one ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from extproc.dialects.answer import (
    Delta,
    Event,
    Failed,
    PartEnded,
    PartKind,
    PartStarted,
    ProviderError,
    Shown,
)
from extproc.dialects.codec import StreamError
from extproc.dialects.conversation import Media
from extproc.dialects.sse import ServerSentEvent, SseReader

BROKEN_STATUS = 502
"""Of an error that comes inside a stream, after its 200, and of a stream without its end."""
MISSHAPEN = (ValueError, LookupError, TypeError, AttributeError)
"""What reading a document raises that is no JSON, or not of the dialect's shape."""


def ended_early() -> Failed:
    """The body was over before the answer was."""
    return Failed(ProviderError(BROKEN_STATUS, "api", "The provider's stream ended early."))


class PartSequence:
    """Parts that come one after the other: the latest, and whether it is open."""

    __slots__ = ("number", "open")

    def __init__(self) -> None:
        self.number = -1
        self.open: PartKind | None = None

    def begin(
        self,
        kind: PartKind,
        events: list[Event],
        call_id: str = "",
        name: str = "",
        redacted: str = "",
    ) -> None:
        """Opens the next part."""
        self.close(events)
        self.number += 1
        self.open = kind
        events.append(PartStarted(self.number, kind, call_id, name, redacted))

    def go_on(self, kind: PartKind, events: list[Event]) -> None:
        """Opens a part unless one of the kind is open."""
        if self.open is not kind:
            self.begin(kind, events)

    def text(self, kind: PartKind, text: str, events: list[Event]) -> None:
        """More of a part of the kind."""
        self.go_on(kind, events)
        if text:
            events.append(Delta(self.number, text))

    def show(self, media: Media, events: list[Event]) -> None:
        """A part that is there at once."""
        self.close(events)
        self.number += 1
        events.append(Shown(self.number, media))

    def close(self, events: list[Event]) -> None:
        """Ends the part that is open, if one is."""
        if self.open is not None:
            events.append(PartEnded(self.number))
            self.open = None


class SseStreamReader:
    """A ``StreamReader`` of JSON in server-sent events."""

    api = ""
    """Whose events these are, for the error."""

    def __init__(self) -> None:
        self._sse = SseReader()
        self._over = False
        """The stream has said its end: what comes after it counts for nothing."""

    def feed(self, data: bytes) -> Sequence[Event]:
        """See ``StreamReader``."""
        return self._read(self._sse.feed(data))

    def end(self) -> Sequence[Event]:
        """See ``StreamReader``."""
        events: list[Event] = []
        with suppress(StreamError):  # half an event: the stream was cut inside it
            events = self._read(self._sse.end())
        if not self._over:
            self._over = True
            self._body_over(events)
        return events

    def _read(self, read: Sequence[ServerSentEvent]) -> list[Event]:
        events: list[Event] = []
        for event in read:
            if self._over:
                break
            try:
                self._take(event.data, events)
            except MISSHAPEN:
                raise StreamError(f"an event is none of {self.api}") from None
        return events

    def _take(self, data: bytes, events: list[Event]) -> None:
        """One event's data."""
        raise NotImplementedError

    def _body_over(self, events: list[Event]) -> None:
        """The body is over, and the stream has not said its end."""
        raise NotImplementedError
