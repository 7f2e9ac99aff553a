"""Streams of responses: events in order, in any cut, and back as the official SDK knows them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from dialect_streams import cut, read_all
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import ResponseStreamEvent
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
from extproc.dialects.codec import Context, StreamError
from extproc.dialects.conversation import KnownAs, Vendor
from extproc.dialects.openai_responses.streams import (
    ResponseStreamReader,
    ResponseStreamWriter,
)
from extproc.values.usage import TokenUsage
from extproc.wire.call_ids import FOREIGN

CONTEXT = Context("r1", 1_700_000_000, "asked")
CHECK: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
FINAL = TokenUsage(3, 9)
EVENTS: list[Event] = [
    Started("resp_1", "gpt", None, 5),
    PartStarted(0, PartKind.THINKING),
    Delta(0, "hm"),
    Signature(0, "enc"),
    PartEnded(0),
    PartStarted(1, PartKind.TEXT),
    Delta(1, "He"),
    Delta(1, "llo"),
    PartEnded(1),
    PartStarted(2, PartKind.TOOL_CALL, "c1", "f"),
    Delta(2, '{"a"'),
    Delta(2, ":1}"),
    PartEnded(2),
    Stopped(Stop.TOOL_CALLS, usage=FINAL),
    Ended(FINAL),
]
STREAM = ResponseStreamWriter(CONTEXT, Vendor.OPENAI).write(EVENTS)


def read(*pieces: bytes) -> list[Event]:
    return read_all(ResponseStreamReader(CONTEXT), pieces)


def told(data: bytes) -> list[dict[str, Any]]:
    documents = []
    for text in data.decode().split("\n\n")[:-1]:
        if not text.startswith(":"):
            documents.append(json.loads(text.partition("\ndata: ")[2]))
            CHECK.validate_python(documents[-1])
    return documents


@pytest.mark.parametrize("step", [1, 4, 100])
def test_free_text_arrives_as_it_is_written(step: int) -> None:
    """Codex's patches: no event waits for the end of the call."""
    known_as = {"apply_patch": KnownAs("custom", "apply_patch")}
    arguments = '{"input": "*** Begin\\n+x"}'
    events = [
        Started("resp_1", "m", None, 5),
        PartStarted(0, PartKind.TOOL_CALL, "c1", "apply_patch"),
        *(Delta(0, arguments[at : at + step]) for at in range(0, len(arguments), step)),
        PartEnded(0),
        Stopped(Stop.TOOL_CALLS, usage=FINAL),
        Ended(FINAL),
    ]
    documents = told(ResponseStreamWriter(CONTEXT._replace(known_as=known_as)).write(events))
    kinds = [document["type"] for document in documents]
    assert not [kind for kind in kinds if "arguments" in kind]
    deltas = [one["delta"] for one in documents if one["type"].endswith("input.delta")]
    assert "".join(deltas) == "*** Begin\n+x"
    assert len(deltas) > 1 or step == 100
    (done,) = [one for one in documents if one["type"] == "response.custom_tool_call_input.done"]
    assert done["input"] == "*** Begin\n+x"
    item = documents[kinds.index("response.output_item.done")]["item"]
    assert item == {
        "id": "ctc_1_0", "type": "custom_tool_call", "status": "completed", "call_id": "c1",
        "name": "apply_patch", "input": "*** Begin\n+x",
    }  # fmt: skip
    assert documents[-1]["response"]["output"] == [item]
    added = documents[kinds.index("response.output_item.added")]["item"]
    assert added["input"] == ""


def test_events_are_those_of_the_official_sdk_numbered_and_whole() -> None:
    events = told(STREAM)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    kinds = [event["type"] for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    for added, done in (
        ("response.output_item.added", "response.output_item.done"),
        ("response.content_part.added", "response.content_part.done"),
    ):
        assert kinds.count(added) == kinds.count(done)
    output = events[-1]["response"]["output"]
    assert [item["type"] for item in output] == ["reasoning", "message", "function_call"]
    assert output[2]["arguments"] == '{"a":1}'
    assert events[-1]["response"]["usage"]["total_tokens"] == 12
    ids = {event["item_id"] for event in events if "item_id" in event}
    assert ids == {item["id"] for item in output}


def test_what_is_written_is_read_again() -> None:
    assert read(STREAM) == EVENTS


@given(st.lists(st.integers(0, len(STREAM)), max_size=30))
def test_F50_the_cut_changes_nothing(places: list[int]) -> None:
    assert read(*cut(STREAM, places)) == EVENTS


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("overloaded", "server_error"),  # which Codex tries again
        ("api", "server_error"),
        ("rate_limit", "rate_limit_exceeded"),
        ("context_length", "context_length_exceeded"),  # which makes Codex compact
    ],
)
def test_a_failed_stream_says_what_codex_branches_on(kind: str, code: str) -> None:
    events: list[Event] = [EVENTS[0], Failed(ProviderError(529, kind, "words"))]
    data = ResponseStreamWriter(CONTEXT).write(events).decode()
    last = json.loads(data.split("\n\n")[-2].partition("\ndata: ")[2])
    assert last["type"] == "response.failed"
    assert last["response"]["error"] == {"code": code, "message": "words"}


def test_thoughts_of_another_vendor_come_back_to_it() -> None:
    writer = ResponseStreamWriter(CONTEXT, Vendor.ANTHROPIC)
    item = told(writer.write(EVENTS))[-1]["response"]["output"][0]
    assert item["encrypted_content"] == f"{FOREIGN}anthropic.enc"


def test_refusals_and_cut_answers() -> None:
    events: list[Event] = [
        EVENTS[0],
        PartStarted(0, PartKind.REFUSED),
        Delta(0, "no"),
        PartEnded(0),
        Stopped(Stop.REFUSAL),
        Ended(None),
    ]
    data = ResponseStreamWriter(CONTEXT).write(events)
    assert told(data)[-1]["type"] == "response.completed"
    assert read(data)[1:3] == [PartStarted(0, PartKind.REFUSED), Delta(0, "no")]
    cut = [EVENTS[0], Stopped(Stop.MAX_TOKENS), Ended(FINAL)]
    end = told(ResponseStreamWriter(CONTEXT).write(cut))[-1]
    assert end["response"]["incomplete_details"] == {"reason": "max_output_tokens"}


def test_a_stream_that_is_cut_or_fails_says_so() -> None:
    assert isinstance(read(STREAM[:600])[-1], Failed)
    failure = Failed(ProviderError(502, "rate_limit", "slow down"))
    data = ResponseStreamWriter(CONTEXT).write([EVENTS[0], failure])
    assert told(data)[-1]["response"]["error"]["code"] == "rate_limit_exceeded"
    assert read(data)[-1].error.kind == "rate_limit"
    early = told(ResponseStreamWriter(CONTEXT).write([failure]))
    assert [event["response"]["id"] for event in early] == ["resp_r1"]
    assert ResponseStreamWriter(CONTEXT).write([Ping()]).startswith(b":")


@pytest.mark.parametrize("data", [b"data: {\n\n", b"data: 7\n\n", b"data: {}\n\n"])
def test_what_is_no_event_is_no_stream(data: bytes) -> None:
    with pytest.raises(StreamError):
        read(data)
