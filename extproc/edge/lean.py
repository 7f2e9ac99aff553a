"""HTTP/2 and gRPC for one trusted client, Envoy, over a unix socket: the hot path.

A general gRPC stack costs ten times the decision it carries. This one does what Envoy's gRPC client
needs and nothing else: it serves one service per socket, so it need not decode request headers (no
HPACK state can be wrong), handles every frame of a read in one loop, and writes once per read. It
must never listen on TCP: whoever connects is believed.

It fails closed. What it does not understand ends the connection, a service that raises ends its
stream with INTERNAL, and OK is sent only where the service said so.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import Any, cast

from extproc.edge.stream import MAX_MESSAGE_BYTES, Service, StreamKind

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = 0, 1, 2, 3, 4
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 5, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED = 0x1, 0x1, 0x4, 0x8

MAX_FRAME_BYTES = 1 << 16
"""What we let Envoy put in one frame. A frame is handled when it is whole, so one that needs many
reads is copied with each: 2 MB in frames of 64 KiB take 1.8 ms here, in frames of 1 MiB 5 to 10."""
MAX_WINDOW = (1 << 31) - 1
DEFAULT_WINDOW = 65_535
MAX_STREAMS = 65_536
"""Streams open at once. Envoy's connection limit is far below; more means a bug, so the connection
is closed rather than memory spent."""
REPLENISH_BYTES = 1 << 24
"""Received bytes after which the connection's window is topped up: rarely, as it is 2 GiB."""
MAX_QUEUED_BYTES = 256 * 1024 * 1024
"""Answers that the peer's flow control holds back. Above it the peer is not reading: closed."""

_NO_ERROR, _PROTOCOL_ERROR, _FRAME_SIZE_ERROR, _ENHANCE_YOUR_CALM = 0, 1, 6, 11


def _frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    head = len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream_id.to_bytes(4, "big")
    return head + payload


# Header blocks are constant and use HPACK literals without indexing, so no encoder state is kept:
# ":status: 200" (static 8), "content-type: application/grpc" (static name 31), "grpc-status: N".
_RESPONSE_BLOCK = b"\x88\x0f\x10\x10application/grpc"
_OK_BLOCK = b"\x00\x0bgrpc-status\x010"
_INTERNAL_BLOCK = b"\x00\x0bgrpc-status\x0213"
_RESPONSE_HEAD = len(_RESPONSE_BLOCK).to_bytes(3, "big") + bytes((HEADERS, END_HEADERS))
_OK_HEAD = len(_OK_BLOCK).to_bytes(3, "big") + bytes((HEADERS, END_HEADERS | END_STREAM))
_INTERNAL_HEAD = len(_INTERNAL_BLOCK).to_bytes(3, "big") + bytes(
    (HEADERS, END_HEADERS | END_STREAM)
)

# HEADER_TABLE_SIZE 0, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE.
_OUR_SETTINGS = struct.pack(">HIHIHIHI", 1, 0, 3, MAX_STREAMS, 4, MAX_WINDOW, 5, MAX_FRAME_BYTES)
_GREETING = _frame(SETTINGS, 0, 0, _OUR_SETTINGS) + _frame(
    WINDOW_UPDATE, 0, 0, (MAX_WINDOW - DEFAULT_WINDOW).to_bytes(4, "big")
)


class ProtocolError(Exception):
    """The peer broke HTTP/2 or a limit. The connection is closed with this code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class LeanStream:
    """One gRPC stream. See ``extproc.edge.stream.Stream``."""

    __slots__ = (
        "_connection",
        "ended",
        "half_closed",
        "id",
        "parts",
        "queue",
        "started",
        "state",
        "wanted",
        "window",
    )

    def __init__(self, stream_id: int, window: int, connection: LeanConnection) -> None:
        self.id = stream_id
        self.window = window
        self.state: Any = None
        self.started = False
        """Response headers were sent."""
        self.ended = False
        """We sent our last frame, or the peer reset the stream."""
        self.half_closed = False
        self.parts: list[bytes] = []
        """Pieces of a message that is not whole yet."""
        self.wanted = 0
        """Bytes of it that are missing; 0 when ``parts`` may lack even its length."""
        self.queue: list[bytes | memoryview] | None = None
        """Frames' payloads that wait for window; an empty item ends the stream."""
        self._connection = connection

    def send(self, message: bytes, *, end: bool = False) -> None:
        """See the protocol."""
        self._connection.send(self, message, end)

    def fail(self) -> None:
        """See the protocol."""
        self._connection.fail(self)


class LeanConnection(asyncio.Protocol):
    """One connection of Envoy. Its only I/O is ``write`` and ``close``, which it is given."""

    def __init__(self, service: Service, on_close: Callable[[LeanConnection], None]) -> None:
        self._service = service
        self._on_close = on_close
        self._write: Callable[[bytes], object] = _nowhere
        self._later: Callable[[Callable[[], None]], object] | None = None
        self._flushing_later = False
        self._close: Callable[[], object] = _nothing
        self._unread = b""
        self._greeted = False
        self._streams: dict[int, LeanStream] = {}
        self._last_stream = 0
        self._window = DEFAULT_WINDOW
        self._stream_window = DEFAULT_WINDOW
        self._peer_frame_bytes = 16_384
        self._out: list[bytes | memoryview] = []
        self._touched: list[LeanStream] = []
        self._waiting: dict[int, LeanStream] = {}
        self._queued_bytes = 0
        self._received = 0
        self._in_headers = False
        self._reading = False
        self._closed = False
        self.draining = False

    # -- asyncio ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is there."""
        # uvloop's transports implement asyncio.Transport without inheriting from it.
        stream = cast("asyncio.Transport", transport)
        self.start(stream.write, stream.close, asyncio.get_running_loop().call_soon)

    def start(
        self,
        write: Callable[[bytes], object],
        close: Callable[[], object],
        later: Callable[[Callable[[], None]], object] | None = None,
    ) -> None:
        """Where bytes go; sends our settings. ``later`` calls back at the end of this turn of the
        event loop: answers that a remote ledger lets go together leave together."""
        self._write, self._close, self._later = write, close, later
        write(_GREETING)

    def data_received(self, data: bytes) -> None:
        """Handles what arrived; a breach of the protocol closes the connection."""
        if self._closed:
            return
        self._reading = True
        try:
            self._receive(data)
        except ProtocolError as error:
            self._out.append(
                _frame(GOAWAY, 0, 0, struct.pack(">II", self._last_stream, error.code))
            )
            self._closed = True
        finally:
            self._reading = False
        self._flush()
        if self._closed:
            self._abandon()
            self._close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The peer is gone, and every stream with it."""
        self._closed = True
        self._abandon()
        self._on_close(self)

    def drain(self) -> None:
        """Takes no new streams; those that are open finish."""
        self.draining = True
        self._out.append(_frame(GOAWAY, 0, 0, struct.pack(">II", self._last_stream, _NO_ERROR)))
        self._flush()

    @property
    def idle(self) -> bool:
        """No stream is open."""
        return not self._streams

    def abort(self) -> None:
        """Closes the socket."""
        self._close()

    # -- reading ----------------------------------------------------------------------------------

    def _receive(self, data: bytes) -> None:
        buffer = self._unread + data if self._unread else data
        at, size = 0, len(buffer)
        if not self._greeted:
            if not PREFACE.startswith(buffer[:24]):
                raise ProtocolError(_PROTOCOL_ERROR, "no HTTP/2 preface")
            if size < 24:
                self._unread = buffer
                return
            at, self._greeted = 24, True
        streams = self._streams
        while size - at >= 9:
            length = (buffer[at] << 16) | (buffer[at + 1] << 8) | buffer[at + 2]
            if length > MAX_FRAME_BYTES:
                raise ProtocolError(_FRAME_SIZE_ERROR, "frame too large")
            start = at + 9
            end = start + length
            if end > size:
                break
            kind, flags = buffer[at + 3], buffer[at + 4]
            stream_id = int.from_bytes(buffer[at + 5 : start], "big") & 0x7FFFFFFF
            at = end
            if kind == DATA:
                self._received += length
                if flags & PADDED:
                    padding = buffer[start] if length else 0
                    start, end = start + 1, end - padding
                    if end < start:
                        raise ProtocolError(_PROTOCOL_ERROR, "padding longer than its frame")
                stream = streams.get(stream_id)
                if stream is not None:
                    self._data(stream, buffer[start:end])
                    if flags & END_STREAM:
                        self._peer_done(stream)
                elif stream_id == 0 or stream_id > self._last_stream:
                    raise ProtocolError(_PROTOCOL_ERROR, "data on an idle stream")
            elif kind == HEADERS:
                self._headers(stream_id, flags)
            else:
                self._control(kind, flags, stream_id, buffer[start:end])
        self._unread = buffer[at:] if at < size else b""
        if self._received > REPLENISH_BYTES:
            self._out.append(_frame(WINDOW_UPDATE, 0, 0, self._received.to_bytes(4, "big")))
            self._received = 0

    def _headers(self, stream_id: int, flags: int) -> None:
        if stream_id % 2 == 0 or self._in_headers:
            raise ProtocolError(_PROTOCOL_ERROR, "headers out of place")
        self._in_headers = not flags & END_HEADERS
        stream = self._streams.get(stream_id)
        if stream is None:
            if stream_id <= self._last_stream:
                return  # trailers of a stream that ended here already
            if len(self._streams) >= MAX_STREAMS:
                raise ProtocolError(_ENHANCE_YOUR_CALM, "too many streams")
            self._last_stream = stream_id
            if self.draining:
                self._out.append(_frame(RST_STREAM, 0, stream_id, (7).to_bytes(4, "big")))
                return
            stream = self._streams[stream_id] = LeanStream(stream_id, self._stream_window, self)
        if flags & END_STREAM:
            self._peer_done(stream)

    def _data(self, stream: LeanStream, data: bytes) -> None:
        """Cuts messages out of a stream's bytes. Most arrive whole, in one frame each."""
        if stream.wanted:
            stream.parts.append(data)
            stream.wanted -= len(data)
            if stream.wanted > 0:
                return
            data = b"".join(stream.parts)
            stream.parts, stream.wanted = [], 0
        elif stream.parts:
            data = b"".join(stream.parts) + data
            stream.parts = []
        at, size = 0, len(data)
        while size - at >= 5:
            length = int.from_bytes(data[at + 1 : at + 5], "big")
            if data[at] or length > MAX_MESSAGE_BYTES:
                # Compressed (never agreed on) or too long.
                self.fail(stream)
                return
            end = at + 5 + length
            if end > size:
                stream.wanted = end - size
                break
            if not stream.ended:
                try:
                    self._service.message(stream, data[at + 5 : end])
                except Exception:  # noqa: BLE001  whatever it is, the stream must not end well
                    self.fail(stream)
                    self._report()
            at = end
        if at < size:
            stream.parts.append(data[at:])

    def _peer_done(self, stream: LeanStream) -> None:
        stream.half_closed = True
        if stream.ended:
            if stream.queue is None:
                self._streams.pop(stream.id, None)
        elif self._service.kind is StreamKind.CLIENT:
            self._service.closed(stream)
            self.send(stream, b"", True)
        else:
            # The peer asks no more and was not told how it ends. An OK here would mean "continue".
            self._service.closed(stream)
            self.fail(stream)

    def _control(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind == WINDOW_UPDATE:
            if len(payload) != 4:
                raise ProtocolError(_FRAME_SIZE_ERROR, "window update size")
            increment = int.from_bytes(payload, "big") & 0x7FFFFFFF
            if stream_id == 0:
                self._window += increment
            elif stream_id in self._streams:
                self._streams[stream_id].window += increment
            if self._waiting:
                self._send_waiting()
        elif kind == RST_STREAM:
            stream = self._streams.pop(stream_id, None)
            if stream is not None:
                self._forget_queue(stream)
                if not stream.ended:
                    stream.ended = True
                    self._service.closed(stream)
        elif kind == SETTINGS:
            self._settings(flags, payload)
        elif kind == PING:
            if len(payload) != 8:
                raise ProtocolError(_FRAME_SIZE_ERROR, "ping size")
            if not flags & ACK:
                self._out.append(_frame(PING, ACK, 0, payload))
        elif kind == CONTINUATION:
            if not self._in_headers:
                raise ProtocolError(_PROTOCOL_ERROR, "continuation out of place")
            self._in_headers = not flags & END_HEADERS
        elif kind == PUSH_PROMISE:
            raise ProtocolError(_PROTOCOL_ERROR, "a client cannot push")
        # GOAWAY, PRIORITY and unknown frames ask nothing of a server.

    def _settings(self, flags: int, payload: bytes) -> None:
        if flags & ACK:
            return
        if len(payload) % 6:
            raise ProtocolError(_FRAME_SIZE_ERROR, "settings size")
        for name, value in struct.iter_unpack(">HI", payload):
            if name == 4:
                if value > MAX_WINDOW:
                    raise ProtocolError(3, "window size")
                change = value - self._stream_window
                self._stream_window = value
                for stream in self._streams.values():
                    stream.window += change
            elif name == 5:
                if not 16_384 <= value <= 16_777_215:
                    raise ProtocolError(_PROTOCOL_ERROR, "frame size setting")
                self._peer_frame_bytes = value
        self._out.append(_frame(SETTINGS, ACK, 0))
        if self._waiting:
            self._send_waiting()

    # -- writing ----------------------------------------------------------------------------------

    def send(self, stream: LeanStream, message: bytes, end: bool) -> None:
        """Queues an answer. It leaves at the end of this read or, outside of one, of this turn."""
        if stream.ended or self._closed:
            return
        out = self._out
        name = stream.id.to_bytes(4, "big")
        if not stream.started:
            out.append(_RESPONSE_HEAD + name + _RESPONSE_BLOCK)
            stream.started = True
        self._touched.append(stream)
        size = len(message) + 5
        if (
            stream.queue is None
            and size <= self._peer_frame_bytes
            and size <= self._window
            and size <= stream.window
        ):
            self._window -= size
            stream.window -= size
            out.append(
                size.to_bytes(3, "big") + b"\0\0" + name + b"\0" + (size - 5).to_bytes(4, "big")
            )
            out.append(message)
            if end:
                out.append(_OK_HEAD + name + _OK_BLOCK)
        else:
            self._enqueue(stream, b"\0" + (size - 5).to_bytes(4, "big"), message, end)
        if end:
            stream.ended = True
            if stream.half_closed and stream.queue is None:
                self._streams.pop(stream.id, None)
        if not self._reading:
            self._flush_soon()

    def fail(self, stream: LeanStream) -> None:
        """Ends a stream with INTERNAL."""
        if stream.ended or self._closed:
            return
        stream.ended = True
        self._forget_queue(stream)
        name = stream.id.to_bytes(4, "big")
        if not stream.started:
            self._out.append(_RESPONSE_HEAD + name + _RESPONSE_BLOCK)
            stream.started = True
        self._out.append(_INTERNAL_HEAD + name + _INTERNAL_BLOCK)
        self._streams.pop(stream.id, None)
        if not self._reading:
            self._flush_soon()

    def _flush_soon(self) -> None:
        if self._later is None:
            self._flush()
        elif not self._flushing_later:
            self._flushing_later = True
            self._later(self._flush_later)

    def _flush_later(self) -> None:
        self._flushing_later = False
        if not self._closed:
            self._flush()

    def _flush(self) -> None:
        if self._touched:
            try:
                self._service.before_write()
            except Exception:  # noqa: BLE001  no answer may leave
                self._withhold()
                self._report()
            self._touched.clear()
        if self._out:
            data = b"".join(self._out)
            self._out.clear()
            self._write(data)

    def _withhold(self) -> None:
        """Answers may not leave: nothing of this batch is written, its streams are reset."""
        self._out.clear()
        for stream in self._touched:
            stream.ended = True
            self._forget_queue(stream)
            self._streams.pop(stream.id, None)
            self._out.append(_frame(RST_STREAM, 0, stream.id, (2).to_bytes(4, "big")))

    def _enqueue(self, stream: LeanStream, head: bytes, message: bytes, end: bool) -> None:
        if stream.queue is None:
            stream.queue = []
            self._waiting[stream.id] = stream
        stream.queue.append(head)
        if message:
            # A view, so that cutting frames off its front does not copy the rest each time.
            stream.queue.append(memoryview(message))
        if end:
            stream.queue.append(b"")
        self._queued_bytes += len(head) + len(message)
        if self._queued_bytes > MAX_QUEUED_BYTES:
            self._closed = True
            self._abandon()
            self._close()
            return
        self._send_waiting()

    def _send_waiting(self) -> None:
        for stream in list(self._waiting.values()):
            queue = stream.queue
            assert queue is not None
            name = stream.id.to_bytes(4, "big")
            while queue:
                data = queue[0]
                if not data:
                    self._out.append(_OK_HEAD + name + _OK_BLOCK)
                    queue.pop(0)
                    continue
                room = min(len(data), self._peer_frame_bytes, self._window, stream.window)
                if room <= 0:
                    break
                self._window -= room
                stream.window -= room
                self._queued_bytes -= room
                self._out.append(room.to_bytes(3, "big") + b"\0\0" + name)
                self._out.append(data[:room])
                if room == len(data):
                    queue.pop(0)
                else:
                    queue[0] = data[room:]
            if not queue:
                stream.queue = None
                del self._waiting[stream.id]
                if stream.ended and stream.half_closed:
                    self._streams.pop(stream.id, None)

    def _forget_queue(self, stream: LeanStream) -> None:
        if stream.queue is not None:
            self._queued_bytes -= sum(map(len, stream.queue))
            stream.queue = None
            self._waiting.pop(stream.id, None)

    def _abandon(self) -> None:
        streams = list(self._streams.values())
        self._streams.clear()
        self._waiting.clear()
        for stream in streams:
            if not stream.ended:
                stream.ended = True
                self._service.closed(stream)

    def _report(self) -> None:
        """Hands the exception to the loop's handler, which logs it; the process goes on."""
        import sys

        loop = asyncio.get_running_loop() if _loop_running() else None
        if loop is not None:
            error = sys.exc_info()[1]
            loop.call_exception_handler({"message": "a stream failed", "exception": error})


def _loop_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _nowhere(data: bytes) -> None:
    raise AssertionError("not connected")


def _nothing() -> None:
    pass
