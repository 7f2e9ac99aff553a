"""What readers of streams have in common: the end, the cut, the shape, parts in a row."""

from __future__ import annotations

import orjson
import pytest
from dialect_streams import read_all

from extproc.dialects.answer import (
    Delta,
    Ended,
    Event,
    Failed,
    PartEnded,
    PartKind,
    PartStarted,
    Ping,
    Shown,
)
from extproc.dialects.codec import StreamError
from extproc.dialects.conversation import Media
from extproc.dialects.reading_streams import PartSequence, SseStreamReader, ended_early


class Reader(SseStreamReader):
    """Of an API whose events are ``{"say": "ping"}`` and ``{"say": "end"}``."""

    api = "the test's API"

    def _take(self, data: bytes, events: list[Event]) -> None:
        word = orjson.loads(data)["say"].strip()
        self._over = word == "end"
        events.append(Ended(None) if self._over else Ping())

    def _body_over(self, events: list[Event]) -> None:
        events.append(ended_early())


PING, END = b'data: {"say": "ping"}\n\n', b'data: {"say": "end"}\n\n'


def test_after_the_streams_own_end_nothing_counts() -> None:
    assert read_all(Reader(), [PING + END + PING, b"data: {\n\n"]) == [Ping(), Ended(None)]


def test_a_body_that_is_over_too_early_is_a_failure_told_once() -> None:
    reader = Reader()
    events = read_all(reader, [PING])
    assert events == [Ping(), ended_early()]
    assert isinstance(events[1], Failed)
    assert events[1].error.status == 502
    assert reader.end() == []


def test_half_an_event_at_the_end_is_a_cut_and_a_whole_one_without_its_blank_line_counts() -> None:
    assert read_all(Reader(), [PING, b'data: {"sa']) == [Ping(), ended_early()]
    assert read_all(Reader(), [END[:-2]]) == [Ended(None)]


@pytest.mark.parametrize("data", [b"{", b"7", b"[]", b"{}", b'{"say": 7}'])
def test_what_is_not_of_the_shape_is_no_stream(data: bytes) -> None:
    with pytest.raises(StreamError, match="none of the test's API"):
        Reader().feed(b"data: %b\n\n" % data)


def test_what_is_there_at_once_closes_what_is_open() -> None:
    parts, events = PartSequence(), list[Event]()
    image = Media("image", "image/png", data="QQ==")
    parts.text(PartKind.TEXT, "a", events)
    parts.show(image, events)
    parts.text(PartKind.TEXT, "b", events)
    assert events[2:5] == [PartEnded(0), Shown(1, image), PartStarted(2, PartKind.TEXT)]


def test_parts_follow_one_another_and_are_closed_once() -> None:
    parts, events = PartSequence(), list[Event]()
    parts.close(events)
    parts.text(PartKind.TEXT, "a", events)
    parts.text(PartKind.TEXT, "", events)
    parts.text(PartKind.THINKING, "", events)
    parts.begin(PartKind.TOOL_CALL, events, "c", "f")
    parts.begin(PartKind.TOOL_CALL, events, "d", "g")
    parts.go_on(PartKind.TOOL_CALL, events)
    parts.close(events)
    parts.close(events)
    assert events == [
        PartStarted(0, PartKind.TEXT),
        Delta(0, "a"),
        PartEnded(0),
        PartStarted(1, PartKind.THINKING),
        PartEnded(1),
        PartStarted(2, PartKind.TOOL_CALL, "c", "f"),
        PartEnded(2),
        PartStarted(3, PartKind.TOOL_CALL, "d", "g"),
        PartEnded(3),
    ]
