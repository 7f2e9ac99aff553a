"""Streams of messages: events in order, in any cut, and back as Anthropic's clients know them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from anthropic.types import RawMessageStreamEvent
from dialect_streams import cut, read_all
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from extproc.dialects.answer import (
    Delta,
    Ended,
    Event,
    Failed,
    PartEnded,
    PartKind,
    PartStarted,
    Ping,
    ProviderError,
    Signature,
    Started,
    Stop,
    Stopped,
)
from extproc.dialects.anthropic.streams import MessageStreamReader, MessageStreamWriter
from extproc.dialects.codec import Context, StreamError
from extproc.dialects.conversation import Vendor
from extproc.values.usage import TokenUsage
from extproc.wire.call_ids import FOREIGN

CONTEXT = Context("r1", 1_700_000_000, "asked", vendor=Vendor.ANTHROPIC)
CHECK: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)


def event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def start(**usage: int) -> bytes:
    message = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "content": [],
        "stop_reason": None, "stop_sequence": None,
        "usage": {"input_tokens": 3, "output_tokens": 1, **usage},
    }  # fmt: skip
    return event("message_start", message=message)


def block(index: int, **content: Any) -> bytes:
    return event("content_block_start", index=index, content_block=content)


def delta(index: int, **fields: Any) -> bytes:
    return event("content_block_delta", index=index, delta=fields)


def stop(index: int) -> bytes:
    return event("content_block_stop", index=index)


STREAM = b"".join(
    [
        start(cache_read_input_tokens=4),
        event("ping"),
        block(0, type="thinking", thinking="", signature=""),
        delta(0, type="thinking_delta", thinking="hm"),
        delta(0, type="signature_delta", signature="s"),
        stop(0),
        block(1, type="redacted_thinking", data="r"),
        stop(1),
        block(2, type="server_tool_use", id="x", name="web_search", input={}),
        delta(2, type="input_json_delta", partial_json="{}"),
        stop(2),
        block(3, type="text", text=""),
        delta(3, type="text_delta", text="Hi"),
        stop(3),
        block(4, type="tool_use", id="t1", name="f", input={}),
        delta(4, type="input_json_delta", partial_json=""),
        delta(4, type="input_json_delta", partial_json='{"a"'),
        delta(4, type="input_json_delta", partial_json=":1}"),
        stop(4),
        event(
            "message_delta",
            delta={"stop_reason": "tool_use", "stop_sequence": None},
            usage={"output_tokens": 9},
        ),
        event("message_stop"),
    ]
)
FINAL = TokenUsage(7, 9, 4)
EVENTS: list[Event] = [
    Started("msg_1", "claude", TokenUsage(7, 1, 4)),
    Ping(),
    PartStarted(0, PartKind.THINKING),
    Delta(0, "hm"),
    Signature(0, "s"),
    PartEnded(0),
    PartStarted(1, PartKind.THINKING, redacted="r"),
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
    return read_all(MessageStreamReader(CONTEXT), pieces)


def test_a_whole_stream_in_order() -> None:
    assert read(STREAM) == EVENTS


@given(st.lists(st.integers(0, len(STREAM)), max_size=30))
def test_F50_the_cut_changes_nothing(places: list[int]) -> None:
    assert read(*cut(STREAM, places)) == EVENTS


def test_a_stream_that_is_cut_says_so() -> None:
    cut = read(start(), block(0, type="text", text="x"))
    assert cut[-2:] == [
        PartEnded(0),
        Failed(ProviderError(502, "api", "The provider's stream ended early.")),
    ]
    without_stop = STREAM.rpartition(b"event: message_stop")[0]
    assert read(without_stop)[-1] == Ended(FINAL)


@pytest.mark.parametrize("usage", [None, {}, {"output_tokens": None}, {"input_tokens": 3}])
def test_F54_what_was_counted_at_the_start_is_no_count_of_the_answer(usage: Any) -> None:
    """A start says one token or so: an answer of thousands would be settled at that."""
    last = event("message_delta", delta={"stop_reason": "end_turn"}, usage=usage)
    data = start() + last + event("message_stop")
    *_, stopped, ended = read(data)
    assert isinstance(stopped, Stopped)
    assert stopped.usage is None
    assert ended == Ended(None)


def test_an_error_inside_the_stream_ends_it() -> None:
    error = {"type": "overloaded_error", "message": "busy"}
    events = read(start(), event("error", error=error), event("message_stop"))
    assert events[-1] == Failed(ProviderError(529, "overloaded", "busy", code="overloaded_error"))


@pytest.mark.parametrize("data", [b"data: {\n\n", b"data: 7\n\n", b"data: {}\n\n"])
def test_what_is_none_of_anthropics_events_is_no_stream(data: bytes) -> None:
    with pytest.raises(StreamError):
        read(data)


def test_an_event_of_a_kind_that_comes_later_is_passed_over() -> None:
    assert read(start(), event("novel_event"))[0] == EVENTS[0]._replace(usage=TokenUsage(3, 1))


def written(events: list[Event]) -> list[dict[str, Any]]:
    writer = MessageStreamWriter(CONTEXT)
    data = b"".join(writer.write([event]) for event in events).decode()
    documents = []
    for text in data.split("\n\n")[:-1]:
        name, _, body = text.partition("\ndata: ")
        document = json.loads(body)
        assert name == f"event: {document['type']}"
        if document["type"] not in ("ping", "error"):
            CHECK.validate_python(document)
        documents.append(document)
    return documents


def test_what_is_written_is_read_again() -> None:
    writer = MessageStreamWriter(CONTEXT)
    assert read(writer.write(EVENTS)) == EVENTS


def test_usage_that_comes_after_the_reason_to_stop_is_told_with_it() -> None:
    usage = TokenUsage(9, 4, 2)
    events = [Started("chatcmpl-1", "gpt", None), Stopped(Stop.END), Ended(usage)]
    start_event, delta_event, stop_event = written(events)
    assert start_event["message"]["usage"]["input_tokens"] == 0
    assert delta_event["delta"]["stop_reason"] == "end_turn"
    assert delta_event["usage"]["input_tokens"] == 7
    assert delta_event["usage"]["cache_read_input_tokens"] == 2
    assert stop_event == {"type": "message_stop"}


def test_a_broken_stream_is_told_as_an_error_and_never_as_stopped() -> None:
    documents = written([EVENTS[0], Failed(ProviderError(502, "overloaded", "broken"))])
    assert documents[-1]["error"] == {"type": "overloaded_error", "message": "broken"}


@pytest.mark.parametrize("signature", ["s", ""])
def test_what_is_not_claudes_is_marked(signature: str) -> None:
    """A thought that nobody signed too: every block of them ends with a signature."""
    events: list[Event] = [PartStarted(0, PartKind.THINKING), Delta(0, "hm")]
    if signature:
        events.append(Signature(0, signature))
    events += [PartEnded(0), PartStarted(1, PartKind.TOOL_CALL, "t", "f"), PartEnded(1)]
    writer = MessageStreamWriter(CONTEXT._replace(vendor=Vendor.GOOGLE))
    _, _, signed, stop, call, _ = writer.write(events).split(b"\n\n")[:-1]
    assert f'"signature":"{FOREIGN}google.{signature}"'.encode() in signed
    assert b"content_block_stop" in stop
    assert f'"id":"t{FOREIGN}"'.encode() in call


def test_F54_an_end_that_does_not_say_the_output_is_no_report() -> None:
    """What the start said of it was a beginning."""
    events = read(start(), event("message_delta", delta={"stop_reason": "end_turn"}, usage={}))
    assert events[-1] == Ended(None)


def test_F54_an_end_that_no_reason_came_before_is_no_report() -> None:
    said = (block(0, type="text", text="Hi"), stop(0))
    counted = event("message_delta", delta={}, usage={"output_tokens": 2})
    for pieces in (said, (*said, counted)):
        whole = (start(), *pieces, event("message_stop"))
        assert read_all(MessageStreamReader(CONTEXT), whole)[-1] == Ended(None)
