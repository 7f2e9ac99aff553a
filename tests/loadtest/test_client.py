"""The client against servers whose behaviour is known: what it reports is what happened."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from loopback import against

from loadtest import client
from loadtest.bodies import chat_body, http_request
from loadtest.timer import PeriodicTimer, now_ns
from loadtest.upstream import Upstream

REQUEST = http_request(chat_body(1_068, 1))
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Server(asyncio.Protocol):
    """Answers each request (they come in one piece) as it is told."""

    def __init__(self, answer: Callable[[asyncio.Transport], None]) -> None:
        self._answer = answer

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._answer(self._transport)


def answering(answer: Callable[[asyncio.Transport], None]) -> Callable[[], asyncio.Protocol]:
    return partial(Server, answer)


def closed(port: int) -> Any:
    return client.closed_loop(port, [REQUEST], 4, 0.2)


def test_the_closed_loop_counts_whole_answers() -> None:
    sample = against(answering(lambda transport: transport.write(OK)), closed)
    assert sample.valid
    assert sample.rps == len(sample.latencies_ns) / 0.2 > 0


def test_an_answer_in_pieces_is_one_answer() -> None:
    def answer(transport: asyncio.Transport) -> None:
        loop = asyncio.get_running_loop()
        for number, at in enumerate(range(0, len(OK), 9)):
            loop.call_later(0.002 * number, transport.write, OK[at : at + 9])

    sample = against(answering(answer), closed)
    assert sample.valid
    assert min(sample.latencies_ns) > 5_000_000


def test_a_chunked_answer_ends_at_its_last_chunk() -> None:
    def answer(transport: asyncio.Transport) -> None:
        transport.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0")
        asyncio.get_running_loop().call_later(0.002, transport.write, b"\r\n\r\n")

    sample = against(answering(answer), closed)
    assert sample.valid
    assert min(sample.latencies_ns) > 1_500_000


def test_refusals_make_a_slice_invalid() -> None:
    refusal = b"HTTP/1.1 429 Too Many\r\ncontent-length: 0\r\n\r\n"
    sample = against(answering(lambda transport: transport.write(refusal)), closed)
    assert sample.refused > 0
    assert not sample.valid
    assert not sample.latencies_ns


def test_cut_connections_make_a_slice_invalid() -> None:
    sample = against(answering(lambda transport: transport.abort()), closed)
    assert sample.broken == 4
    assert not sample.valid


def test_the_open_loop_keeps_its_rate() -> None:
    sample = against(
        answering(lambda transport: transport.write(OK)),
        lambda port: client.open_loop(port, [REQUEST], 200, 0.5),
    )
    assert sample.valid
    assert len(sample.latencies_ns) == 100


def test_the_open_loop_charges_a_pause_to_every_request_it_delayed() -> None:
    """Coordinated omission: with one pause of 0.3 s, requests due within it were late too."""
    paused: list[bool] = []

    def answer(transport: asyncio.Transport) -> None:
        if not paused:
            paused.append(True)
            end_ns = now_ns() + 300_000_000
            while now_ns() < end_ns:
                pass
        transport.write(OK)

    sample = against(answering(answer), lambda port: client.open_loop(port, [REQUEST], 100, 0.6))
    late = [latency for latency in sample.latencies_ns if latency > 50_000_000]
    assert len(late) >= 20


def test_the_open_loop_counts_what_is_never_answered(monkeypatch: Any) -> None:
    monkeypatch.setattr(client, "GRACE_S", 0.2)
    sample = against(
        answering(lambda transport: None), lambda port: client.open_loop(port, [REQUEST], 50, 0.2)
    )
    assert sample.broken == 10
    assert not sample.valid


def test_streams_are_timed_event_by_event() -> None:
    request = http_request(chat_body(600, 1, stream=True))
    sample = against(
        partial(Upstream, 5, 0.02), lambda port: client.streams(port, request, 8, 0.05)
    )
    assert sample.valid
    assert len(sample.first_token_ns) == 8
    assert len(sample.chunk_delay_ns) == 8 * 5
    assert len(sample.gap_ns) == 8 * 4
    assert min(sample.chunk_delay_ns) > 0
    assert sorted(sample.gap_ns)[16] > 15_000_000


def test_the_upstream_answers_a_body_only_when_it_is_whole() -> None:
    async def exchange(port: int) -> tuple[bool, bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(REQUEST[:-10])
        early = asyncio.create_task(reader.read(10_000))
        done, _ = await asyncio.wait([early], timeout=0.1)
        writer.write(REQUEST[-10:])
        answer = await early
        writer.close()
        return bool(done), answer

    answered_early, answer = against(partial(Upstream, 1, 0.0), exchange)
    assert not answered_early
    assert answer.startswith(b"HTTP/1.1 200 OK")


def test_the_timer_is_finer_than_a_millisecond() -> None:
    async def ticks() -> list[int]:
        loop = asyncio.get_running_loop()
        first_ns = now_ns() + 1_000_000
        seen: list[int] = []
        with PeriodicTimer(first_ns, 300_000) as timer:
            loop.add_reader(timer.fd, lambda: seen.append(timer.expirations()))
            await asyncio.sleep(0.1)
            loop.remove_reader(timer.fd)
            seen.append(timer.expirations())
        return seen

    assert 250 < sum(asyncio.run(ticks())) < 600
