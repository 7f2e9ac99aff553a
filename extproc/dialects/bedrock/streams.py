"""ConverseStream's messages to events."""

from __future__ import annotations

from collections.abc import Sequence

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
from extproc.dialects.bedrock.answers import stop_of, stream_error, usage_of
from extproc.dialects.bedrock.event_stream import EventStreamReader, Message
from extproc.dialects.codec import Context, StreamError
from extproc.dialects.conversation import Json
from extproc.values.usage import TokenUsage

_BROKEN_STATUS = 502
"""Of a stream that ends without its end."""


class ConverseStreamReader:
    """One stream of a provider. Bedrock opens text and reasoning blocks without saying so."""

    def __init__(self, context: Context) -> None:
        self._frames = EventStreamReader()
        self._context = context
        self._part = -1
        self._open: PartKind | None = None
        self._stop: Stop | None = None
        self._usage: TokenUsage | None = None
        self._over = False

    def feed(self, data: bytes) -> Sequence[Event]:
        """See ``StreamReader``."""
        events: list[Event] = []
        for message in self._frames.feed(data):
            if self._over:
                break
            try:
                self._take(message, events)
            except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
                raise StreamError("an event is none of ConverseStream") from None
        return events

    def end(self) -> Sequence[Event]:
        """See ``StreamReader``."""
        if self._over:
            return []
        self._over = True
        events: list[Event] = []
        self._close(events)
        if self._stop is None or not self._frames.between_messages:
            cut = ProviderError(_BROKEN_STATUS, "api", "The provider's stream ended early.")
            return [*events, Failed(cut)]
        return [*events, Stopped(self._stop, usage=self._usage), Ended(self._usage)]

    def _take(self, message: Message, events: list[Event]) -> None:
        kind = message.headers.get(":message-type")
        if kind == "exception":
            self._over = True
            exception = message.headers.get(":exception-type", "")
            events.append(Failed(stream_error(exception, message.payload)))
            return
        if kind == "error":
            self._over = True
            text = message.headers.get(":error-message", "")
            code = message.headers.get(":error-code", "")
            events.append(Failed(ProviderError(_BROKEN_STATUS, "api", text, code=code)))
            return
        event = orjson.loads(message.payload)
        name = message.headers.get(":event-type")
        if name == "messageStart":
            events.append(Started(self._context.request_id, "", None))
        elif name == "contentBlockStart":
            self._block(event["start"], events)
        elif name == "contentBlockDelta":
            self._delta(event["delta"], events)
        elif name == "contentBlockStop":
            self._close(events)
        elif name == "messageStop":
            self._stop = stop_of(event["stopReason"])
        elif name == "metadata":
            self._usage = usage_of(event.get("usage"))

    def _block(self, start: Json, events: list[Event]) -> None:
        call = start.get("toolUse")
        if call is not None:
            call_id, name = str(call["toolUseId"]), str(call["name"])
            self._begin(PartStarted(self._part + 1, PartKind.TOOL_CALL, call_id, name), events)

    def _delta(self, delta: Json, events: list[Event]) -> None:
        if "text" in delta:
            self._text(PartKind.TEXT, delta["text"], events)
        elif "toolUse" in delta:
            if delta["toolUse"]["input"]:
                events.append(Delta(self._part, delta["toolUse"]["input"]))
        elif "reasoningContent" in delta:
            reasoning = delta["reasoningContent"]
            if "redactedContent" in reasoning:
                data = reasoning["redactedContent"]
                self._begin(PartStarted(self._part + 1, PartKind.THINKING, redacted=data), events)
            elif "signature" in reasoning:
                self._text(PartKind.THINKING, "", events)
                events.append(Signature(self._part, reasoning["signature"]))
            else:
                self._text(PartKind.THINKING, reasoning["text"], events)

    def _text(self, kind: PartKind, text: str, events: list[Event]) -> None:
        if self._open is not kind:
            self._begin(PartStarted(self._part + 1, kind), events)
        if text:
            events.append(Delta(self._part, text))

    def _begin(self, started: PartStarted, events: list[Event]) -> None:
        self._close(events)
        self._part = started.part
        self._open = started.kind
        events.append(started)

    def _close(self, events: list[Event]) -> None:
        if self._open is not None:
            events.append(PartEnded(self._part))
            self._open = None
