"""ConverseStream: events in order, in any cut."""

from __future__ import annotations

import pytest
from bedrock_api import frame
from dialect_streams import cut, read_all
from hypothesis import given
from hypothesis import strategies as st

from extproc.dialects.answer import (
    Delta,
    Ended,
    Event,
    Failed,
    PartEnded,
    PartKind,
    PartStarted,
    ProviderError,
    Shown,
    Signature,
    Started,
    Stop,
    Stopped,
)
from extproc.dialects.bedrock import streams
from extproc.dialects.bedrock.streams import ConverseStreamReader
from extproc.dialects.codec import Context, StreamError
from extproc.dialects.conversation import Media
from extproc.values.usage import TokenUsage

CONTEXT = Context("r1", 1_700_000_000, "asked")


def delta(index: int, **content: object) -> bytes:
    return frame({"contentBlockIndex": index, "delta": content}, event="contentBlockDelta")


def stop(index: int) -> bytes:
    return frame({"contentBlockIndex": index}, event="contentBlockStop")


CALL = {"toolUse": {"toolUseId": "t1", "name": "f"}}
STREAM = b"".join(
    [
        frame({"role": "assistant"}, event="messageStart"),
        delta(0, reasoningContent={"text": "hm"}),
        delta(0, reasoningContent={"signature": "s"}),
        stop(0),
        delta(1, reasoningContent={"redactedContent": "QQ=="}),
        stop(1),
        delta(2, text="Hi"),
        stop(2),
        frame({"contentBlockIndex": 3, "start": CALL}, event="contentBlockStart"),
        delta(3, toolUse={"input": ""}),
        delta(3, toolUse={"input": '{"a"'}),
        delta(3, toolUse={"input": ":1}"}),
        stop(3),
        frame({"stopReason": "tool_use"}, event="messageStop"),
        frame(
            {"usage": {"inputTokens": 3, "outputTokens": 9, "totalTokens": 12}}, event="metadata"
        ),
    ]
)
FINAL = TokenUsage(3, 9)
EVENTS: list[Event] = [
    Started("r1", "", None),
    PartStarted(0, PartKind.THINKING),
    Delta(0, "hm"),
    Signature(0, "s"),
    PartEnded(0),
    PartStarted(1, PartKind.THINKING, redacted="QQ=="),
    PartEnded(1),
    PartStarted(2, PartKind.TEXT),
    Delta(2, "Hi"),
    PartEnded(2),
    PartStarted(3, PartKind.TOOL_CALL, "t1", "f"),
    Delta(3, '{"a"'),
    Delta(3, ":1}"),
    PartEnded(3),
    Stopped(Stop.TOOL_CALLS, usage=FINAL),
    Ended(FINAL),
]


def read(*pieces: bytes) -> list[Event]:
    return read_all(ConverseStreamReader(CONTEXT), pieces)


def test_a_whole_stream_in_order() -> None:
    assert read(STREAM) == EVENTS


@given(st.lists(st.integers(0, len(STREAM)), max_size=30))
def test_F50_the_cut_changes_nothing(places: list[int]) -> None:
    assert read(*cut(STREAM, places)) == EVENTS


def test_a_stream_that_is_cut_says_so() -> None:
    assert isinstance(read(STREAM[:-20])[-1], Failed)
    assert isinstance(read(frame({"role": "assistant"}, event="messageStart"))[-1], Failed)


def test_an_exception_inside_the_stream_ends_it() -> None:
    events = read(frame({"message": "busy"}, exception="throttlingException"), STREAM)
    assert events == [Failed(ProviderError(429, "rate_limit", "busy", code="throttlingException"))]


def test_an_image_is_put_together_and_shown_when_it_is_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = {"contentBlockIndex": 0, "start": {"image": {"format": "png"}}}
    pieces = [delta(0, image={"source": {"bytes": data}}) for data in ("QQ==", "QkM=")]
    stream = [frame(start, event="contentBlockStart"), *pieces, stop(0)]
    assert read(*stream)[0] == Shown(0, Media("image", "image/png", data="QUJD"))
    with pytest.raises(StreamError):
        read(stream[0], delta(0, image={"source": {"bytes": "no base64!"}}))
    monkeypatch.setattr(streams, "MAX_IMAGE_BYTES", 2)
    with pytest.raises(StreamError, match="larger than"):
        read(*stream)


def test_what_is_no_event_is_no_stream() -> None:
    with pytest.raises(StreamError):
        read(frame(b"{", event="messageStop"))
    with pytest.raises(StreamError):
        read(b"x" * 40)
