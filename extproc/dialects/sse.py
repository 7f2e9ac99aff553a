"""Server-sent events, incrementally: the framing of every HTTP stream but Bedrock's.

Tolerant where the standard is (any line ending, comments, no space after the colon, several data
lines, a byte order mark) and bounded where it is not. How the bytes are cut changes nothing.
"""

from __future__ import annotations

from typing import NamedTuple

from extproc.dialects.codec import StreamError

MAX_EVENT_BYTES = 16 * 1024 * 1024
"""One event: a whole image in base64 passes. Above it the stream is no stream of a model."""

_BOM = b"\xef\xbb\xbf"


class ServerSentEvent(NamedTuple):
    """One event with data. Comments and events without data are left out."""

    event: str
    data: bytes


class SseReader:
    """Cuts a stream into events."""

    __slots__ = ("_begun", "_data", "_event", "_line", "_size", "_skip_lf")

    def __init__(self) -> None:
        self._line = bytearray()
        """The line that is not complete yet."""
        self._event = ""
        self._data: list[bytes] = []
        self._size = 0
        self._skip_lf = False
        """The last line ended with CR: an LF that follows belongs to it."""
        self._begun = False

    def feed(self, data: bytes) -> list[ServerSentEvent]:
        """Takes the next bytes. Raises ``StreamError`` for an event that is too long."""
        events: list[ServerSentEvent] = []
        if self._skip_lf and data:
            self._skip_lf = False
            if data[0] == 0x0A:
                data = data[1:]
        if data.find(b"\r") >= 0:
            self._skip_lf = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = data.split(b"\n")
        rest = lines.pop()
        for line in lines:
            if self._line:  # begun in an earlier piece
                self._line += line
                line = bytes(self._line)
                self._line.clear()
            self._take(line, events)
        self._line += rest
        if self._size + len(self._line) > MAX_EVENT_BYTES:
            raise StreamError(f"an event is longer than {MAX_EVENT_BYTES} bytes")
        return events

    def end(self) -> list[ServerSentEvent]:
        """The stream is over: an event without its blank line counts, as providers do send it."""
        events: list[ServerSentEvent] = []
        if self._line:
            line = bytes(self._line)
            self._line.clear()
            self._take(line, events)
        self._take(b"", events)
        return events

    def _take(self, line: bytes, events: list[ServerSentEvent]) -> None:
        if not self._begun:
            self._begun = True
            line = line.removeprefix(_BOM)
        if not line:
            if self._data:
                events.append(ServerSentEvent(self._event, b"\n".join(self._data)))
            self._event, self._data, self._size = "", [], 0
            return
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
            self._size += len(value) + 1
        elif name == b"event":
            self._event = value.decode("utf-8", "replace")


def sse_event(data: bytes, event: str = "") -> bytes:
    """One event as bytes. ``data`` is one line: JSON as our serialiser writes it."""
    if event:
        return b"event: %b\ndata: %b\n\n" % (event.encode(), data)
    return b"data: %b\n\n" % data
