"""Streamed generateContent answers to events: each event holds whole parts or more of the last."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import orjson

from extproc.dialects.answer import (
    Delta,
    Ended,
    Event,
    Failed,
    PartEnded,
    PartKind,
    PartStarted,
    ProviderError,
    Signature,
    Started,
    Stop,
    Stopped,
)
from extproc.dialects.codec import Context, StreamError
from extproc.dialects.conversation import Json, Media, Thinking, ToolCall
from extproc.dialects.gemini.answers import part_of, read_error, stop_of, usage_of
from extproc.dialects.sse import ServerSentEvent, SseReader
from extproc.values.usage import TokenUsage

_BROKEN_STATUS = 502
"""Of an error that comes inside a stream, after its 200."""


class GeminiStreamReader:
    """One stream of a provider."""

    def __init__(self, context: Context) -> None:
        self._sse = SseReader()
        self._context = context
        self._started = False
        self._part = -1
        self._open: PartKind | None = None
        self._called = False
        self._usage: TokenUsage | None = None
        self._stop: Stop | None = None
        self._over = False

    def feed(self, data: bytes) -> Sequence[Event]:
        """See ``StreamReader``."""
        return self._read(self._sse.feed(data))

    def end(self) -> Sequence[Event]:
        """See ``StreamReader``."""
        events: list[Event] = []
        with suppress(StreamError):  # half an event: the stream was cut inside it
            events = self._read(self._sse.end())
        if self._over:
            return events
        self._over = True
        self._close(events)
        if self._stop is None:
            cut = ProviderError(_BROKEN_STATUS, "api", "The provider's stream ended early.")
            return [*events, Failed(cut)]
        stop = Stop.TOOL_CALLS if self._called and self._stop is Stop.END else self._stop
        return [*events, Stopped(stop, usage=self._usage), Ended(self._usage)]

    def _read(self, read: Sequence[ServerSentEvent]) -> list[Event]:
        events: list[Event] = []
        for event in read:
            if self._over:
                break
            try:
                document = orjson.loads(event.data)
                self._take(document, event.data, events)
            except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
                raise StreamError("an event is none of Gemini's") from None
        return events

    def _take(self, document: Json, data: bytes, events: list[Event]) -> None:
        if "error" in document:
            self._over = True
            code = document["error"].get("code")
            status = code if type(code) is int and 400 <= code < 600 else _BROKEN_STATUS
            events.append(Failed(read_error(status, data)))
            return
        self._usage = usage_of(document.get("usageMetadata")) or self._usage
        if not self._started:
            self._started = True
            name = str(document.get("responseId") or self._context.request_id)
            model = str(document.get("modelVersion") or "")
            events.append(Started(name, model, self._usage))
        if (document.get("promptFeedback") or {}).get("blockReason"):
            self._stop = Stop.REFUSAL
        for candidate in document.get("candidates") or ():
            if candidate.get("index", 0) == 0:
                self._candidate(candidate, events)

    def _candidate(self, candidate: Json, events: list[Event]) -> None:
        for raw in (candidate.get("content") or {}).get("parts") or ():
            self._raw_part(raw, events)
        reason = candidate.get("finishReason")
        if reason is not None:
            self._stop = stop_of(reason, called=self._called)

    def _raw_part(self, raw: Json, events: list[Event]) -> None:
        part = part_of(raw, self._part + 1, self._context)
        if isinstance(part, ToolCall):
            self._called = True
            started = PartStarted(self._part + 1, PartKind.TOOL_CALL, part.call_id, part.name)
            self._begin(started, events)
            events.append(Delta(self._part, part.arguments))
            self._close(events)
        elif isinstance(part, Media):
            raise StreamError("a generated image cannot be streamed to another dialect")
        elif part is not None:
            thought = isinstance(part, Thinking)
            kind = PartKind.THINKING if thought else PartKind.TEXT
            if self._open is not kind:
                self._begin(PartStarted(self._part + 1, kind), events)
            events.append(Delta(self._part, str(raw["text"])))
            if isinstance(part, Thinking) and part.signature:
                events.append(Signature(self._part, part.signature))

    def _begin(self, started: PartStarted, events: list[Event]) -> None:
        self._close(events)
        self._part = started.part
        self._open = started.kind
        events.append(started)

    def _close(self, events: list[Event]) -> None:
        if self._open is not None:
            events.append(PartEnded(self._part))
            self._open = None
