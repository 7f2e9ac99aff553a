"""The load client: HTTP/1.1 keep-alive on raw asyncio protocols, bounded in connections and time.

Closed loop: every connection sends its next request when the answer to the last one is whole; this
finds the throughput. Open loop: requests are due at a fixed rate whatever the gateway does, and a
latency counts from when the request was *due*, so a pause of the gateway is charged to every
request that it delayed (no coordinated omission).
"""

from __future__ import annotations

import asyncio
import re
from array import array
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from loadtest.timer import PeriodicTimer, now_ns

GRACE_S = 5.0
"""How long answers may come after the load has ended; what is missing then is an error."""
OPEN_LOOP_CONNECTIONS = 64
_STAMP = re.compile(rb'"created":(\d+)')


@dataclass(slots=True)
class Sample:
    """What one slice of load saw."""

    seconds: float
    latencies_ns: array[int] = field(default_factory=lambda: array("q"))
    refused: int = 0
    """Answers other than 2xx."""
    broken: int = 0
    """Socket errors, and requests without a whole answer."""

    @property
    def valid(self) -> bool:
        """Whether every request was served."""
        return not self.refused and not self.broken and bool(self.latencies_ns)

    @property
    def rps(self) -> float:
        """Whole answers per second."""
        return len(self.latencies_ns) / self.seconds


@dataclass(slots=True)
class StreamSample:
    """What a set of concurrent SSE streams saw."""

    first_token_ns: array[int] = field(default_factory=lambda: array("q"))
    chunk_delay_ns: array[int] = field(default_factory=lambda: array("q"))
    """From the upstream's write of an event to its arrival here."""
    gap_ns: array[int] = field(default_factory=lambda: array("q"))
    """Between two events of a stream."""
    refused: int = 0
    broken: int = 0

    @property
    def valid(self) -> bool:
        """Whether every stream came whole."""
        return not self.refused and not self.broken and bool(self.first_token_ns)


Load = Coroutine[Any, Any, Sample]
"""One slice of load, ready to run."""


class Connection(asyncio.Protocol):
    """One keep-alive connection, one request at a time."""

    def __init__(self, done: Callable[[Connection, int], None]) -> None:
        self._done = done
        self._head = b""
        self._missing = 0
        self._tail = b""
        self._status = 0
        self._chunked = False
        self.on_body: Callable[[bytes], None] | None = None
        self.busy = False
        self.due_ns = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast(asyncio.Transport, transport)  # uvloop's are not registered as such
        # A large body is written whole; waiting for room would only measure this client.
        stream.set_write_buffer_limits(high=64 * 1024 * 1024)
        self.transport = stream

    def send(self, request: bytes, due_ns: int) -> None:
        """Sends a request whose latency counts from ``due_ns``."""
        self.busy, self.due_ns = True, due_ns
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        if not self._status:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            head, data = self._head[:end].lower(), self._head[end + 4 :]
            self._head = b""
            self._status = int(head[9:12])
            at = head.find(b"\r\ncontent-length:")
            self._chunked = at < 0
            self._missing = 0 if at < 0 else int(head[at + 17 :].split(b"\r\n", 1)[0])
        if self.on_body is not None:
            self.on_body(data)
        if self._chunked:
            self._tail = (self._tail + data)[-7:]
            if not (self._tail == b"\r\n0\r\n\r\n" or self._tail == b"0\r\n\r\n"):
                return
            self._tail = b""
        else:
            self._missing -= len(data)
            if self._missing > 0:
                return
        status, self._status, self.busy = self._status, 0, False
        self._done(self, status)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.busy:
            self.busy = False
            self._done(self, 0)


class _Pool:
    """The connections of one slice, and its counts."""

    def __init__(self, seconds: float) -> None:
        self.sample = Sample(seconds)
        self.connections: list[Connection] = []

    async def connect(
        self, port: int, count: int, done: Callable[[Connection, int], None]
    ) -> list[Connection]:
        loop = asyncio.get_running_loop()
        for _ in range(count):
            _, connection = await loop.create_connection(
                lambda: Connection(done), "127.0.0.1", port
            )
            self.connections.append(connection)
        return self.connections

    def count(self, connection: Connection, status: int) -> None:
        sample = self.sample
        if 200 <= status < 300:
            sample.latencies_ns.append(now_ns() - connection.due_ns)
        elif status:
            sample.refused += 1
        else:
            sample.broken += 1

    async def finish(self) -> Sample:
        """Waits for the last answers, then closes."""
        deadline_ns = now_ns() + int(GRACE_S * 1e9)
        while any(c.busy for c in self.connections) and now_ns() < deadline_ns:
            await asyncio.sleep(0.005)
        for connection in self.connections:
            connection.transport.abort()
        await asyncio.sleep(0)
        return self.sample


async def closed_loop(
    port: int, requests: Sequence[bytes], connections: int, seconds: float
) -> Sample:
    """Saturation: ``connections`` requests in flight for ``seconds``."""
    pool = _Pool(seconds)
    sent = 0
    total = len(requests)
    end_ns = 0

    def done(connection: Connection, status: int) -> None:
        nonlocal sent
        now = now_ns()
        if now <= end_ns:  # an answer after the slice is no throughput of the slice
            pool.count(connection, status)
            if status:
                sent += 1
                connection.send(requests[sent % total], now)

    await pool.connect(port, connections, done)
    end_ns = now_ns() + int(seconds * 1e9)
    for connection in pool.connections:
        sent += 1
        connection.send(requests[sent % total], now_ns())
    await asyncio.sleep(seconds)
    return await pool.finish()


async def open_loop(
    port: int, requests: Sequence[bytes], rate_rps: float, seconds: float
) -> Sample:
    """A fixed rate, evenly spaced. Requests that find no free connection wait, and their waiting
    counts."""
    pool = _Pool(seconds)
    interval_ns = int(1e9 / rate_rps)
    total = int(rate_rps * seconds)
    due: deque[int] = deque()
    finished = asyncio.Event()
    sent = ended = 0

    def send_due() -> None:
        nonlocal sent
        while due and idle:
            idle.pop().send(requests[sent % len(requests)], due.popleft())
            sent += 1

    def done(connection: Connection, status: int) -> None:
        nonlocal ended
        pool.count(connection, status)
        ended += 1
        if status:
            idle.append(connection)
            send_due()
        if ended == total:
            finished.set()

    idle = list(await pool.connect(port, OPEN_LOOP_CONNECTIONS, done))
    start_ns = now_ns() + 10_000_000
    ticks = 0
    with PeriodicTimer(start_ns, interval_ns) as timer:

        def tick() -> None:
            nonlocal ticks
            for _ in range(timer.expirations()):
                if ticks < total:
                    due.append(start_ns + ticks * interval_ns)
                    ticks += 1
            send_due()

        loop = asyncio.get_running_loop()
        loop.add_reader(timer.fd, tick)
        try:
            async with asyncio.timeout(seconds + GRACE_S):
                await finished.wait()
        except TimeoutError:
            pool.sample.broken += total - ended
        finally:
            loop.remove_reader(timer.fd)
    sample = pool.sample
    for connection in pool.connections:
        connection.busy = False  # what is still open was counted above
    await pool.finish()
    return sample


async def streams(port: int, request: bytes, count: int, spread_s: float) -> StreamSample:
    """``count`` SSE streams, started evenly over ``spread_s``, read to their end."""
    sample = StreamSample()
    left = count
    finished = asyncio.Event()

    def done(_: Connection, status: int) -> None:
        nonlocal left
        if not status:
            sample.broken += 1
        elif not 200 <= status < 300:
            sample.refused += 1
        left -= 1
        if left == 0:
            finished.set()

    pool = _Pool(spread_s)
    await pool.connect(port, count, done)
    for connection in pool.connections:
        connection.on_body = _stream_reader(connection, sample)
        connection.send(request, now_ns())
        await asyncio.sleep(spread_s / count)
    try:
        async with asyncio.timeout(60):
            await finished.wait()
    except TimeoutError:
        sample.broken += left
    for connection in pool.connections:
        connection.busy = False
    await pool.finish()
    return sample


def _stream_reader(connection: Connection, sample: StreamSample) -> Callable[[bytes], None]:
    before_ns = 0

    def read(data: bytes) -> None:
        nonlocal before_ns
        # An event cut in two by TCP is left out here; on loopback that is a handful in a run.
        for stamp in _STAMP.findall(data):
            sent_ns = int(stamp)
            if not sent_ns:  # the usage event carries none
                continue
            arrived_ns = now_ns()
            sample.chunk_delay_ns.append(arrived_ns - sent_ns)
            if before_ns:
                sample.gap_ns.append(arrived_ns - before_ns)
            else:
                sample.first_token_ns.append(arrived_ns - connection.due_ns)
            before_ns = arrived_ns

    return read
