"""What holds of every pair, whatever the provider sends: no cut of a stream changes it, nothing is
held back, no answer breaks the translator, and one that goes there and back keeps its meaning.

The streams and answers are those of the golden files (``tests/support/golden.py``)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import golden
import pytest
from bedrock_api import frame
from caller_shapes import check_answer, check_stream
from dialect_streams import cut, read_all
from golden import PAIRS, STREAMS, Pair
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.core.translated import CALLERS
from extproc.dialects.answer import Answer, PartKind, PartStarted, Signature, Started, Stop
from extproc.dialects.anthropic.dialect import AnthropicMessages
from extproc.dialects.bedrock.event_stream import EventStreamReader
from extproc.dialects.codec import CallerDialect, Context, StreamError, TargetDialect
from extproc.dialects.conversation import Refused, Text, Thinking, ToolCall, Vendor
from extproc.dialects.openai_chat.dialect import OpenAiChat
from extproc.dialects.openai_responses.dialect import OpenAiResponses
from extproc.dialects.translation import AnswerTranslator, events_of
from extproc.values.dialect import Dialect, Operation
from extproc.values.usage import TokenUsage
from extproc.wire.errors import WireError

EACH_STREAM = pytest.mark.parametrize(
    ("pair", "case"), STREAMS, ids=[f"{pair.name}-{case}" for pair, case in STREAMS]
)
EACH_PAIR = pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)


@cache
def events(dialect: Dialect, case: str) -> list[bytes]:
    return golden.events(dialect, case)


def fed(translator: AnswerTranslator, pieces: list[bytes]) -> list[bytes]:
    """What comes out for each piece, and at the end."""
    out = [translator.on_body(piece, end=False) for piece in pieces]
    return [*out, translator.on_body(b"", end=True)]


# -- F50: the framing and the cut change nothing --------------------------------------------------

LINE_ENDS = (b"\n", b"\r\n", b"\r")
FRAMINGS = st.tuples(
    st.sampled_from(LINE_ENDS),
    st.booleans(),  # a byte order mark
    st.lists(st.sampled_from(["", ":comment", "id: 7", "retry: 9", "event-less"]), max_size=2),
    st.sampled_from([b"data: ", b"data:"]),
    st.booleans(),  # data in several lines
)


def framed(stream: list[bytes], how: Any) -> bytes:
    """The same events, as the standard also allows them to be written."""
    end, marked, extra, key, several = how
    out = b"\xef\xbb\xbf" if marked else b""
    for event in stream:
        lines = [word.encode() for word in extra if word]
        for line in event.replace(b"\r\n", b"\n").strip(b"\n").split(b"\n"):
            if not line.startswith(b"data: "):
                lines.append(line)
            elif several and line.startswith(b"data: {"):
                lines += [key + b"{", key + line[7:]]
            else:
                lines.append(key + line[6:])
        out += b"".join(line + end for line in lines) + end
    return out


@EACH_STREAM
@settings(max_examples=8)
@given(how=FRAMINGS, places=st.lists(st.integers(0, 4_000), max_size=40))
def test_F50_framing_and_cut_change_nothing(
    pair: Pair, case: str, how: Any, places: list[int]
) -> None:
    stream = events(pair.dialect, case)
    whole = b"".join(stream)
    data = whole if pair.dialect is Dialect.BEDROCK else framed(stream, how)
    told = b"".join(fed(pair.streamed(), cut(data, places)))
    assert told == b"".join(fed(pair.streamed(), [whole]))


@EACH_STREAM
def test_F50_cut_at_every_byte(pair: Pair, case: str) -> None:
    whole = b"".join(events(pair.dialect, case))
    told = b"".join(fed(pair.streamed(), [bytes([byte]) for byte in whole]))
    assert told == b"".join(fed(pair.streamed(), [whole]))


# -- no event is held back longer than one provider event -----------------------------------------

SAID = {
    "arguments", "city", "content", "input", "name", "partial_json", "reasoning_content", "refusal",
    "text", "thinking",
}  # fmt: skip
"""Fields of the providers' events whose words a caller waits for."""


def words(event: bytes) -> Iterator[str]:
    """What one event of a provider says to the caller."""
    if event.startswith((b"data: ", b"event: ")):
        data = event.partition(b"data: ")[2].strip()
        yield from said(json.loads(data) if data != b"[DONE]" else {})
    else:
        (message,) = EventStreamReader().feed(event)
        yield from said(json.loads(message.payload))


def said(value: Any, key: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from said(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from said(inner, key)
    elif isinstance(value, str) and key in SAID:
        yield value


@EACH_STREAM
def test_what_an_event_says_is_out_with_its_last_byte(pair: Pair, case: str) -> None:
    """Compared with what a provider's whole prefix gives, and by the words themselves."""
    stream = events(pair.dialect, case)
    out = fed(pair.streamed(), stream)
    for place, event in enumerate(stream):
        prefix = pair.streamed().on_body(b"".join(stream[: place + 1]), end=False)
        assert prefix == b"".join(out[: place + 1])
        for word in words(event):
            # Of JSON inside JSON, what is the same however it is escaped.
            for part in word.replace("\\", '"').split('"'):
                assert part.encode() in out[place]


# -- whatever a provider sends, callers get something they know, or the declared errors -----------

JUNK = st.sampled_from(
    [
        None,
        True,
        7,
        -1,
        1.5,
        2**70,
        "",
        "abc",
        "\0\u00e9\u2028",
        [],
        ["x"],
        [["a", 1]],
        {},
        {"a": 1},
    ]
)
MISSING = object()


def paths(document: Any, so_far: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where values are in a document."""
    inside: Any = ()
    if isinstance(document, dict):
        inside = document.items()
    elif isinstance(document, list):
        inside = enumerate(document)
    for key, value in inside:
        yield (*so_far, key)
        yield from paths(value, (*so_far, key))


@st.composite
def mutated(draw: st.DrawFn, document: Any) -> Any:
    """The document with one value somewhere in it replaced, or left out."""
    places = list(paths(document))
    if not places or draw(st.integers(0, 20)) == 20:
        return draw(JUNK)
    copy = inner = json.loads(json.dumps(document))
    *path, last = draw(st.sampled_from(places))
    for key in path:
        inner = inner[key]
    value = draw(st.just(MISSING) | JUNK)
    if value is MISSING:
        del inner[last]
    else:
        inner[last] = value
    return copy


@EACH_PAIR
@settings(max_examples=60)
@given(data=st.data())
def test_a_mutated_answer_is_known_to_the_caller_or_refused(
    pair: Pair, data: st.DataObject
) -> None:
    recorded = golden.recorded("answers", pair.dialect)
    body = data.draw(mutated(recorded[data.draw(st.sampled_from(sorted(recorded)))]))
    try:
        answer = pair.answer(json.dumps(body))
    except WireError:
        return
    check_answer(pair.operation, answer)


@EACH_PAIR
@settings(max_examples=30)
@given(body=st.binary(max_size=60), status=st.sampled_from([200, 400, 500]))
def test_any_bytes_are_an_answer_an_error_or_refused(pair: Pair, body: bytes, status: int) -> None:
    translator = AnswerTranslator(pair.caller, pair.target, pair.context, stream=False)
    translator.on_headers(status, "application/json")
    try:
        told = translator.on_body(body, end=True)
    except WireError:
        assert status == 200
    else:
        assert json.loads(told)


@EACH_PAIR
@settings(max_examples=60)
@given(data=st.data())
def test_a_mutated_stream_is_known_to_the_caller_or_cut(pair: Pair, data: st.DataObject) -> None:
    stream = list(events(pair.dialect, data.draw(st.sampled_from(golden.cases(pair.dialect)))))
    place = data.draw(st.integers(0, len(stream) - 1))
    change = data.draw(st.sampled_from(["value", "bytes", "left out", "twice", "moved"]))
    event = stream.pop(place)
    if change == "value":
        stream.insert(place, data.draw(changed(event)))
    elif change == "bytes":
        at = data.draw(st.integers(0, len(event)))
        stream.insert(place, event[:at] + data.draw(st.binary(max_size=3)) + event[at + 1 :])
    elif change == "twice":
        stream[place:place] = [event, event]
    elif change == "moved":
        stream.insert(data.draw(st.integers(0, len(stream))), event)
    translator = pair.streamed()
    told = b""
    try:
        for piece in stream:
            told += translator.on_body(piece, end=False)
        told += translator.on_body(b"", end=True)
    except StreamError:
        assert not translator.complete
    check_stream(pair.operation, told)


@st.composite
def changed(draw: st.DrawFn, event: bytes) -> bytes:
    """One event with another value somewhere in it."""
    if event.startswith((b"data: ", b"event: ")):
        head, _, data = event.partition(b"data: ")
        document = draw(mutated(json.loads(data))) if data.strip() != b"[DONE]" else draw(JUNK)
        return head + b"data: " + json.dumps(document).encode() + b"\n\n"
    (message,) = EventStreamReader().feed(event)
    payload = json.dumps(draw(mutated(json.loads(message.payload)))).encode()
    kind = message.headers.get(":event-type")
    if kind is None:
        return frame(payload, exception=message.headers[":exception-type"])
    return frame(payload, event=kind)


@EACH_PAIR
@settings(max_examples=30)
@given(data=st.binary(max_size=200), places=st.lists(st.integers(0, 200), max_size=3))
def test_any_bytes_are_a_stream_or_none(pair: Pair, data: bytes, places: list[int]) -> None:
    translator = pair.streamed()
    try:
        told = b"".join(fed(translator, cut(data, places)))
    except StreamError:
        return
    assert not translator.complete
    check_stream(pair.operation, told)


# -- there and back -------------------------------------------------------------------------------

WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
NAMES = st.text("abcdefgh_-0123456789", min_size=1, max_size=8)
ARGUMENTS = st.dictionaries(WORDS, st.integers(-9, 9) | WORDS, max_size=2)
CALLS = st.lists(
    st.builds(lambda name, arguments: ToolCall("", name, json.dumps(arguments)), NAMES, ARGUMENTS),
    max_size=3,
)
USAGES = st.builds(
    lambda plain, cached, written, said, thought: TokenUsage(
        plain + cached + written, said + thought, cached, written, thought
    ),
    st.integers(1, 999), st.integers(0, 99), st.integers(0, 99), st.integers(0, 99),
    st.integers(0, 99),
)  # fmt: skip
BOTH_WAYS: dict[Operation, CallerDialect] = CALLERS
"""Each API that callers speak is one that providers speak."""
READERS: dict[Operation, TargetDialect] = {
    Operation.CHAT_COMPLETIONS: OpenAiChat(),
    Operation.RESPONSES: OpenAiResponses(),
    Operation.MESSAGES: AnthropicMessages(),
}
STOPS = (Stop.END, Stop.MAX_TOKENS, Stop.REFUSAL)
CONTEXT = Context("req1", 1_790_000_000, "asked", vendor=Vendor.ANTHROPIC)


@st.composite
def answers(draw: st.DrawFn) -> Answer:
    """An answer that every API can tell: thoughts, words or a refusal, calls."""
    parts: list[Any] = []
    if draw(st.booleans()):
        parts.append(Thinking(draw(WORDS)))
    if draw(st.booleans()):
        parts.append(Text(draw(WORDS)))
    calls = draw(CALLS)
    parts += [replace(call, call_id=f"call_{place}") for place, call in enumerate(calls)]
    stop = Stop.TOOL_CALLS if calls else draw(st.sampled_from(STOPS))
    if stop is Stop.REFUSAL and draw(st.booleans()):
        parts = [Refused(draw(WORDS))]
    return Answer("a1", "m", parts, stop, draw(USAGES), created_s=5)


def meaning(answer: Answer) -> tuple[Any, ...]:
    """What must survive: words, thoughts, calls with their ids and arguments, the reason to stop,
    and the bill. A refusal in words and words with a refusal are the same."""
    thoughts = [part.text for part in answer.parts if isinstance(part, Thinking)]
    texts = [part.text for part in answer.parts if isinstance(part, Text | Refused)]
    calls = [
        (part.call_id, part.name, json.loads(part.arguments))
        for part in answer.parts
        if isinstance(part, ToolCall)
    ]
    return "".join(thoughts), "".join(texts), calls, answer.stop, answer.usage


PATHS = [(one, other) for one in CALLERS for other in CALLERS]


@pytest.mark.parametrize(("one", "other"), PATHS, ids=lambda operation: operation.name.lower())
@settings(max_examples=25)
@given(answer=answers())
def test_an_answer_there_and_back_keeps_its_meaning(
    one: Operation, other: Operation, answer: Answer
) -> None:
    """Written in one API, read, written in the other, read, and so back to the first."""
    there = READERS[one].read_answer(BOTH_WAYS[one].write_answer(answer, CONTEXT), CONTEXT)
    back = READERS[other].read_answer(BOTH_WAYS[other].write_answer(there, CONTEXT), CONTEXT)
    again = READERS[one].read_answer(BOTH_WAYS[one].write_answer(back, CONTEXT), CONTEXT)
    assert meaning(answer) == meaning(there) == meaning(back) == meaning(again)


@pytest.mark.parametrize(("one", "other"), PATHS, ids=lambda operation: operation.name.lower())
@settings(max_examples=25)
@given(answer=answers())
def test_a_stream_there_and_back_is_the_same_stream(
    one: Operation, other: Operation, answer: Answer
) -> None:
    told = list(events_of(answer))
    for operation in (one, other, one):
        written = BOTH_WAYS[operation].stream_writer(CONTEXT).write(told)
        read = read_all(READERS[operation].stream_reader(CONTEXT), [written])
        assert joined(read) == joined(told)
        told = read


def joined(stream: list[Any]) -> list[Any]:
    """Without what an API says at another time or for itself (the provider's id and model, interim
    counts, signatures), and with a refusal's words as any other: Anthropic's stream does not tell
    them apart."""
    return [
        event._replace(kind=PartKind.TEXT)
        if isinstance(event, PartStarted) and event.kind is PartKind.REFUSED
        else event
        for event in stream
        if not isinstance(event, Started | Signature)
    ]
