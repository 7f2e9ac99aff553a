"""The client and the upstream of the stream load: what it reports is what happened."""

from __future__ import annotations

import asyncio
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
from loopback import against

from loadtest import stream_client
from loadtest.bodies import chat_body, http_request
from loadtest.provider_streams import OPENAI
from loadtest.stream_client import Arrivals, at_once, one_by_one
from loadtest.stream_upstream import StreamUpstream
from loadtest.timer import now_ns

EVENTS = 5
HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def request(events: int = EVENTS) -> bytes:
    return http_request(chat_body(600, 1, stream=True, max_tokens=events))


class Scripted(asyncio.Protocol):
    """Writes what it is told to, piece by piece, for every request."""

    def __init__(self, pieces: tuple[bytes, ...], *, cut: bool = False) -> None:
        self._pieces = pieces
        self._cut = cut

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        for number, piece in enumerate(self._pieces):
            loop.call_later(0.005 * number, self._transport.write, piece)
        if self._cut:
            loop.call_later(0.005 * len(self._pieces), self._transport.abort)


def test_streams_begin_and_go_on_at_an_even_pace() -> None:
    marks: list[int] = []
    began_ns = now_ns()
    arrivals = against(
        partial(StreamUpstream, 0.05),
        lambda port: at_once(
            port, [request()], 10, EVENTS, 0.2, 0.25, [(0.1, lambda: marks.append(now_ns()))]
        ),
    )
    assert arrivals.valid, arrivals
    assert len(arrivals.arrived_ns) == len(arrivals.delay_ns) == 10 * EVENTS
    assert len(arrivals.first_token_ns) == len(arrivals.first_arrived_ns) == 10
    assert min(arrivals.delay_ns) > 0
    asked = list(arrivals.asked_ns)
    assert asked == sorted(asked)
    assert asked[-1] - asked[0] > 0.15e9
    # Four intervals lie between the first and the last event of a stream.
    assert max(arrivals.arrived_ns) - max(arrivals.first_arrived_ns) > 0.19e9
    assert len(marks) == 1
    assert marks[0] - began_ns > 0.1e9


def test_ways_take_turns_one_stream_at_a_time() -> None:
    async def load(port: int) -> list[Arrivals]:
        ways = [(port, request(), Arrivals()) for _ in range(3)]
        await one_by_one(ways, 4, EVENTS)
        return [arrivals for _, _, arrivals in ways]

    found = against(partial(StreamUpstream, 0.001), load)
    assert all(arrivals.valid for arrivals in found), found
    assert [len(arrivals.first_token_ns) for arrivals in found] == [4, 4, 4]
    spans = sorted(
        (asked, first)
        for arrivals in found
        for asked, first in zip(arrivals.asked_ns, arrivals.first_arrived_ns, strict=True)
    )
    assert all(first < asked for (_, first), (asked, _) in pairwise(spans))


def test_a_stamp_that_is_cut_in_two_is_counted_once() -> None:
    event = OPENAI.event()
    at = event.index(b"@") + 7
    pieces = (HEAD + b"%x\r\n" % len(event) + event[:at], event[at:] + b"\r\n", b"0\r\n\r\n")
    arrivals = against(
        partial(Scripted, pieces), lambda port: at_once(port, [request(1)], 2, 1, 0.0, 0.1)
    )
    assert arrivals.valid, arrivals
    assert len(arrivals.arrived_ns) == 2


@pytest.mark.parametrize(
    ("pieces", "cut", "field"),
    [
        ((b"HTTP/1.1 429 Too Many\r\ncontent-length: 0\r\n\r\n",), False, "refused"),
        ((HEAD + b"5\r\nabcde\r\n",), True, "broken"),
        ((HEAD + b"5\r\nabcde\r\n", b"0\r\n\r\n"), False, "incomplete"),
        ((HEAD + b"5\r\nabcde\r\n",), False, "broken"),
    ],
    ids=["refused", "cut", "too few events", "without an end"],
)
def test_what_fails_is_counted_and_makes_a_run_invalid(
    pieces: tuple[bytes, ...], cut: bool, field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_client, "GRACE_S", 0.2)
    arrivals = against(
        partial(Scripted, pieces, cut=cut), lambda port: at_once(port, [request()], 3, 5, 0.0, 0.1)
    )
    counts = {name: getattr(arrivals, name) for name in ("refused", "broken", "incomplete")}
    assert counts == {"refused": 0, "broken": 0, "incomplete": 0, field: 3}
    assert not arrivals.valid
