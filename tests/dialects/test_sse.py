"""Events are the same however the bytes are cut, whatever the line endings (F50)."""

from __future__ import annotations

import pytest
from dialect_streams import cut
from hypothesis import given
from hypothesis import strategies as st

from extproc.dialects import sse
from extproc.dialects.codec import StreamError
from extproc.dialects.sse import ServerSentEvent, SseReader, sse_event

STREAM = (
    b"\xef\xbb\xbf: a comment\r\n"
    b'event: message_start\r\ndata: {"a": 1}\r\n\r\n'
    b"data:no space\n\n"
    b"data: two\rdata: lines\r\r"
    b"event: nothing\n\n"
    b"id: 7\nretry: 10\ndata:\n\n"
    b"data: [DONE]"
)
EVENTS = [
    ServerSentEvent("message_start", b'{"a": 1}'),
    ServerSentEvent("", b"no space"),
    ServerSentEvent("", b"two\nlines"),
    ServerSentEvent("", b""),
    ServerSentEvent("", b"[DONE]"),
]


def read(pieces: list[bytes]) -> list[ServerSentEvent]:
    reader = SseReader()
    return [event for piece in pieces for event in reader.feed(piece)] + reader.end()


def test_every_freedom_of_the_standard_is_read() -> None:
    assert read([STREAM]) == EVENTS


def test_F50_cut_at_every_byte() -> None:
    assert read([bytes([byte]) for byte in STREAM]) == EVENTS
    for place in range(len(STREAM)):
        assert read([STREAM[:place], STREAM[place:]]) == EVENTS


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=8))
def test_F50_any_bytes_in_any_cut(data: bytes, places: list[int]) -> None:
    assert read(cut(data, places)) == read([data])


@given(st.binary(max_size=50).filter(lambda data: not {10, 13} & set(data)))
def test_what_is_written_is_read_again(data: bytes) -> None:
    assert read([sse_event(data, "e")]) == [ServerSentEvent("e", data)]


def test_an_event_is_there_as_soon_as_its_last_byte_is() -> None:
    reader = SseReader()
    assert reader.feed(b"data: x\n") == []
    assert reader.feed(b"\n") == [ServerSentEvent("", b"x")]


def test_an_endless_event_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 100)
    reader = SseReader()
    reader.feed(b"data: x\n" * 50)
    with pytest.raises(StreamError):
        reader.feed(b"y" * 10)
    with pytest.raises(StreamError):
        SseReader().feed(b"x" * 101)
