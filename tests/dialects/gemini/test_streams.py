"""Streams of Gemini: events in order, in any cut."""

from __future__ import annotations

import json
from typing import Any

import pytest
from dialect_streams import cut, read_all
from google.genai import types
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
from extproc.dialects.codec import Context, StreamError
from extproc.dialects.conversation import Media
from extproc.dialects.gemini.streams import GeminiStreamReader
from extproc.values.usage import TokenUsage

CONTEXT = Context("r1", 1_700_000_000, "asked")


def chunk(*parts: Any, reason: str | None = None, output: int = 1) -> bytes:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": list(parts)}, "index": 0}
    if reason is not None:
        candidate["finishReason"] = reason
    document = {
        "candidates": [candidate],
        "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": output},
        "modelVersion": "gemini",
        "responseId": "x1",
    }
    types.GenerateContentResponse.model_validate(document)
    return b"data: " + json.dumps(document).encode() + b"\r\n\r\n"


STREAM = b"".join(
    [
        chunk({"text": "hm", "thought": True}),
        chunk({"text": "m", "thought": True, "thoughtSignature": "QQ=="}),
        chunk({"text": "He"}),
        chunk({"text": "llo"}, {"functionCall": {"name": "f", "args": {"a": 1}}}),
        chunk({"functionCall": {"id": "g1", "name": "g"}}, {"text": ""}),
        chunk(reason="STOP", output=9),
    ]
)
FINAL = TokenUsage(3, 9)
EVENTS: list[Event] = [
    Started("x1", "gemini", TokenUsage(3, 1)),
    PartStarted(0, PartKind.THINKING),
    Delta(0, "hm"),
    Delta(0, "m"),
    Signature(0, "QQ=="),
    PartEnded(0),
    PartStarted(1, PartKind.TEXT),
    Delta(1, "He"),
    Delta(1, "llo"),
    PartEnded(1),
    PartStarted(2, PartKind.TOOL_CALL, "call_r1_2", "f"),
    Delta(2, '{"a":1}'),
    PartEnded(2),
    PartStarted(3, PartKind.TOOL_CALL, "g1", "g"),
    Delta(3, "{}"),
    PartEnded(3),
    Stopped(Stop.TOOL_CALLS, usage=FINAL),
    Ended(FINAL),
]


def read(*pieces: bytes) -> list[Event]:
    return read_all(GeminiStreamReader(CONTEXT), pieces)


def test_a_whole_stream_in_order() -> None:
    assert read(STREAM) == EVENTS


@given(st.lists(st.integers(0, len(STREAM)), max_size=30))
def test_F50_the_cut_changes_nothing(places: list[int]) -> None:
    assert read(*cut(STREAM, places)) == EVENTS


def test_a_stream_that_is_cut_says_so() -> None:
    assert isinstance(read(chunk({"text": "x"}))[-1], Failed)
    assert isinstance(read()[-1], Failed)


def test_a_blocked_prompt_is_a_refusal() -> None:
    data = b'data: {"promptFeedback": {"blockReason": "SAFETY"}}\n\n'
    assert read(data)[-2] == Stopped(Stop.REFUSAL)


def test_an_error_inside_the_stream_ends_it() -> None:
    error = b'data: {"error": {"code": 503, "message": "busy", "status": "UNAVAILABLE"}}\n\n'
    events = read(chunk({"text": "x"}), error, chunk(reason="STOP"))
    assert events[-1] == Failed(ProviderError(503, "overloaded", "busy", code="UNAVAILABLE"))


def test_an_image_is_a_part_of_its_own() -> None:
    image = {"inlineData": {"mimeType": "image/png", "data": "QQ=="}}
    events = read(chunk({"text": "Look"}, image, reason="STOP"))
    assert events[1:-2] == [
        PartStarted(0, PartKind.TEXT),
        Delta(0, "Look"),
        PartEnded(0),
        Shown(1, Media("image", "image/png", data="QQ==")),
    ]


@pytest.mark.parametrize("data", [b"data: {\n\n", b"data: 7\n\n"])
def test_what_is_no_stream_is_refused(data: bytes) -> None:
    with pytest.raises(StreamError):
        read(data)


def test_F54_what_was_counted_on_the_way_is_no_count_of_the_answer() -> None:
    last = json.loads(chunk({"text": "and all the rest"}, reason="STOP")[6:])
    counts = last.pop("usageMetadata")
    end = b"data: " + json.dumps(last).encode() + b"\n\n"
    assert read(chunk({"text": "Hi"}, output=1), end)[-1] == Ended(None)
    # Counts by themselves, after the end, are the last word.
    told = b"data: " + json.dumps({"usageMetadata": counts}).encode() + b"\n\n"
    assert read(chunk({"text": "Hi"}, output=1), end, told)[-1] == Ended(TokenUsage(3, 1))
