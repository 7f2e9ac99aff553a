"""The usage filter in the real Envoy: what it reports, what it hides, and that it loses nothing."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from dataclasses import dataclass
from typing import Any

import aiohttp
import httpx
import orjson
import pytest
from envoy_rig import answer, chunked

from extproc.envoy.delivery import FileDelivery
from extproc.envoy.render import render

CHAT_USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


def chunk(text: str | None, **more: Any) -> str:
    choices = [] if text is None else [{"index": 0, "delta": {"content": text}}]
    return json.dumps({"id": "c", "choices": choices, **more}, ensure_ascii=False)


CHAT = [
    chunk("Hé"),
    chunk('he said "usage": {"prompt_tokens": 1} and left', usage=None),
    chunk("usage", usage=None),
    chunk(None, usage=CHAT_USAGE),
    "[DONE]",
]
MESSAGES = [
    json.dumps({"type": "message_start", "message": {"usage": {"input_tokens": 9}}}),
    json.dumps({"type": "ping"}),
    json.dumps({"type": "content_block_delta", "delta": {"text": "\n\n“usage”"}}),
    json.dumps(
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn"},
            "usage": {"output_tokens": 4},
        }
    ),
    json.dumps({"type": "message_stop"}),
]
_RESPONSE_USAGE = {"input_tokens": 5, "output_tokens": 6}
RESPONSES = [
    json.dumps({"type": "response.created", "response": {"usage": None}}),
    json.dumps({"type": "response.output_text.delta", "delta": "x"}),
    json.dumps(
        {
            "type": "response.completed",
            "response": {
                "output": [{"arguments": '{"usage": 1}', "nested": {"usage": 2}}],
                "usage": _RESPONSE_USAGE,
                "metadata": {},
            },
            "sequence_number": 3,
        }
    ),
]


@dataclass
class Case:
    """One stream: its bytes, where they are cut, and what must come of it."""

    sent: bytes
    cuts: list[int]
    hide: bool
    shown: bytes
    usage: dict[str, Any]

    @property
    def pieces(self) -> list[bytes]:
        ends = [*self.cuts, len(self.sent)]
        return [self.sent[a:b] for a, b in zip([0, *ends], ends, strict=False) if a < b]


def make_case(draw: random.Random) -> Case:
    """A stream in any spelling that SSE allows, cut anywhere."""
    kind, events = draw.choice([("chat", CHAT), ("messages", MESSAGES), ("responses", RESPONSES)])
    line = draw.choice(["\n", "\r\n", "\r"])
    space = draw.choice(["", " "])
    hide = kind == "chat" and draw.random() < 0.6
    parts = ["\ufeff"] if draw.random() < 0.2 else [""]
    shown = list(parts)
    for event in events:
        text = f"data:{space}{event}{line}{line}"
        if draw.random() < 0.3:
            text = f'event: x{line}: "usage" in a comment{line}id: 1{line}' + text
        parts.append(text)
        if not (hide and '"choices": []' in event):
            shown.append(text)
    if draw.random() < 0.3:  # the last event is not ended
        cut = len(line) * draw.choice([1, 2])
        parts[-1] = parts[-1][:-cut]
        shown[-1] = shown[-1][:-cut]
    sent = "".join(parts).encode()
    count = draw.choice([0, 1, 3, 8, 20])
    cuts = sorted(draw.sample(range(1, len(sent)), count))
    usage = {
        "chat": {"last": json.loads(CHAT[3])},
        "messages": {"first": json.loads(MESSAGES[0]), "last": json.loads(MESSAGES[3])},
        "responses": {"last": json.loads(RESPONSES[2])["response"]["usage"]},
    }[kind]
    return Case(sent, cuts, hide, "".join(shown).encode(), usage)


def serve(rig: Any, cases: list[Case]) -> None:
    async def respond(received: Any, writer: asyncio.StreamWriter) -> None:
        case = cases[int(received.body)]
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n")
        if len(case.sent) % 2:
            writer.write(b"content-length: %d\r\n\r\n" % len(case.sent))
        else:
            writer.write(b"transfer-encoding: chunked\r\n\r\n")
        for piece in case.pieces:
            await writer.drain()
            await asyncio.sleep(0.002)
            writer.write(piece if len(case.sent) % 2 else b"%x\r\n%s\r\n" % (len(piece), piece))
        if len(case.sent) % 2 == 0:
            await asyncio.sleep(0.002)
            writer.write(b"0\r\n\r\n")

    rig.providers["p1"].respond = respond


async def fetch_all(url: str, cases: list[Case], width: int = 12) -> list[tuple[str, bytes]]:
    """Every case's request id and body."""
    gate = asyncio.Semaphore(width)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:

        async def one(number: int) -> tuple[str, bytes]:
            wish = {
                "chain": ["p1"],
                "body": str(number),
                "metadata": {"hide_usage": True} if cases[number].hide else {},
            }
            async with (
                gate,
                session.post(url + "/v1/chat/completions", data=json.dumps(wish)) as response,
            ):
                return response.headers["x-request-id"], await response.read()

        return list(await asyncio.gather(*(one(number) for number in range(len(cases)))))


def parsed(usage: dict[str, str]) -> dict[str, Any]:
    found = {}
    for key, text in usage.items():
        if text.startswith('"usage"'):
            found[key] = _response_usage(text)
        else:
            found[key] = json.loads(text)
    return found


def _response_usage(tail: str) -> Any:
    return orjson.loads('{"response":{' + tail)["response"]["usage"]


def same(shipped: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Equal but for the text that is not ASCII."""
    return ascii_only(shipped) == ascii_only(expected)


def ascii_only(value: Any) -> str:
    return re.sub(r"[^ -~]+|\?+", "?", json.dumps(value, sort_keys=True, ensure_ascii=False))


@pytest.mark.parametrize("seed", range(4))
def test_F50_any_cut_and_spelling_gives_the_same_events_and_the_same_usage(rig, seed: int) -> None:
    draw = random.Random(seed)
    cases = [make_case(draw) for _ in range(80)]
    serve(rig, cases)
    answers = rig.run(fetch_all(rig.url, cases))
    for case, (request_id, body) in zip(cases, answers, strict=True):
        assert body == case.shown, case
        assert same(parsed(rig.usage(request_id)), case.usage), case


def test_F50_every_single_cut_of_a_short_stream(rig) -> None:
    text = f"data: {CHAT[3]}\r\n\r\ndata: [DONE]\r\n\r\n".encode()
    cases = [
        Case(text, [at], True, b"data: [DONE]\r\n\r\n", {"last": json.loads(CHAT[3])})
        for at in range(1, len(text))
    ]
    serve(rig, cases)
    for case, (request_id, body) in zip(cases, rig.run(fetch_all(rig.url, cases)), strict=True):
        assert body == case.shown, case
        assert parsed(rig.usage(request_id)) == case.usage, case


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
    assert json.loads(rig.usage(request_id)["last"])["usage"] == CHAT_USAGE
    flags = rig.log(request_id).common_properties.response_flags
    assert flags.downstream_connection_termination


def json_body(rig: Any, body: bytes) -> dict[str, str]:
    rig.providers["p1"].respond = answer(body)
    response = rig.post(["p1"])
    assert response.content == body
    return rig.usage(response.headers["x-request-id"])


def test_a_json_body_ships_its_end_from_the_last_usage_on(rig) -> None:
    body = {
        "choices": [{"message": {"content": 'my "usage": {"prompt_tokens": 0}'}}],
        "tool": {"usage": {"prompt_tokens": 1}},
        "usage": CHAT_USAGE,
        "service_tier": "usage",
    }
    tail = json_body(rig, json.dumps(body, indent=1).encode())["tail"]
    assert orjson.loads("{" + tail) == {"usage": CHAT_USAGE, "service_tier": "usage"}


def test_a_long_json_body_passes_unbuffered_and_still_reports(rig) -> None:
    body = json.dumps({"data": "x" * 3_000_000, "usage": CHAT_USAGE}).encode()
    assert orjson.loads("{" + json_body(rig, body)["tail"]) == {"usage": CHAT_USAGE}


def test_a_json_body_without_usage_reports_nothing(rig) -> None:
    assert json_body(rig, b'{"choices": [], "usage": null}') == {"tail": '"usage": null}'}
    assert json_body(rig, b'{"word": "usage"}') == {}
    assert json_body(rig, b"[]") == {}
    usage_far_from_the_end = json.dumps({"usage": CHAT_USAGE, "logprobs": "x" * 20_000})
    assert json_body(rig, usage_far_from_the_end.encode()) == {}


def test_F54_bytes_that_are_no_text_do_not_spoil_the_log(rig) -> None:
    event = b'data: {"choices": [], "usage": {"n": 1}, "x": "\xff\xfe\xe9"}\n\n'
    rig.providers["p1"].respond = chunked([event])
    response = rig.post(["p1"], headers={"user-agent": b"\xff\xfe"})
    assert response.content == event
    assert json.loads(rig.usage(response.headers["x-request-id"])["last"])["usage"] == {"n": 1}


@pytest.mark.parametrize("hide", [True, False])
def test_F50_an_event_of_10_mb_passes_unread(rig, hide: bool) -> None:
    event = b"data: " + b"x" * 10_000_000
    after = f"\n\ndata: {CHAT[3]}\n\n".encode()
    rig.providers["p1"].respond = chunked([event, after])
    response = rig.post(["p1"], metadata={"hide_usage": hide})
    assert response.content == event + after
    assert (rig.usage(response.headers["x-request-id"]) == {}) == hide or not hide


def test_answers_that_are_neither_json_nor_events_are_left_alone(rig) -> None:
    rig.providers["p1"].respond = answer(b'{"usage": {}}', content_type="text/plain")
    response = rig.post(["p1"])
    assert response.content == b'{"usage": {}}'
    assert rig.usage(response.headers["x-request-id"]) == {}


@pytest.mark.parametrize("function", ["find", "match", "gsub", "sub"])
def test_an_error_while_reading_loses_the_report_and_no_byte(rig, function: str) -> None:
    """The filter with a library function that fails at its second call with an event's text."""
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
