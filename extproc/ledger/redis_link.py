"""One connection to a shared store: commands out, answers in, in order, never twice.

A connection whose answer is late is given up: what was under way on it has an unknown outcome,
which its owner resolves by asking again with the same id. Nothing is sent a second time in here.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import hiredis

from extproc.ledger.redis_errors import unavailable
from extproc.values.store_address import StoreAddress

ANSWER_TIMEOUT_S = 0.075
"""A script takes well below a millisecond; 30 ms of network each way still fit. A request's whole
deadline is longer by what asking once more takes."""
CONNECT_TIMEOUT_S = 0.5
LATE_LOOP_S = 0.01
"""A timer that comes later than this was held up by our own loop: the answer may be waiting."""

Then = Callable[[Any], None]
"""Told the answer: a value, a ``hiredis.ReplyError``, or a ``LedgerUnavailableError`` when the
connection was lost before it came."""


def encode(*words: bytes | str | int) -> bytes:
    """One command."""
    return cast("bytes", hiredis.pack_command(words))  # type: ignore[arg-type]  # any number of


class Link(asyncio.Protocol):
    """A connection. ``lost`` is done when it has ended; its result is the reason."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._reader = hiredis.Reader()
        self._transport: asyncio.WriteTransport | None = None
        self._waiting: deque[tuple[Then, float]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._graced = False
        self.lost: asyncio.Future[str] = loop.create_future()

    @property
    def in_flight(self) -> int:
        """Commands without an answer yet."""
        return len(self._waiting)

    def send(self, command: bytes, then: Then, timeout_s: float | None = None) -> None:
        """Sends one encoded command; ``then`` is told its answer."""
        if self._transport is None or self.lost.done():
            then(unavailable("connection"))
            return
        if timeout_s is None:
            timeout_s = ANSWER_TIMEOUT_S
        self._waiting.append((then, self._loop.time() + timeout_s))
        self._transport.write(command)
        if self._timer is None:
            self._timer = self._loop.call_later(timeout_s, self._overdue)

    async def ask(self, *words: bytes | str | int, timeout_s: float | None = None) -> Any:
        """The answer to one command. Raises ``hiredis.ReplyError``, ``LedgerUnavailableError``."""
        answer: asyncio.Future[Any] = self._loop.create_future()

        def told(value: Any) -> None:
            if answer.done():
                return
            if isinstance(value, Exception):
                answer.set_exception(value)
            else:
                answer.set_result(value)

        self.send(encode(*words), told, timeout_s)
        return await answer

    def give_up(self, reason: str) -> None:
        """Ends the connection; what is under way has an unknown outcome."""
        if self.lost.done():
            return
        self.lost.set_result(reason)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            self._transport.abort()
        waiting, self._waiting = self._waiting, deque()
        for then, _ in waiting:
            then(unavailable(reason))

    # -- called by asyncio ------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See ``asyncio.Protocol``."""
        assert isinstance(transport, asyncio.WriteTransport) or hasattr(transport, "write")
        self._transport = transport  # type: ignore[assignment]  # uvloop's is none by name

    def data_received(self, data: bytes) -> None:
        """See ``asyncio.Protocol``."""
        self._reader.feed(data)
        try:
            while True:
                value = self._reader.gets()
                if value is False:
                    return
                if not self._waiting:
                    self.give_up("protocol")
                    return
                then, _ = self._waiting.popleft()
                then(value)
        except hiredis.ProtocolError:
            self.give_up("protocol")

    def connection_lost(self, exc: Exception | None) -> None:
        """See ``asyncio.Protocol``."""
        self.give_up("connection")

    def _overdue(self) -> None:
        self._timer = None
        if not self._waiting:
            return
        late_s = self._loop.time() - self._waiting[0][1]
        if late_s < 0:
            self._graced = False
            self._timer = self._loop.call_later(-late_s, self._overdue)
        elif late_s > LATE_LOOP_S and not self._graced:
            # We were late ourselves: what has arrived meanwhile is read first.
            self._graced = True
            self._timer = self._loop.call_later(LATE_LOOP_S, self._overdue)
        else:
            self.give_up("timeout")


async def connect(address: StoreAddress, timeout_s: float = CONNECT_TIMEOUT_S) -> Link:
    """A connection that is logged in. Raises ``LedgerUnavailableError``, ``hiredis.ReplyError``."""
    loop = asyncio.get_running_loop()
    context = ssl.create_default_context() if address.tls else None
    try:
        async with asyncio.timeout(timeout_s):
            _, link = await loop.create_connection(
                lambda: Link(loop), address.host, address.port, ssl=context
            )
    except TimeoutError:
        raise unavailable("timeout", f"no connection to {address}") from None
    except OSError as error:
        raise unavailable("connection", f"{address}: {error.strerror or error}") from None
    try:
        if address.password:
            user = (address.username,) if address.username else ()
            await link.ask("AUTH", *user, address.password)
        if address.db:
            await link.ask("SELECT", address.db)
    except BaseException:
        link.give_up("connection")
        raise
    return link
