"""All providers in one process, for streams: the path says whose API is asked, and the answer has
as many events as the request allows it tokens, at an even pace.

    python -m loadtest.stream_upstream [PORT] [EVENTS_PER_SECOND]
"""

from __future__ import annotations

import asyncio
import re
import sys
from functools import partial
from typing import cast

import uvloop

from loadtest.provider_streams import OPENAI, stream_of
from loadtest.upstream import ANSWER, chunk

EVENTS_PER_S = 50
END_S = 0.002
"""From the last event to the end of the answer: they do not come in one piece."""
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_MAX_TOKENS = re.compile(
    rb'"(?:max_tokens|max_completion_tokens|maxOutputTokens|maxTokens)": *(\d+)'
)


class StreamUpstream(asyncio.Protocol):
    """One connection; requests come one at a time."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._loop = asyncio.get_running_loop()
        self._unread = b""
        self._stream = OPENAI
        self._left = 0
        self._due_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are not registered

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._unread += data
        head, found, body = self._unread.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not found or len(body) < (int(length[1]) if length else 0):
            return
        self._unread = b""
        path = head.split(b" ", 2)[1].decode()
        if b'"stream":true' in body or "stream" in path.lower():
            tokens = _MAX_TOKENS.search(body)
            self._begin(path, int(tokens[1]) if tokens else 1)
        else:
            self._transport.write(ANSWER)

    def _begin(self, path: str, events: int) -> None:
        """The first event comes at once, with what is before it."""
        self._stream = stream = stream_of(path)
        self._left = events - 1
        self._due_s = self._loop.time()
        head = f"HTTP/1.1 200 OK\r\ncontent-type: {stream.content_type}\r\n"
        self._transport.write(
            head.encode()
            + b"transfer-encoding: chunked\r\n\r\n"
            + chunk(stream.begin + stream.event())
        )
        self._wait()

    def _wait(self) -> None:
        # Counted from the stream's begin: a late event does not make the later ones late.
        self._due_s += self._interval_s if self._left else END_S
        self._timer = self._loop.call_at(self._due_s, self._go_on)

    def _go_on(self) -> None:
        if self._left:
            self._left -= 1
            self._transport.write(chunk(self._stream.event()))
            self._wait()
        else:
            self._transport.write(chunk(self._stream.end) + b"0\r\n\r\n")


async def main(port: int = 0, events_per_s: int = EVENTS_PER_S) -> None:
    """Serves until it is killed; prints ``ready PORT``."""
    loop = asyncio.get_running_loop()
    make = partial(StreamUpstream, 1 / events_per_s)
    server = await loop.create_server(make, "127.0.0.1", port, backlog=1024)
    print(f"ready {server.sockets[0].getsockname()[1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(*map(int, sys.argv[1:3])))
