"""What writers may rely on, whatever a provider sends: events in their order, text that is text.

Readers take what they need from documents that may hold anything. Here it is checked once, for all
dialects: an answer that fails it is cut, and never half written.
"""

from __future__ import annotations

from collections.abc import Iterable

from extproc.dialects.answer import (
    Answer,
    Delta,
    Ended,
    Event,
    PartEnded,
    PartKind,
    PartStarted,
    Shown,
    Signature,
    Started,
    Stopped,
)
from extproc.dialects.codec import StreamError
from extproc.dialects.conversation import Media, Part, Refused, Text, Thinking, ToolCall
from extproc.wire.errors import WireError

_FIELDS: dict[type, tuple[type, ...]] = {
    PartStarted: (int, PartKind, str, str, str),
    Delta: (int, str, tuple),
    Signature: (int, str),
}
"""The types of an event's fields."""
_TEXTS: dict[type, tuple[str, ...]] = {
    Text: ("text",),
    Refused: ("text",),
    Thinking: ("text", "signature"),
    ToolCall: ("call_id", "name", "arguments"),
    Media: ("kind", "media_type", "data"),
}
"""The fields of a part that are text."""


def check_answer(answer: Answer) -> None:
    """Raises ``WireError`` for an answer with something else where text belongs."""
    for one in (answer, *answer.others):
        for part in one.parts:
            _check_part(part)
    if not all(map(_is_logprob, answer.logprobs)):
        raise WireError("The provider's answer has log probabilities that are none.")


def _is_logprob(entry: object, *, nested: bool = True) -> bool:
    """Whether it is an entry of OpenAI's log probabilities."""
    if not isinstance(entry, dict) or type(entry.get("logprob")) not in (int, float):
        return False
    units, top = entry.get("bytes") or [], entry.get("top_logprobs") or []
    return (
        type(entry.get("token")) is str
        and isinstance(units, list)
        and all(type(unit) is int for unit in units)
        and isinstance(top, list)
        and (nested or not top)
        and all(_is_logprob(one, nested=False) for one in top)
    )


def _check_part(part: Part) -> None:
    for name in _TEXTS[type(part)]:
        if type(getattr(part, name)) is not str:
            raise WireError(f"The provider's answer has no text as the {name} of a part.")


class EventOrder:
    """The order of one stream's events: a part is opened after the start, goes on while it is open,
    and is closed before the next one and before the end."""

    __slots__ = ("_next", "_open", "_started")

    def __init__(self) -> None:
        self._started = False
        self._open = -1
        """The part that is open; -1 when none is."""
        self._next = 0

    def check(self, events: Iterable[Event]) -> None:
        """Raises ``StreamError`` for the first event that is out of order, or of other types."""
        for event in events:
            kind = type(event)
            fields = _FIELDS.get(kind)
            if fields is not None and tuple(map(type, event)) != fields:
                raise StreamError("an event has no text where text belongs")
            if isinstance(event, Delta) and not all(map(_is_logprob, event.logprobs)):
                raise StreamError("an event has log probabilities that are none")
            if isinstance(event, Delta | Signature | PartEnded):
                self._goes_on(event)
            elif isinstance(event, PartStarted | Shown):
                self._begins(event)
            elif isinstance(event, Started):
                if self._started:
                    raise StreamError("an answer begins twice")
                self._started = True
            elif isinstance(event, Stopped | Ended) and (self._open >= 0 or not self._started):
                raise StreamError("an answer ends that is not complete")

    def _goes_on(self, event: Delta | Signature | PartEnded) -> None:
        if event.part != self._open or self._open < 0:
            raise StreamError("a part goes on that is not open")
        if isinstance(event, PartEnded):
            self._open = -1

    def _begins(self, event: PartStarted | Shown) -> None:
        if not self._started or self._open >= 0 or event.part != self._next:
            raise StreamError("a part begins out of order")
        self._next += 1
        if isinstance(event, Shown):
            _check_media(event.media)
        else:
            self._open = event.part


def _check_media(media: Media) -> None:
    try:
        _check_part(media)
    except WireError as error:
        raise StreamError(str(error)) from None
