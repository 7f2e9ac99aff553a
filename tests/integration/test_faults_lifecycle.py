"""Processes ended, replaced or short of files under load: what callers see, what is owed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import psutil
import pytest
from gateway import HEADERS, Gateway, base_policy, chat

POLICY = """
name: b
type: gateway-budget-config
budgets:
  - {id: all, ceiling_usd: 100, window: monthly, on_exceed: hard_block}
---
name: counted
type: gateway-rate-limit-config
rules:
  - {id: counted, limit: {requests: 1000000, window: 1h}}
"""
BACK_S = 10.0
"""A process that ended is back by then, Python's start included."""


def both(gateway: Gateway, **faults: object) -> None:
    for provider in ("anthropic", "bedrock"):
        gateway.faults(provider, **faults)


def wait_until_served(gateway: Gateway) -> float:
    """Seconds until a request is answered with 200 again."""
    started = time.monotonic()
    while True:
        with contextlib.suppress(httpx.TransportError):
            if gateway.post().status_code == 200:
                return time.monotonic() - started
        assert time.monotonic() - started < BACK_S, "it did not come back"
        time.sleep(0.05)


def held(gateway: Gateway, name: str) -> int:
    """Settled and reserved of a counter."""
    counter = gateway.usage()[name]
    return counter["settled"] + counter["reserved"]


class Load:
    """Callers that ask one after the other, and streams that were begun before."""

    def __init__(self, gateway: Gateway) -> None:
        self._url = gateway.url + "/v1/chat/completions"
        self.statuses: Counter[int] = Counter()
        self.codes: Counter[str] = Counter()
        self.streams: Counter[str] = Counter()
        self.stop = False

    async def run(self, streams: int, callers: int, meanwhile: Any) -> None:
        """Opens the streams, then lets the callers go on until ``meanwhile`` is done."""
        timeout = aiohttp.ClientTimeout(total=30)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
            begun = asyncio.Semaphore(0)
            open_streams = [
                asyncio.create_task(self._stream(session, begun)) for _ in range(streams)
            ]
            for _ in range(streams):
                await begun.acquire()
            asking = [asyncio.create_task(self._ask(session)) for _ in range(callers)]
            try:
                await meanwhile()
            finally:
                self.stop = True
                await asyncio.gather(*open_streams, *asking)

    async def _stream(self, session: aiohttp.ClientSession, begun: asyncio.Semaphore) -> None:
        ended = "cut"
        body = chat(stream=True, max_tokens=60)
        with contextlib.suppress(aiohttp.ClientError):
            async with session.post(self._url, json=body, headers=HEADERS) as answer:
                assert answer.status == 200
                begun.release()
                if b"[DONE]" in await answer.read():
                    ended = "whole"
        self.streams[ended] += 1

    async def _ask(self, session: aiohttp.ClientSession) -> None:
        while not self.stop:
            try:
                async with session.post(self._url, json=chat(), headers=HEADERS) as answer:
                    self.statuses[answer.status] += 1
                    if answer.status != 200:
                        self.codes[(await answer.json())["error"]["code"]] += 1
                    await answer.read()
            except aiohttp.ClientError:
                self.statuses[0] += 1
            await asyncio.sleep(0.02)


def test_F37_a_sidecar_that_is_told_to_end_finishes_what_it_began(start_gateway) -> None:
    gateway = start_gateway(base_policy(limits=POLICY))
    both(gateway, output_tokens=60, chunk_delay_ms=20)
    load = Load(gateway)
    sidecar = gateway.child("sidecar")
    outage_s = 0.0

    async def meanwhile() -> None:
        nonlocal outage_s
        await asyncio.sleep(0.3)
        sidecar.send_signal(signal.SIGTERM)
        await asyncio.to_thread(sidecar.wait, BACK_S)
        outage_s = await asyncio.to_thread(wait_until_served, gateway)
        await asyncio.sleep(0.3)

    asyncio.run(load.run(20, 4, meanwhile))
    print("during the restart", load.statuses, f"{outage_s:.1f} s")
    assert load.streams == {"whole": 20}
    assert gateway.child("sidecar").pid != sidecar.pid
    # While there is none, Envoy answers at once and no provider sees anything.
    assert load.statuses[0] == 0
    assert set(load.statuses) <= {200, 503}
    assert gateway.billed_micro_usd() <= held(gateway, "all/usd")


def test_F38_streams_that_envoy_cuts_are_counted_once(start_gateway) -> None:
    gateway = start_gateway(base_policy(limits=POLICY))
    both(gateway, output_tokens=60, chunk_delay_ms=20, bill_after_disconnect=True)
    load = Load(gateway)
    envoy = gateway.child("envoy")

    async def meanwhile() -> None:
        await asyncio.sleep(0.3)
        envoy.send_signal(signal.SIGTERM)
        await asyncio.to_thread(envoy.wait, BACK_S)
        await asyncio.to_thread(wait_until_served, gateway)

    asyncio.run(load.run(20, 0, meanwhile))
    assert load.streams == {"cut": 20}
    assert gateway.child("envoy").pid != envoy.pid
    # The one after the restart is counted too.
    assert held(gateway, "counted/requests") == 21
    assert gateway.billed_micro_usd() <= held(gateway, "all/usd")


def test_F38_a_draining_envoy_lets_streams_finish(start_gateway) -> None:
    gateway = start_gateway(base_policy(limits=POLICY))
    both(gateway, output_tokens=60, chunk_delay_ms=20)
    load = Load(gateway)
    transport = httpx.HTTPTransport(uds=str(gateway.state / "run" / "admin.sock"))

    async def meanwhile() -> None:
        with httpx.Client(transport=transport) as admin:
            admin.post("http://envoy/drain_listeners?graceful").raise_for_status()

    asyncio.run(load.run(20, 0, meanwhile))
    assert load.streams == {"whole": 20}
    assert gateway.settled("counted/requests") == 20
    assert gateway.settled("all/usd") == gateway.billed_micro_usd()


def test_F38_a_gateway_that_is_told_to_end_finishes_its_streams(start_gateway) -> None:
    gateway = start_gateway(base_policy(limits=POLICY))
    both(gateway, output_tokens=60, chunk_delay_ms=20)
    load = Load(gateway)

    async def meanwhile() -> None:
        await asyncio.sleep(0.2)
        assert gateway.process is not None
        gateway.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.3)
        with pytest.raises(httpx.TransportError):
            await asyncio.to_thread(gateway.post)

    asyncio.run(load.run(20, 0, meanwhile))
    assert gateway.stop() == 0
    assert load.streams == {"whole": 20}
    # What the last log entries said was taken in: nothing waits for its lease.
    bill = sum(
        json.loads(line)["micro_usd"]
        for line in (gateway.state / "demo-bill.jsonl").read_text().splitlines()
    )
    gateway.start()
    counter = gateway.usage()["all/usd"]
    assert (counter["settled"], counter["reserved"]) == (bill, 0)


def test_F40_a_client_cannot_choose_the_id_of_its_reservation(start_gateway) -> None:
    gateway = start_gateway(base_policy(limits=POLICY))
    both(gateway, delay_ms=300)
    mine = "11111111-2222-4333-8444-555555555555"
    spellings = [
        {"x-request-id": mine},
        {"X-Request-ID": mine},
        {"x-request-id": mine, "x-envoy-attempt-count": "1"},
        {"x-request-id": mine, "x-client-trace-id": mine, "x-envoy-force-trace": "1"},
    ]

    async def ask(session: aiohttp.ClientSession, headers: dict[str, str]) -> str:
        url = gateway.url + "/v1/chat/completions"
        async with session.post(url, json=chat(), headers={**HEADERS, **headers}) as answer:
            assert answer.status == 200
            await answer.read()
            return answer.headers["x-request-id"]

    async def race() -> list[str]:
        async with aiohttp.ClientSession() as session:
            return await asyncio.gather(*(ask(session, one) for one in spellings * 5))

    ids = asyncio.run(race())
    assert len(set(ids)) == len(ids) == 20
    assert mine not in ids
    assert gateway.settled("counted/requests") == 20
    assert gateway.settled("all/usd") == gateway.billed_micro_usd()
    assert mine not in gateway.journal()
    assert all(f"{one}/1" in gateway.journal() for one in ids)


def _connect(gateway: Gateway) -> socket.socket:
    host, port = gateway.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def _ask(connection: socket.socket) -> bytes:
    body = json.dumps(chat()).encode()
    head = "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())
    request = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n{head}"
    connection.sendall(f"{request}content-length: {len(body)}\r\n\r\n".encode() + body)
    return connection.recv(65_536)


@pytest.fixture
def short_of_files() -> Iterator[Gateway]:
    """A gateway none of whose processes may open more than 200 files."""
    with tempfile.TemporaryDirectory(prefix="tw-", ignore_cleanup_errors=True) as folder:
        gateway = Gateway(Path(folder), base_policy(limits=POLICY))
        gateway.wrapper = ["prlimit", "--nofile=200:200"]
        yield gateway.start()
        gateway.stop()


def test_F44_idle_clients_cannot_take_the_files_that_others_need(short_of_files: Gateway) -> None:
    gateway = short_of_files
    envoy = gateway.child("envoy")
    connections = [_connect(gateway) for _ in range(300)]
    try:
        time.sleep(0.5)
        assert envoy.rlimit(psutil.RLIMIT_NOFILE) == (200, 200)
        # The first were let in and are served, to a provider that nobody had connected to yet.
        assert _ask(connections[0]).startswith(b"HTTP/1.1 200")
        with contextlib.suppress(ConnectionError):
            assert _ask(connections[-1]) == b""
    finally:
        for connection in connections:
            connection.close()
    assert wait_until_served(gateway) < BACK_S
    assert gateway.child("envoy").pid == envoy.pid


def ask_on_many_connections(url: str) -> None:
    with contextlib.ExitStack() as held:
        for _ in range(20):
            held.enter_context(httpx.Client(timeout=0.5)).get(url)


def test_F44_a_sidecar_without_files_goes_on_and_recovers(start_gateway) -> None:
    gateway = start_gateway(base_policy(limits=POLICY))
    assert gateway.post().status_code == 200
    # Envoy's log has its connection by then, which is a file too: without one its entries are lost.
    assert gateway.settled("all/usd") == gateway.billed_micro_usd() > 0
    generation = gateway.generation()
    sidecar = gateway.child("sidecar")
    before = sidecar.rlimit(psutil.RLIMIT_NOFILE)
    sidecar.rlimit(psutil.RLIMIT_NOFILE, (sidecar.num_fds(), before[1]))
    try:
        gateway.save_policy("limits.yaml", POLICY.replace("ceiling_usd: 100", "ceiling_usd: 90"))
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            assert gateway.post().status_code == 200
        # A few files may have been closed since they were counted: these connections stay.
        with pytest.raises(httpx.TransportError):
            ask_on_many_connections(gateway.console + "/usage")
    finally:
        sidecar.rlimit(psutil.RLIMIT_NOFILE, before)
    deadline = time.monotonic() + BACK_S
    while True:
        with contextlib.suppress(httpx.TransportError):
            if gateway.generation() > generation:
                break
        assert time.monotonic() < deadline, "the saved policy was never taken"
        time.sleep(0.1)
    assert gateway.child("sidecar").pid == sidecar.pid
    assert gateway.settled("all/usd") == gateway.billed_micro_usd()
