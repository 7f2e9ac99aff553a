"""ConverseStream's messages to events."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import orjson

from extproc.dialects.answer import (
    Delta,
    Ended,
    Event,
    Failed,
    PartKind,
    ProviderError,
    Signature,
    Started,
    Stop,
    Stopped,
)
from extproc.dialects.bedrock.answers import stop_of, stream_error, usage_of
from extproc.dialects.bedrock.event_stream import EventStreamReader, Message
from extproc.dialects.codec import Context, StreamError
from extproc.dialects.conversation import Json, Media
from extproc.dialects.reading_streams import BROKEN_STATUS, MISSHAPEN, PartSequence, ended_early
from extproc.dialects.usage import StreamedUsage

MAX_IMAGE_BYTES = 32 * 1024 * 1024
"""Of a generated image, whose pieces are kept until it is whole: the largest are some megabytes."""


class ConverseStreamReader:
    """One stream of a provider. Bedrock opens text and reasoning blocks without saying so."""

    def __init__(self, context: Context) -> None:
        self._frames = EventStreamReader()
        self._context = context
        self._parts = PartSequence()
        self._stop: Stop | None = None
        self._usage = StreamedUsage()
        self._over = False
        self._image_format = ""
        self._image = bytearray()

    def feed(self, data: bytes) -> Sequence[Event]:
        """See ``StreamReader``."""
        events: list[Event] = []
        for message in self._frames.feed(data):
            if self._over:
                break
            try:
                self._take(message, events)
            except MISSHAPEN:
                raise StreamError("an event is none of ConverseStream") from None
        return events

    def end(self) -> Sequence[Event]:
        """See ``StreamReader``."""
        if self._over:
            return []
        self._over = True
        events: list[Event] = []
        self._parts.close(events)
        if self._stop is None or not self._frames.between_messages:
            return [*events, ended_early()]
        usage = self._usage.latest
        return [*events, Stopped(self._stop, usage=usage), Ended(usage)]

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
            events.append(Failed(ProviderError(BROKEN_STATUS, "api", text, code=code)))
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
            self._parts.close(events)
            if self._image:
                data = base64.b64encode(self._image).decode()
                media = Media("image", f"image/{self._image_format}", data=data)
                self._parts.show(media, events)
                self._image.clear()
        elif name == "messageStop":
            self._stop = stop_of(event["stopReason"])
        elif name == "metadata":
            self._usage.take(usage_of(event.get("usage")))

    def _block(self, start: Json, events: list[Event]) -> None:
        call = start.get("toolUse")
        if call is not None:
            call_id, name = str(call["toolUseId"]), str(call["name"])
            self._parts.begin(PartKind.TOOL_CALL, events, call_id, name)
        elif "image" in start:
            self._image_format = str(start["image"]["format"])

    def _delta(self, delta: Json, events: list[Event]) -> None:
        if "text" in delta:
            self._parts.text(PartKind.TEXT, delta["text"], events)
        elif "toolUse" in delta:
            if delta["toolUse"]["input"]:
                events.append(Delta(self._parts.number, delta["toolUse"]["input"]))
        elif "image" in delta:
            self._image += base64.b64decode(delta["image"]["source"]["bytes"], validate=True)
            if len(self._image) > MAX_IMAGE_BYTES:
                raise StreamError(f"an image is larger than {MAX_IMAGE_BYTES} bytes")
        elif "reasoningContent" in delta:
            reasoning = delta["reasoningContent"]
            if "redactedContent" in reasoning:
                data = reasoning["redactedContent"]
                self._parts.begin(PartKind.THINKING, events, redacted=data)
            elif "signature" in reasoning:
                self._parts.text(PartKind.THINKING, "", events)
                events.append(Signature(self._parts.number, reasoning["signature"]))
            else:
                self._parts.text(PartKind.THINKING, reasoning["text"], events)
