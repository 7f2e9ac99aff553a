"""Streams of chat completions: events in order, however a provider cuts and interleaves them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from dialect_streams import cut, read_all
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionChunk

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
from extproc.dialects.codec import Context, StreamError
from extproc.dialects.openai_chat.streams import ChatStreamReader, ChatStreamWriter
from extproc.values.usage import TokenUsage

CONTEXT = Context("r1", 1_700_000_000, "asked")
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
TEXT, TOOL = PartKind.TEXT, PartKind.TOOL_CALL


def chunk(delta: dict[str, Any] | None = None, reason: str | None = None, **more: Any) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": reason}]
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 5, "model": "gpt"}
    return b"data: " + json.dumps({**head, "choices": choices, **more}).encode() + b"\n\n"


def call(index: int, arguments: str = "", call_id: str = "", name: str = "") -> dict[str, Any]:
    piece: dict[str, Any] = {"index": index, "function": {"arguments": arguments}}
    if call_id:
        piece |= {"id": call_id, "type": "function"}
        piece["function"]["name"] = name
    return {"tool_calls": [piece]}


DONE = b"data: [DONE]\n\n"
STREAM = b"".join(
    [
        chunk({"role": "assistant", "content": ""}),
        chunk({"reasoning_content": "hm"}),
        chunk({"content": "He"}),
        chunk({"content": "llo"}),
        chunk(call(0, "", "c1", "f")),
        chunk(call(0, '{"a"')),
        chunk(call(0, ":1}")),
        chunk(call(1, "{}", "c2", "g")),
        chunk({}, "tool_calls"),
        chunk(usage=USAGE),
        DONE,
    ]
)
EVENTS: list[Event] = [
    Started("chatcmpl-1", "gpt", None, 5),
    PartStarted(0, PartKind.THINKING),
    Delta(0, "hm"),
    PartEnded(0),
    PartStarted(1, TEXT),
    Delta(1, "He"),
    Delta(1, "llo"),
    PartEnded(1),
    PartStarted(2, TOOL, "c1", "f"),
    Delta(2, '{"a"'),
    Delta(2, ":1}"),
    PartEnded(2),
    PartStarted(3, TOOL, "c2", "g"),
    Delta(3, "{}"),
    PartEnded(3),
    Stopped(Stop.TOOL_CALLS, usage=TokenUsage(3, 2)),
    Ended(TokenUsage(3, 2)),
]


def read(*pieces: bytes) -> list[Event]:
    return read_all(ChatStreamReader(CONTEXT), pieces)


def test_a_whole_stream_in_order() -> None:
    assert read(STREAM) == EVENTS


@given(st.lists(st.integers(0, len(STREAM)), max_size=30))
def test_F50_the_cut_changes_nothing(places: list[int]) -> None:
    assert read(*cut(STREAM, places)) == EVENTS


def test_interleaved_calls_are_told_one_after_the_other() -> None:
    events = read(
        chunk(call(0, '{"a":', "c1", "f")),
        chunk(call(1, '{"b":', "c2", "g")),
        chunk(call(1, "2}")),
        chunk(call(0, "1}")),
        chunk({}, "tool_calls"),
        DONE,
    )
    assert events[1:-2] == [
        PartStarted(0, TOOL, "c1", "f"),
        Delta(0, '{"a":'),
        Delta(0, "1}"),
        PartEnded(0),
        PartStarted(1, TOOL, "c2", "g"),
        Delta(1, '{"b":'),
        Delta(1, "2}"),
        PartEnded(1),
    ]


def test_calls_that_share_a_number_are_told_apart_by_their_ids() -> None:
    events = read(
        chunk(call(0, "{}", "c1", "f")), chunk(call(0, "{}", "c2", "g")), chunk({}, "stop"), DONE
    )
    assert [event.call_id for event in events if isinstance(event, PartStarted)] == ["c1", "c2"]


def test_a_stream_that_is_cut_says_so_and_one_without_done_does_not() -> None:
    cut = read(chunk({"content": "x"}))
    assert isinstance(cut[-1], Failed)
    assert not any(isinstance(event, Ended) for event in cut)
    whole = read(chunk({"content": "x"}), chunk({}, "stop"))
    assert whole[-2:] == [Stopped(Stop.END), Ended(None)]


def test_an_error_inside_the_stream_ends_it() -> None:
    events = read(
        chunk({"content": "x"}), b'data: {"error": {"message": "busy", "code": 503}}\n\n', DONE
    )
    assert events[-1] == Failed(ProviderError(503, "api", "busy", "", "503"))


@pytest.mark.parametrize(
    "data",
    [
        b"data: {\n\n",
        b"data: 7\n\n",
        b'data: {"choices": 7}\n\n',
        b'data: {"choices": [5]}\n\n',
        b'data: {"choices": [{"delta": "x"}]}\n\n',
        chunk({"tool_calls": [{"index": 0, "id": "c", "function": {"arguments": {"a": 1}}}]}),
    ],
)
def test_what_is_no_chunk_is_no_stream(data: bytes) -> None:
    with pytest.raises(StreamError):
        read(data)


def written(events: list[Event], include_usage: bool = True) -> list[dict[str, Any] | str]:
    writer = ChatStreamWriter(CONTEXT._replace(include_usage=include_usage))
    data = b"".join(writer.write([event]) for event in events).decode()
    chunks: list[dict[str, Any] | str] = []
    for event in data.split("\n\n")[:-1]:
        text = event.removeprefix("data: ")
        if text == "[DONE]":
            chunks.append(text)
        else:
            ChatCompletionChunk.model_validate_json(text, strict=True)
            chunks.append(json.loads(text))
    return chunks


def test_what_is_written_is_read_again() -> None:
    writer = ChatStreamWriter(CONTEXT)
    assert read(writer.write(EVENTS)) == EVENTS


def test_chunks_are_those_of_the_official_sdk() -> None:
    chunks = written(EVENTS)
    assert chunks[-1] == "[DONE]"
    assert chunks[-2]["usage"]["total_tokens"] == 5
    assert chunks[-2]["choices"] == []
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [c["choices"][0]["finish_reason"] for c in chunks[:-2]][-1] == "tool_calls"
    indices = [
        c["choices"][0]["delta"]["tool_calls"][0]["index"]
        for c in chunks[:-2]
        if "tool_calls" in c["choices"][0]["delta"]
    ]
    assert indices == [0, 0, 0, 1, 1]


def test_a_caller_that_wants_no_usage_gets_none() -> None:
    assert written(EVENTS, include_usage=False)[-2]["choices"] != []


def test_pings_are_comments_and_signatures_have_no_word() -> None:
    writer = ChatStreamWriter(CONTEXT)
    assert writer.write([Ping()]).startswith(b":")
    assert writer.write([Signature(0, "s")]) == b""


def test_a_broken_stream_is_told_as_an_error_and_never_as_done() -> None:
    writer = ChatStreamWriter(CONTEXT)
    data = writer.write([EVENTS[0], Failed(ProviderError(502, "api", "broken"))])
    assert b"[DONE]" not in data
    assert json.loads(data.split(b"data: ")[-1])["error"]["message"] == "broken"
