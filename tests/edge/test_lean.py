"""The lean transport without sockets: bytes in, bytes out. An independent HTTP/2 stack (h2) is the
client, and hypothesis decides how bytes are cut and what frames come."""

from __future__ import annotations

import struct
from typing import Any

import h2.config
import h2.connection
import h2.events
from hypothesis import given
from hypothesis import strategies as st

from extproc.edge import lean
from extproc.edge.lean import LeanConnection
from extproc.edge.stream import StreamKind


class Recorder:
    """Answers every message with itself; ends the stream at "end"."""

    kind = StreamKind.BIDIRECTIONAL

    def __init__(self, answer: bool = True) -> None:
        self.messages: list[tuple[int, bytes]] = []
        self.closed_ids: list[int] = []
        self._answer = answer

    def message(self, stream: Any, data: bytes) -> None:
        self.messages.append((stream.id, data))
        if self._answer:
            stream.send(data, end=data.endswith(b"end"))

    def closed(self, stream: Any) -> None:
        self.closed_ids.append(stream.id)

    def before_write(self) -> None:
        pass


class Wire:
    """A connection with its output collected."""

    def __init__(self, service: Recorder) -> None:
        self.sent = b""
        self.closed = False
        self.connection = LeanConnection(service, lambda _: None)
        self.connection.start(self._write, self._close)

    def _write(self, data: bytes) -> None:
        self.sent += data

    def _close(self) -> None:
        self.closed = True

    def take(self) -> bytes:
        data, self.sent = self.sent, b""
        return data


def grpc_message(data: bytes) -> bytes:
    return b"\0" + len(data).to_bytes(4, "big") + data


REQUEST = [(":method", "POST"), (":path", "/s/m"), (":scheme", "http"), (":authority", "x")]


def client(window: int | None = None) -> h2.connection.H2Connection:
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    connection.initiate_connection()
    if window is not None:
        connection.update_settings({4: window})
    return connection


def exchange(wire: Wire, peer: h2.connection.H2Connection) -> list[h2.events.Event]:
    """Carries bytes both ways until nothing moves; grants no window by itself."""
    events: list[h2.events.Event] = []
    while True:
        outgoing = peer.data_to_send()
        if outgoing:
            wire.connection.data_received(outgoing)
        incoming = wire.take()
        if incoming:
            events += peer.receive_data(incoming)
        if not outgoing and not incoming:
            return events


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(data) + 1) for cut in cuts})
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


@given(
    st.lists(st.binary(max_size=400), min_size=1, max_size=6),
    st.lists(st.integers(0, 10_000), max_size=40),
)
def test_any_chunking_gives_the_same_messages(messages: list[bytes], cuts: list[int]) -> None:
    service = Recorder(answer=False)
    wire = Wire(service)
    peer = client()
    peer.send_headers(1, REQUEST)
    for message in messages:
        peer.send_data(1, grpc_message(message))
    for piece in split(peer.data_to_send(), cuts):
        wire.connection.data_received(piece)
    assert service.messages == [(1, message) for message in messages]
    assert not wire.closed


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=5), st.integers(1, 50))
def test_messages_may_span_frames_and_frames_messages(messages: list[bytes], size: int) -> None:
    service = Recorder(answer=False)
    wire = Wire(service)
    peer = client()
    peer.send_headers(1, REQUEST)
    stream = b"".join(map(grpc_message, messages))
    for start in range(0, len(stream), size):
        peer.send_data(1, stream[start : start + size], pad_length=start % 7 or None)
    exchange(wire, peer)
    assert [data for _, data in service.messages] == messages


@given(st.integers(0, 2_000), st.lists(st.integers(1, 700), min_size=1, max_size=30))
def test_answers_wait_for_the_peers_window(size: int, grants: list[int]) -> None:
    service = Recorder()
    wire = Wire(service)
    peer = client(window=0)
    peer.send_headers(1, REQUEST)
    message = b"x" * size + b"end"
    peer.send_data(1, grpc_message(message))
    received = b""
    events = exchange(wire, peer)
    for grant in [*grants, 4_000]:
        peer.increment_flow_control_window(grant, 1)
        events += exchange(wire, peer)
    for event in events:
        if isinstance(event, h2.events.DataReceived):
            received += event.data
    assert received == grpc_message(message)
    assert any(isinstance(event, h2.events.StreamEnded) for event in events)


@given(st.binary(max_size=600), st.booleans())
def test_garbage_never_raises_and_never_says_ok(data: bytes, greeted: bool) -> None:
    wire = Wire(Recorder(answer=False))
    wire.take()
    wire.connection.data_received((lean.PREFACE if greeted else b"") + data)
    assert lean._OK_BLOCK not in wire.sent


frames = st.builds(
    lambda kind, flags, stream_id, payload: (
        len(payload).to_bytes(3, "big")
        + bytes((kind, flags))
        + stream_id.to_bytes(4, "big")
        + payload
    ),
    st.integers(0, 12),
    st.integers(0, 255),
    st.sampled_from([0, 1, 2, 3, 5, 7, 0x80000001]),
    st.binary(max_size=40),
)


@given(st.lists(frames, max_size=25), st.lists(st.integers(0, 2_000), max_size=10))
def test_any_frames_in_any_order_never_raise_and_never_say_ok(
    parts: list[bytes], cuts: list[int]
) -> None:
    service = Recorder(answer=False)
    wire = Wire(service)
    for piece in split(lean.PREFACE + b"".join(parts), cuts):
        wire.connection.data_received(piece)
    assert lean._OK_BLOCK not in wire.sent
    assert len(set(service.closed_ids)) == len(service.closed_ids)


def test_a_reset_in_the_middle_of_a_message_closes_the_stream_once() -> None:
    service = Recorder()
    wire = Wire(service)
    peer = client()
    peer.send_headers(1, REQUEST)
    peer.send_data(1, grpc_message(b"x" * 100)[:50])
    peer.reset_stream(1)
    peer.send_headers(3, REQUEST)
    peer.send_data(3, grpc_message(b"end"))
    exchange(wire, peer)
    assert service.closed_ids == [1]
    assert service.messages == [(3, b"end")]


def test_a_connection_that_is_lost_closes_every_open_stream() -> None:
    service = Recorder(answer=False)
    wire = Wire(service)
    peer = client()
    for number in (1, 3, 5):
        peer.send_headers(number, REQUEST)
    exchange(wire, peer)
    wire.connection.connection_lost(None)
    assert service.closed_ids == [1, 3, 5]


def test_limits_close_the_connection() -> None:
    huge_frame = (lean.MAX_FRAME_BYTES + 1).to_bytes(3, "big") + bytes(6)
    for data in (b"GET / HTTP/1.1\r\n\r\n......", lean.PREFACE + huge_frame):
        wire = Wire(Recorder())
        wire.connection.data_received(data)
        assert wire.closed
        assert b"\0\0\x08\x07" in wire.sent  # GOAWAY


def test_a_compressed_or_oversized_message_fails_its_stream() -> None:
    for head in (b"\1\0\0\0\1x", b"\0" + struct.pack(">I", 1 << 30)):
        service = Recorder()
        wire = Wire(service)
        peer = client()
        peer.send_headers(1, REQUEST)
        peer.send_data(1, head)
        events = exchange(wire, peer)
        assert service.messages == []
        trailers = [e for e in events if isinstance(e, h2.events.TrailersReceived)]
        assert (b"grpc-status", b"13") in trailers[0].headers


def test_draining_takes_no_new_streams_and_finishes_open_ones() -> None:
    service = Recorder()
    wire = Wire(service)
    peer = client()
    peer.send_headers(1, REQUEST)
    exchange(wire, peer)
    data = peer.data_to_send()
    wire.connection.drain()
    wire.connection.data_received(data)
    raw = bytes.fromhex("000000010400000003")  # HEADERS, END_HEADERS, stream 3
    wire.connection.data_received(raw)
    assert not wire.connection.idle
    frame = grpc_message(b"end")
    wire.connection.data_received(
        len(frame).to_bytes(3, "big") + b"\0\0" + (1).to_bytes(4, "big") + frame
    )
    assert service.messages == [(1, b"end")]
