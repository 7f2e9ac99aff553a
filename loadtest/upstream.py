"""A provider that costs as little as possible: fixed answers, read bodies, SSE with timestamps.

It shares a core with the load client, so its cost is the client's loss. One asyncio protocol on
uvloop; a request is answered when its body has arrived whole, as a provider would (an answer that
overtakes a large body makes proxies drop the connection).

    python -m loadtest.upstream [PORT] [EVENTS] [INTERVAL_MS]
"""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from typing import cast

import uvloop

from loadtest.timer import now_ns

EVENTS = 50
EVENT_INTERVAL_MS = 40

_JSON = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1790000000,"model":"m",'
    b'"choices":[{"index":0,"message":{"role":"assistant","content":"ok","refusal":null},'
    b'"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":250,'
    b'"completion_tokens":20,"total_tokens":270,"prompt_tokens_details":{"cached_tokens":0}},'
    b'"service_tier":"default"}'
)
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
    len(_JSON),
    _JSON,
)
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)
_END = (
    b'data: {"id":"c","object":"chat.completion.chunk","created":0,"model":"m","choices":[],'
    b'"usage":{"prompt_tokens":250,"completion_tokens":50,"total_tokens":300}}\n\n'
    b"data: [DONE]\n\n"
)
_STREAM_MARK = b'"stream":true'


class Upstream(asyncio.Protocol):
    """One connection; requests come one at a time."""

    def __init__(self, events: int, interval_s: float) -> None:
        self._events = events
        self._interval_s = interval_s
        self._head = b""
        self._missing = 0
        self._stream = False
        self._edge = b""
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are not registered

    def connection_lost(self, exc: Exception | None) -> None:
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        if not self._missing:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            head, data = self._head[:end].lower(), self._head[end + 4 :]
            self._head = self._edge = b""
            self._stream = False
            at = head.find(b"\r\ncontent-length:")
            self._missing = int(head[at + 17 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        # A large body is not searched: streams of this load are small.
        if len(data) < 4096 and not self._stream:
            self._stream = _STREAM_MARK in self._edge + data
            self._edge = data[-len(_STREAM_MARK) :]
        self._missing -= len(data)
        if self._missing <= 0:
            self._missing = 0
            if self._stream:
                self._task = asyncio.create_task(self._send_stream())
            else:
                self._transport.write(ANSWER)

    async def _send_stream(self) -> None:
        """Each event carries the time of its writing as ``created``."""
        self._transport.write(_STREAM_HEAD)
        for number in range(self._events):
            event = (
                b'data: {"id":"c","object":"chat.completion.chunk","created":%d,"model":"m",'
                b'"choices":[{"index":0,"delta":{"content":"w"},"finish_reason":null}]}\n\n'
            ) % now_ns()
            self._transport.write(chunk(event))
            if number < self._events - 1:
                await asyncio.sleep(self._interval_s)
        self._transport.write(chunk(_END) + b"0\r\n\r\n")


def chunk(data: bytes) -> bytes:
    """As HTTP/1.1 frames it."""
    return b"%x\r\n%b\r\n" % (len(data), data)


async def main(port: int = 0, events: int = EVENTS, interval_ms: int = EVENT_INTERVAL_MS) -> None:
    """Serves until it is killed; prints ``ready PORT``."""
    make = partial(Upstream, events, interval_ms / 1000)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(make, "127.0.0.1", port, backlog=1024)
    print(f"ready {server.sockets[0].getsockname()[1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(*map(int, sys.argv[1:4])))
