"""Streams of providers for tests: cut anywhere, and read to their end."""

from __future__ import annotations

from collections.abc import Iterable

from extproc.dialects.answer import Event
from extproc.dialects.codec import StreamReader


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """The bytes in pieces that end at these places."""
    ends = sorted({min(place, len(data)) for place in places})
    return [data[a:b] for a, b in zip([0, *ends], [*ends, len(data)], strict=True)]


def read_all(reader: StreamReader, pieces: Iterable[bytes]) -> list[Event]:
    """Every event of a whole stream."""
    events = [event for piece in pieces for event in reader.feed(piece)]
    return events + list(reader.end())
