"""HTTP/2 used as a weapon (F23): the connection ends, nobody else notices, nothing is spent."""

from __future__ import annotations

import contextlib
import socket
import statistics
import struct
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
from gateway import BUDGET, HEADERS, KEY, Gateway, base_policy, chat
from hpack import Encoder

DATA, HEADERS_FRAME, PRIORITY, RST_STREAM, SETTINGS, PING = 0, 1, 2, 3, 4, 6
WINDOW_UPDATE, CONTINUATION = 8, 9
END_STREAM, END_HEADERS = 1, 4


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    head = struct.pack(">I", len(payload))[1:] + bytes((kind, flags))
    return head + struct.pack(">I", stream) + payload


def call_headers(encoder: Encoder | None = None) -> bytes:
    block: bytes = (encoder or Encoder()).encode(
        [
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", "x"),
            (":path", "/v1/chat/completions"),
            ("authorization", "Bearer " + KEY),
            ("content-type", "application/json"),
        ]
    )
    return block


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS)
OPEN = frame(HEADERS_FRAME, END_HEADERS, 1, call_headers())


def resets(streams: int) -> bytes:
    encoder = Encoder()
    return b"".join(
        frame(HEADERS_FRAME, END_HEADERS, 2 * n + 1, call_headers(encoder))
        + frame(RST_STREAM, 0, 2 * n + 1, struct.pack(">I", 8))
        for n in range(streams)
    )


def continuations(count: int) -> bytes:
    lines = (b"\x00\x05x-a%02d\x10%b" % (n % 100, b"a" * 16) for n in range(count))
    return b"".join(frame(CONTINUATION, 0, 1, line) for line in lines)


FLOODS = {
    "settings": frame(SETTINGS) * 50_000,
    "ping": frame(PING, 0, 0, b"12345678") * 50_000,
    "resets": resets(2_000),
    "continuation": frame(HEADERS_FRAME, 0, 1, call_headers()) + continuations(20_000),
    "empty-continuation": frame(HEADERS_FRAME, 0, 1, call_headers())
    + frame(CONTINUATION, 0, 1) * 50_000,
    "empty-data": OPEN + frame(DATA, 0, 1) * 10_000,
    "priority": frame(PRIORITY, 0, 1, struct.pack(">IB", 0, 1)) * 50_000,
    "window-update": OPEN + frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1)) * 50_000,
}


@pytest.fixture
def gateway(module_gateway) -> Gateway:
    return module_gateway(base_policy(limits=BUDGET))


def connect(gateway: Gateway) -> socket.socket:
    host, port = gateway.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=5)
    connection.sendall(PREFACE)
    return connection


def is_closed_by_envoy(connection: socket.socket, data: bytes) -> bool:
    try:
        connection.sendall(data)
        while connection.recv(65_536):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


def frames(connection: socket.socket, seconds: float) -> list[tuple[int, int, bytes]]:
    """Kind, stream and payload of what comes within a time."""
    data = b""
    connection.settimeout(0.1)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(TimeoutError):
            data += connection.recv(65_536)
    found = []
    while len(data) >= 9:
        end = 9 + int.from_bytes(data[:3], "big")
        found.append((data[3], int.from_bytes(data[5:9], "big"), data[9:end]))
        data = data[end:]
    return found


@contextlib.contextmanager
def attackers(gateway: Gateway, *floods: bytes) -> Iterator[None]:
    """One attacker per flood: it comes again as soon as Envoy has closed its connection."""
    stop = threading.Event()

    def attack(flood: bytes) -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError), connect(gateway) as connection:
                is_closed_by_envoy(connection, flood)

    threads = [threading.Thread(target=attack, args=(flood,)) for flood in floods]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def polite_calls(gateway: Gateway, count: int) -> tuple[set[int], float]:
    """The statuses of another client's calls, and their median in seconds."""
    statuses, times = set(), []
    with httpx.Client(headers=HEADERS, timeout=20) as client:
        for _ in range(count):
            started = time.perf_counter()
            answer = client.post(gateway.url + "/v1/chat/completions", json=chat())
            times.append(time.perf_counter() - started)
            statuses.add(answer.status_code)
    return statuses, statistics.median(times)


@pytest.mark.parametrize("kind", FLOODS)
def test_F23_a_flooding_connection_is_closed_and_costs_nothing(gateway: Gateway, kind: str) -> None:
    settled, billed = gateway.settled("all/usd"), gateway.billed_micro_usd()
    with connect(gateway) as connection:
        assert is_closed_by_envoy(connection, FLOODS[kind])
    assert gateway.settled("all/usd") == settled
    assert gateway.billed_micro_usd() == billed
    assert gateway.post().status_code == 200


def test_F23_a_connection_has_a_hundred_streams_and_no_more(gateway: Gateway) -> None:
    encoder = Encoder()
    opened = [
        frame(HEADERS_FRAME, END_HEADERS, 2 * n + 1, call_headers(encoder)) for n in range(150)
    ]
    with connect(gateway) as connection:
        connection.sendall(b"".join(opened))
        answers = frames(connection, 0.5)
    settings = next(payload for kind, _, payload in answers if kind == SETTINGS and payload)
    assert (3, 100) in struct.iter_unpack(">HI", settings)
    refused = [payload for kind, _, payload in answers if kind == RST_STREAM]
    assert refused == [struct.pack(">I", 7)] * 50  # REFUSED_STREAM
    assert gateway.post().status_code == 200


def test_F23_a_client_that_takes_no_bytes_holds_nobody_up_and_pays(gateway: Gateway) -> None:
    settled, billed = gateway.settled("all/usd"), gateway.billed_micro_usd()
    encoder, body = Encoder(), httpx.Request("POST", "http://x", json=chat()).content
    with connect(gateway) as connection:
        connection.sendall(frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0)))  # windows of no byte
        for stream in range(1, 61, 2):
            call = frame(HEADERS_FRAME, END_HEADERS, stream, call_headers(encoder))
            connection.sendall(call + frame(DATA, END_STREAM, stream, body))
        statuses, _ = polite_calls(gateway, 20)
        assert statuses == {200}
        kinds = {kind for kind, _, _ in frames(connection, 0.3)}
        assert HEADERS_FRAME in kinds
        assert DATA not in kinds
    charged = gateway.settled("all/usd") - settled
    assert charged >= gateway.billed_micro_usd() - billed > 0


def test_F23_other_clients_hardly_notice(gateway: Gateway) -> None:
    polite_calls(gateway, 20)
    statuses, before_s = polite_calls(gateway, 60)
    with attackers(gateway, *(flood for kind, flood in FLOODS.items() if kind != "resets")):
        time.sleep(0.2)
        also, during_s = polite_calls(gateway, 60)
    assert statuses | also == {200}
    # Twice, and a scheduler's slice: the attackers share this machine's cores.
    assert during_s < 2 * before_s + 0.02


def test_F23_resets_of_several_connections_end_nobody_elses_calls(gateway: Gateway) -> None:
    with attackers(gateway, *([FLOODS["resets"]] * 8)):
        time.sleep(0.2)
        statuses, _ = polite_calls(gateway, 5)
    assert statuses == {200}
