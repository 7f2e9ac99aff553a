"""The client of streams whose events say when they were written (``loadtest.provider_streams``)."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from loadtest.client import Connection
from loadtest.provider_streams import STAMP, STAMP_BYTES
from loadtest.timer import now_ns

HOST = "127.0.0.1"
GRACE_S = 10.0
"""Beyond its length, how long a stream may take; what is open then counts as broken."""


@dataclass(slots=True)
class Arrivals:
    """What a set of streams brought."""

    asked_ns: array[int] = field(default_factory=lambda: array("q"))
    """When each request was sent."""
    first_token_ns: array[int] = field(default_factory=lambda: array("q"))
    """From the request to its first event, of every stream that had one."""
    first_arrived_ns: array[int] = field(default_factory=lambda: array("q"))
    arrived_ns: array[int] = field(default_factory=lambda: array("q"))
    """When each event came."""
    delay_ns: array[int] = field(default_factory=lambda: array("q"))
    """From its writing by the upstream to its arrival."""
    refused: int = 0
    """Answers other than 2xx."""
    broken: int = 0
    """Cut, or still open when they should have ended."""
    incomplete: int = 0
    """Ended well, with another number of events than was asked for."""

    @property
    def valid(self) -> bool:
        """Whether every stream came whole."""
        failed = self.refused or self.broken or self.incomplete
        return not failed and bool(self.first_token_ns)


class _StreamReading:
    """One request's events, as their bytes come."""

    def __init__(self, connection: Connection, arrivals: Arrivals) -> None:
        self._arrivals = arrivals
        self._tail = b""
        self.events = 0
        self._asked_ns = now_ns()
        arrivals.asked_ns.append(self._asked_ns)
        connection.on_body = self.read

    def read(self, data: bytes) -> None:
        now = now_ns()
        arrivals = self._arrivals
        data = self._tail + data
        end = 0
        for match in STAMP.finditer(data):
            if not self.events:
                arrivals.first_token_ns.append(now - self._asked_ns)
                arrivals.first_arrived_ns.append(now)
            self.events += 1
            arrivals.arrived_ns.append(now)
            arrivals.delay_ns.append(now - int(match[1]))
            end = match.end()
        # A stamp that was cut in two is read when its rest has come.
        self._tail = data[max(end, len(data) - STAMP_BYTES + 1) :]


async def _connect(port: int, done: Callable[[Connection, int], None]) -> Connection:
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: Connection(done), HOST, port)
    return connection


async def one_by_one(ways: Sequence[tuple[int, bytes, Arrivals]], rounds: int, events: int) -> None:
    """One stream at a time, as many on each way (a port and a request), which has a connection.

    The order changes from round to round by chance: what was asked before a way has warmed some
    caches for it, and one that always followed a like one would look fast.
    """
    shuffled = Random(1).sample
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[int] = loop.create_future()
    connections = [
        await _connect(port, lambda _, status: answered.set_result(status)) for port, _, _ in ways
    ]
    for _ in range(rounds):
        for turn in shuffled(range(len(ways)), len(ways)):
            _, request, arrivals = ways[turn]
            answered = loop.create_future()
            reading = _StreamReading(connections[turn], arrivals)
            connections[turn].send(request, 0)
            try:
                status = await asyncio.wait_for(answered, GRACE_S)
            except TimeoutError:
                status = 0
            if not status:
                arrivals.broken += 1
                return  # the connection is of no more use, and the run is invalid already
            arrivals.refused += not 200 <= status < 300
            arrivals.incomplete += reading.events != events
    for connection in connections:
        connection.transport.abort()
    await asyncio.sleep(0)


async def at_once(
    port: int,
    requests: Sequence[bytes],
    count: int,
    events: int,
    spread_s: float,
    lasts_s: float,
    marks: Sequence[tuple[float, Callable[[], None]]] = (),
) -> Arrivals:
    """``count`` streams, begun evenly over ``spread_s``, each of ``events`` events in ``lasts_s``.
    ``marks`` are called so many seconds after the begin."""
    arrivals = Arrivals()
    readings: dict[Connection, _StreamReading] = {}
    finished = asyncio.Event()
    ended = 0

    def done(connection: Connection, status: int) -> None:
        nonlocal ended
        if not status:
            arrivals.broken += 1
        elif not 200 <= status < 300:
            arrivals.refused += 1
        else:
            arrivals.incomplete += readings[connection].events != events
        ended += 1
        if ended == count:
            finished.set()

    def begin(connection: Connection, request: bytes) -> None:
        readings[connection] = _StreamReading(connection, arrivals)
        connection.send(request, 0)

    connections = [await _connect(port, done) for _ in range(count)]
    loop = asyncio.get_running_loop()
    begin_s = loop.time() + 0.05
    for number, connection in enumerate(connections):
        # At its own time, whatever the ones before it take.
        at_s = begin_s + number * spread_s / count
        loop.call_at(at_s, begin, connection, requests[number % len(requests)])
    for after_s, mark in marks:
        loop.call_at(begin_s + after_s, mark)
    try:
        async with asyncio.timeout(spread_s + lasts_s + GRACE_S):
            await finished.wait()
    except TimeoutError:
        arrivals.broken += count - ended
    for connection in connections:
        connection.busy = False  # what is still open was counted above
        connection.transport.abort()
    await asyncio.sleep(0)
    return arrivals
