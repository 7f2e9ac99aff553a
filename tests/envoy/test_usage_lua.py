"""The usage extraction in the real Envoy: what the sidecar learns, what the client gets to see.

Asked from outside: bytes of a provider go in, the client's bytes and the sidecar's reading of the
access log come out. How Envoy does it is not told here.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import time
from dataclasses import dataclass
from typing import Any

import aiohttp
import httpx
import pytest
from envoy_rig import Received, Rig, answer, chunked

from extproc.envoy.delivery import FileDelivery
from extproc.envoy.render import render
from extproc.values.dialect import Operation
from extproc.values.usage import TokenUsage
from extproc.wire.usage import Reported

CHAT_USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
PATHS = {
    Operation.CHAT_COMPLETIONS: "/v1/chat/completions",
    Operation.MESSAGES: "/v1/messages",
    Operation.RESPONSES: "/v1/responses",
}


def chunk(text: str | None, **more: Any) -> str:
    choices = [] if text is None else [{"index": 0, "delta": {"content": text}}]
    return json.dumps({"id": "c", "choices": choices, **more}, ensure_ascii=False)


USAGE_CHUNK = chunk(None, usage=CHAT_USAGE)
CHAT = [
    chunk("Hé"),
    chunk('he said "usage": {"prompt_tokens": 1} and left', usage=None),
    chunk("usage", usage=None),
    USAGE_CHUNK,
    "[DONE]",
]
MESSAGES = [
    json.dumps(
        {
            "type": "message_start",
            "message": {"usage": {"input_tokens": 9, "output_tokens": 1}},
        }
    ),
    json.dumps({"type": "ping"}),
    json.dumps({"type": "content_block_delta", "delta": {"text": '\n\n“usage” {"usage": 1}'}}),
    json.dumps(
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn"},
            "usage": {"output_tokens": 4},
        }
    ),
    json.dumps({"type": "message_stop"}),
]
RESPONSES = [
    json.dumps({"type": "response.created", "response": {"usage": None}}),
    json.dumps({"type": "response.output_text.delta", "delta": '"usage": {'}),
    json.dumps(
        {
            "type": "response.completed",
            "response": {
                "output": [{"arguments": '{"usage": 1}', "nested": {"usage": 2}}],
                "usage": {"input_tokens": 5, "output_tokens": 6},
                "metadata": {},
            },
            "sequence_number": 3,
        }
    ),
]
STREAMS = {
    Operation.CHAT_COMPLETIONS: (CHAT, Reported(TokenUsage(7, 3), True, False)),
    Operation.MESSAGES: (MESSAGES, Reported(TokenUsage(9, 4), True, False)),
    Operation.RESPONSES: (RESPONSES, Reported(TokenUsage(5, 6), True, False)),
}
CHAT_REPORT = STREAMS[Operation.CHAT_COMPLETIONS][1]


@dataclass(frozen=True)
class Case:
    """One stream: its bytes, where they are cut, and what must come of it."""

    operation: Operation
    sent: bytes
    cuts: tuple[int, ...]
    hide: bool
    shown: bytes
    with_length: bool

    @property
    def pieces(self) -> list[bytes]:
        ends = [*self.cuts, len(self.sent)]
        return [self.sent[a:b] for a, b in zip([0, *ends], ends, strict=False) if a < b]


def make_case(
    draw: random.Random,
    *,
    comment: str = "keep-alive",
    mark: bool = False,
    unended: bool = False,
    with_length: bool = False,
) -> Case:
    """A stream in any spelling that SSE allows, cut anywhere."""
    operation = draw.choice(list(STREAMS))
    line = draw.choice(["\n", "\r\n", "\r"])
    space = draw.choice(["", " "])
    hide = operation is Operation.CHAT_COMPLETIONS and draw.random() < 0.6
    parts = ["\ufeff" if mark else ""]
    shown = list(parts)
    for event in STREAMS[operation][0]:
        text = f"data:{space}{event}{line}{line}"
        if draw.random() < 0.3:
            text = f"event: x{line}: {comment}{line}id: 1{line}" + text
        parts.append(text)
        if not (hide and event is USAGE_CHUNK):
            shown.append(text)
    if unended:
        cut = len(line) * draw.choice([1, 2])
        parts[-1] = parts[-1][:-cut]
        shown[-1] = shown[-1][:-cut]
    sent = "".join(parts).encode()
    count = draw.choice([0, 1, 3, 8, 20])
    cuts = tuple(sorted(draw.sample(range(1, len(sent)), count)))
    return Case(operation, sent, cuts, hide, "".join(shown).encode(), with_length)


def serve(rig: Rig, cases: list[Case]) -> None:
    async def respond(received: Received, writer: asyncio.StreamWriter) -> None:
        case = cases[int(received.body)]
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n")
        if case.with_length:
            writer.write(b"content-length: %d\r\n\r\n" % len(case.sent))
        else:
            writer.write(b"transfer-encoding: chunked\r\n\r\n")
        for piece in case.pieces:
            await writer.drain()
            await asyncio.sleep(0.002)
            writer.write(piece if case.with_length else b"%x\r\n%s\r\n" % (len(piece), piece))
        if not case.with_length:
            await asyncio.sleep(0.002)
            writer.write(b"0\r\n\r\n")

    rig.providers["p1"].respond = respond


async def fetch_all(url: str, cases: list[Case]) -> list[tuple[str, bytes]]:
    """Every case's request id and body."""
    gate = asyncio.Semaphore(12)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=3)) as session:

        async def one(number: int) -> tuple[str, bytes]:
            case = cases[number]
            metadata = {"hide_usage": True} if case.hide else {}
            wish = {"chain": ["p1"], "body": str(number), "metadata": metadata}
            async with (
                gate,
                session.post(url + PATHS[case.operation], json=wish) as response,
            ):
                return response.headers["x-request-id"], await response.read()

        return list(await asyncio.gather(*(one(number) for number in range(len(cases)))))


def check(rig: Rig, cases: list[Case]) -> None:
    serve(rig, cases)
    for case, (request_id, body) in zip(cases, rig.run(fetch_all(rig.url, cases)), strict=True):
        assert body == case.shown, case
        assert rig.reported(request_id, case.operation) == STREAMS[case.operation][1], case


@pytest.mark.parametrize("seed", range(3))
def test_F50_any_cut_and_spelling_gives_the_same_events_and_the_same_usage(rig, seed: int) -> None:
    draw = random.Random(seed)
    check(rig, [make_case(draw) for _ in range(70)])


@pytest.mark.parametrize(
    "quirk",
    [
        pytest.param(
            {"comment": 'the "usage"'},
            id="usage-in-a-comment",
        ),
        pytest.param({"mark": True}, id="byte-order-mark"),
        pytest.param(
            {"unended": True},
            id="no-blank-line-at-the-end",
        ),
        pytest.param(
            {"with_length": True},
            id="content-length",
        ),
    ],
)
def test_F50_streams_of_odd_servers_are_read_and_shown_too(rig, quirk: dict[str, Any]) -> None:
    draw = random.Random(50)
    check(rig, [make_case(draw, **quirk) for _ in range(12)])


@pytest.mark.parametrize("line", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
def test_F50_every_single_cut_of_a_short_stream(rig, line: str) -> None:
    done = f"data: [DONE]{line}{line}".encode()
    text = f"data: {USAGE_CHUNK}{line}{line}".encode() + done
    cases = [
        Case(Operation.CHAT_COMPLETIONS, text, (at,), True, done, False)
        for at in range(1, len(text))
    ]
    check(rig, cases)


def test_events_are_passed_on_as_they_come(rig) -> None:
    events = [f"data: {event}\n\n".encode() for event in CHAT]
    written: dict[bytes, float] = {}

    async def respond(_: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n")
        writer.write(b"transfer-encoding: chunked\r\n\r\n")
        for event in events:
            await asyncio.sleep(0.1)
            written[event] = time.monotonic()
            writer.write(b"%x\r\n%s\r\n" % (len(event), event))
        writer.write(b"0\r\n\r\n")

    rig.providers["p1"].respond = respond
    body = json.dumps({"chain": ["p1"], "metadata": {"hide_usage": True}})
    arrived = {}
    with httpx.stream("POST", rig.url + "/v1/chat/completions", content=body) as response:
        for piece in response.iter_raw():
            arrived[piece] = time.monotonic()
    assert list(arrived) == [*events[:3], events[4]]
    assert all(arrived[event] - written[event] < 0.08 for event in arrived)


def test_F48_usage_is_kept_when_the_client_leaves_at_done(rig) -> None:
    events = b"".join(f"data: {event}\n\n".encode() for event in CHAT)
    rig.providers["p1"].respond = chunked([events, b": never read\n\n"], pause_s=0.3)
    body = json.dumps({"chain": ["p1"]})
    with httpx.stream("POST", rig.url + "/v1/chat/completions", content=body) as response:
        for piece in response.iter_raw():
            assert b"[DONE]" in piece
            break
        request_id = response.headers["x-request-id"]
    assert rig.reported(request_id) == CHAT_REPORT
    flags = rig.log(request_id).common_properties.response_flags
    assert flags.downstream_connection_termination


def test_F48_an_anthropic_stream_that_is_left_early_has_no_final_report(rig) -> None:
    events = b"".join(f"data: {event}\n\n".encode() for event in MESSAGES[:3])
    rig.providers["p1"].respond = chunked([events, b": never read\n\n"], pause_s=0.3)
    body = json.dumps({"chain": ["p1"]})
    with httpx.stream("POST", rig.url + "/v1/messages", content=body) as response:
        next(response.iter_raw())
        request_id = response.headers["x-request-id"]
    reported = rig.reported(request_id, Operation.MESSAGES)
    assert reported is not None
    assert not reported.final


def json_body(rig: Rig, body: bytes) -> Reported | None:
    rig.providers["p1"].respond = answer(body)
    response = rig.post(["p1"])
    assert response.content == body
    return rig.reported(response.headers["x-request-id"])


def test_a_json_body_reports_its_own_usage_and_no_quoted_or_nested_one(rig) -> None:
    body = {
        "choices": [{"message": {"content": 'my "usage": {"prompt_tokens": 0}'}}],
        "tool": {"usage": {"prompt_tokens": 1}},
        "usage": CHAT_USAGE,
        "note": 'again \\"usage": {"prompt_tokens": 2} \\',
    }
    assert json_body(rig, json.dumps(body, indent=1).encode()) == CHAT_REPORT
    assert json_body(rig, json.dumps(body).encode()) == CHAT_REPORT


def test_the_word_usage_as_a_value_does_not_hide_the_key(rig) -> None:
    body = {"usage": CHAT_USAGE, "service_tier": "usage"}
    assert json_body(rig, json.dumps(body).encode()) == CHAT_REPORT


def test_a_long_json_body_passes_unbuffered_and_still_reports(rig) -> None:
    body = json.dumps({"data": "x" * 3_000_000, "usage": CHAT_USAGE}).encode()
    assert json_body(rig, body) == CHAT_REPORT


@pytest.mark.parametrize("piece_bytes", [1, 7, 1000])
def test_a_json_body_in_pieces_reports_too(rig, piece_bytes: int) -> None:
    body = json.dumps({"id": "c", "usage": CHAT_USAGE, "tier": None}).encode()
    pieces = [body[at : at + piece_bytes] for at in range(0, len(body), piece_bytes)]
    rig.providers["p1"].respond = chunked(pieces, content_type="application/json")
    response = rig.post(["p1"])
    assert response.content == body
    assert rig.reported(response.headers["x-request-id"]) == CHAT_REPORT


@pytest.mark.parametrize(
    "body",
    [
        b'{"choices": [], "usage": null}',
        b'{"word": "usage"}',
        b"[]",
        b"",
        b'{"deep": {"usage": {"prompt_tokens": 1, "completion_tokens": 1}}}',
        json.dumps({"usage": CHAT_USAGE, "logprobs": "x" * 20_000}).encode(),
        b'{"usage": {"prompt_tokens": 1, "completion_tokens": 1}',
    ],
    ids=["null", "value", "array", "empty", "nested", "far-from-the-end", "cut"],
)
def test_what_reports_no_usage_is_not_guessed(rig, body: bytes) -> None:
    assert json_body(rig, body) is None


def test_F55_a_compressed_answer_passes_untouched_and_reports_nothing(rig) -> None:
    body = gzip.compress(json.dumps({"usage": CHAT_USAGE}).encode())

    async def respond(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\n"
            b"content-length: %d\r\n\r\n%s" % (len(body), body)
        )

    rig.providers["p1"].respond = respond
    url = rig.url + "/v1/chat/completions"
    with httpx.stream("POST", url, content=json.dumps({"chain": ["p1"]})) as response:
        assert b"".join(response.iter_raw()) == body
    assert rig.reported(response.headers["x-request-id"]) is None


def test_F54_bytes_that_are_no_text_do_not_spoil_the_log(rig) -> None:
    usage = json.dumps(CHAT_USAGE).encode()
    event = b'data: {"choices": [], "x": "\xff\xfe\xe9", "usage": %s}\n\n' % usage
    rig.providers["p1"].respond = chunked([event])
    response = rig.post(["p1"], headers={"user-agent": b"\xff\xfe"})
    assert response.content == event
    assert rig.log(response.headers["x-request-id"]).response.response_code.value == 200
    assert rig.post(["p1"]).status_code == 200


@pytest.mark.parametrize("hide", [True, False])
def test_F50_an_event_of_10_mb_passes_whole(rig, hide: bool) -> None:
    event = b"data: " + b"x" * 10_000_000 + b"\n\n"
    rig.providers["p1"].respond = chunked([event])
    response = rig.post(["p1"], metadata={"hide_usage": hide})
    assert response.content == event
    assert rig.reported(response.headers["x-request-id"]) is None


def test_F50_usage_after_an_event_of_10_mb_is_read_when_nothing_is_hidden(rig) -> None:
    event = b"data: " + b"x" * 10_000_000
    after = f"\n\ndata: {USAGE_CHUNK}\n\n".encode()
    rig.providers["p1"].respond = chunked([event, after])
    response = rig.post(["p1"])
    assert response.content == event + after
    assert rig.reported(response.headers["x-request-id"]) in (CHAT_REPORT, None)


def test_answers_that_are_neither_json_nor_events_are_left_alone(rig) -> None:
    body = json.dumps({"usage": CHAT_USAGE}).encode()
    rig.providers["p1"].respond = answer(body, content_type="text/plain")
    response = rig.post(["p1"])
    assert response.content == body
    assert rig.reported(response.headers["x-request-id"]) is None


@pytest.mark.parametrize("function", ["find", "match", "sub"])
def test_an_error_while_reading_loses_the_report_and_no_byte(rig, function: str) -> None:
    """The Lua with a library function that fails at its second call with an event's text."""
    fault = f"""
local real, calls = string.{function}, 0
string.{function} = function(text, ...)
  if #text > 40 then
    calls = calls + 1
    if calls >= 2 then error("injected") end
  end
  return real(text, ...)
end
"""
    resources = render(rig.policy, rig.settings)
    broken = json.loads(json.dumps(resources))
    manager = broken["lds"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    (lua,) = (f for f in manager["http_filters"] if f["name"] == "envoy.filters.http.lua")
    source = lua["typed_config"]["default_source_code"]
    source["inline_string"] = fault + source["inline_string"]
    delivery = FileDelivery(rig.settings)
    delivery.write_first(resources)
    rig.run(delivery.deliver(broken))
    try:
        events = [f"data: {event}\n\n".encode() for event in CHAT]
        text = b"".join(events)
        for at in range(10, len(text) - 10, 37):
            rig.providers["p1"].respond = chunked([text[:at], text[at:]], pause_s=0.003)
            response = rig.post(["p1"], metadata={"hide_usage": True})
            assert response.content.replace(events[3], b"") == text.replace(events[3], b"")
        body = json.dumps({"usage": CHAT_USAGE, "text": "x" * 100}).encode()
        rig.providers["p1"].respond = answer(body)
        assert rig.post(["p1"]).content == body
    finally:
        rig.run(delivery.deliver(resources))
