"""The upstream's streams are what the readers of each provider's API take for whole answers."""

from __future__ import annotations

import pytest

from extproc.core.translated import TARGETS
from extproc.dialects.answer import Delta, Ended, Event, Started, Stopped
from extproc.dialects.codec import Context
from extproc.values.dialect import Dialect
from loadtest.provider_streams import (
    ANTHROPIC,
    BEDROCK,
    GEMINI,
    OPENAI,
    STAMP,
    STAMP_BYTES,
    ProviderStream,
    stream_of,
)
from loadtest.timer import now_ns

STREAMS = {
    Dialect.OPENAI: OPENAI,
    Dialect.ANTHROPIC: ANTHROPIC,
    Dialect.GEMINI: GEMINI,
    Dialect.BEDROCK: BEDROCK,
}


def read(dialect: Dialect, data: bytes) -> list[Event]:
    reader = TARGETS[dialect].stream_reader(Context("request-1", 1_790_000_000, "asked"))
    return [*reader.feed(data), *reader.end()]


@pytest.mark.parametrize("dialect", STREAMS)
def test_every_event_says_when_it_was_written(dialect: Dialect) -> None:
    stream = STREAMS[dialect]
    before_ns = now_ns()
    whole = stream.begin + stream.event() + stream.event() + stream.event() + stream.end
    after_ns = now_ns()
    events = read(dialect, whole)
    assert isinstance(events[0], Started)
    texts = [event.text for event in events if isinstance(event, Delta) and event.text]
    assert [len(text) for text in texts] == [STAMP_BYTES] * 3
    stamps = [int(text.removeprefix("@")) for text in texts]
    assert before_ns <= stamps[0] < stamps[1] < stamps[2] <= after_ns
    assert [int(stamp) for stamp in STAMP.findall(whole)] == stamps
    (stopped,) = (event for event in events if isinstance(event, Stopped))
    assert stopped.stop == "end"
    assert isinstance(events[-1], Ended)
    assert events[-1].usage is not None
    assert (events[-1].usage.input_tokens, events[-1].usage.output_tokens) == (250, 50)


@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)
def test_events_are_of_one_size(stream: ProviderStream) -> None:
    assert len(stream.event()) == len(stream.event())


def test_the_path_says_whose_stream_it_is() -> None:
    assert stream_of("/v1/chat/completions") is OPENAI
    assert stream_of("/v1/messages") is ANTHROPIC
    assert stream_of("/v1beta/models/gemini:streamGenerateContent?alt=sse") is GEMINI
    assert stream_of("/model/anthropic.claude/converse-stream") is BEDROCK
