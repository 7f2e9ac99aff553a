"""Streamed generateContent answers to events: each event holds whole parts or more of the last."""

from __future__ import annotations

import orjson

from extproc.dialects.answer import (
    Delta,
    Ended,
    Event,
    Failed,
    PartKind,
    Signature,
    Started,
    Stop,
    Stopped,
)
from extproc.dialects.codec import Context
from extproc.dialects.conversation import Json, Media, Thinking, ToolCall
from extproc.dialects.gemini.answers import logprobs_of, part_of, read_error, stop_of, usage_of
from extproc.dialects.reading_streams import (
    BROKEN_STATUS,
    PartSequence,
    SseStreamReader,
    ended_early,
)
from extproc.dialects.usage import StreamedUsage


class GeminiStreamReader(SseStreamReader):
    """One stream of a provider."""

    api = "Gemini's"

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self._started = False
        self._parts = PartSequence()
        self._called = False
        self._usage = StreamedUsage()
        self._counted = False
        """The counts came with the end, or after it: those before are counts of a beginning."""
        self._stop: Stop | None = None

    def _body_over(self, events: list[Event]) -> None:
        self._parts.close(events)
        if self._stop is None:
            events.append(ended_early())
            return
        stop = Stop.TOOL_CALLS if self._called and self._stop is Stop.END else self._stop
        usage = self._usage.latest if self._counted else None
        events += (Stopped(stop, usage=usage), Ended(usage))

    def _take(self, data: bytes, events: list[Event]) -> None:
        document = orjson.loads(data)
        if "error" in document:
            self._over = True
            code = document["error"].get("code")
            status = code if type(code) is int and 400 <= code < 600 else BROKEN_STATUS
            events.append(Failed(read_error(status, data)))
            return
        if "usageMetadata" in document:
            self._usage.take(usage_of(document["usageMetadata"]))
        if not self._started:
            self._started = True
            name = str(document.get("responseId") or self._context.request_id)
            model = str(document.get("modelVersion") or "")
            events.append(Started(name, model, self._usage.latest))
        if (document.get("promptFeedback") or {}).get("blockReason"):
            self._stop = Stop.REFUSAL
        for candidate in document.get("candidates") or ():
            if candidate.get("index", 0) == 0:
                self._candidate(candidate, events)
        self._counted |= "usageMetadata" in document and self._stop is not None

    def _candidate(self, candidate: Json, events: list[Event]) -> None:
        logprobs = tuple(logprobs_of(candidate))
        for raw in (candidate.get("content") or {}).get("parts") or ():
            self._raw_part(raw, logprobs, events)
        reason = candidate.get("finishReason")
        if reason is not None:
            self._stop = stop_of(reason, called=self._called)

    def _raw_part(self, raw: Json, logprobs: tuple[Json, ...], events: list[Event]) -> None:
        part = part_of(raw, self._parts.number + 1, self._context)
        if isinstance(part, ToolCall):
            self._called = True
            self._parts.begin(PartKind.TOOL_CALL, events, part.call_id, part.name)
            events.append(Delta(self._parts.number, part.arguments))
            self._parts.close(events)
        elif isinstance(part, Media):
            self._parts.show(part, events)
        elif part is not None:
            thought = isinstance(part, Thinking)
            kind = PartKind.THINKING if thought else PartKind.TEXT
            self._parts.go_on(kind, events)
            told = () if thought else logprobs
            events.append(Delta(self._parts.number, str(raw["text"]), told))
            if isinstance(part, Thinking) and part.signature:
                events.append(Signature(self._parts.number, part.signature))
