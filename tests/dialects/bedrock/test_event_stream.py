"""The binary framing: botocore reads the same messages, in any cut, and damage is found."""

from __future__ import annotations

from contextlib import suppress

import pytest
from bedrock_api import frame
from botocore.eventstream import EventStreamBuffer
from hypothesis import given
from hypothesis import strategies as st

from extproc.dialects.bedrock import event_stream
from extproc.dialects.bedrock.event_stream import EventStreamReader, Message
from extproc.dialects.codec import StreamError

STREAM = frame({"a": 1}, event="one") + frame(b"", event="two") + frame({"b": "x" * 300}, event="3")


def read(*pieces: bytes) -> list[Message]:
    reader = EventStreamReader()
    return [message for piece in pieces for message in reader.feed(piece)]


def test_botocore_reads_the_same() -> None:
    buffer = EventStreamBuffer()
    buffer.add_data(STREAM)
    theirs = [(event.headers[":event-type"], event.payload) for event in buffer]
    assert theirs == [(m.headers[":event-type"], m.payload) for m in read(STREAM)]


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_F50_the_cut_changes_nothing(places: list[int]) -> None:
    ends = sorted(set(places))
    pieces = [STREAM[a:b] for a, b in zip([0, *ends], [*ends, len(STREAM)], strict=True)]
    assert read(*pieces) == read(STREAM)


@given(st.integers(0, len(STREAM) - 1), st.integers(1, 255))
def test_every_damaged_byte_is_found(place: int, change: int) -> None:
    damaged = bytearray(STREAM)
    damaged[place] ^= change
    reader = EventStreamReader()
    try:
        messages = reader.feed(bytes(damaged))
    except StreamError:
        return
    assert len(messages) < 3  # a longer length may only mean that more is awaited
    assert not reader.between_messages


@given(st.binary(max_size=100))
def test_no_bytes_are_anything_but_a_stream_or_an_error(data: bytes) -> None:
    with suppress(StreamError):
        read(data)


def test_messages_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "MAX_MESSAGE_BYTES", 50)
    with pytest.raises(StreamError, match="impossible"):
        read(STREAM)


def test_headers_of_every_type_are_passed_over() -> None:
    reader = event_stream._headers
    fixed = b"".join(
        bytes([1, 97, kind]) + bytes(size) for kind, size in event_stream._FIXED_BYTES.items()
    )
    assert reader(fixed + b"\x01b\x06\x00\x02xx" + b"\x01c\x07\x00\x01y") == {"c": "y"}
    for broken in (b"\x05a", b"\x01a\x0c", b"\x01a\x07\x00\x09x", b"\x01a\x07\x00\x01\xff"):
        with pytest.raises(StreamError):
            reader(broken)
