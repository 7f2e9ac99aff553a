"""One inference call at the demo provider: from the body received to the line on the bill."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from extproc.demo.answer import ERROR_MESSAGE, Answer, BadRequestError, Dialect, Events
from extproc.demo.asked import Asked, Json
from extproc.demo.bill import Bill
from extproc.demo.credentials import echoed, key_of
from extproc.demo.errors import HTML, error_document, error_headers, refusal_document
from extproc.demo.event_stream import CONTENT_TYPE
from extproc.demo.faults import Faults
from extproc.demo.operations import Operation

HANG_S = 3600.0
"""Longer than any timeout under test."""

OVERLOADED = 503
"""The status of an answer that is to be an error, where nothing was streamed before it."""

EVENTS_BEFORE_HANG = 3
"""A ``mid_stream`` hang comes after this many events."""


@dataclass(slots=True)
class Call:
    """A call under way. ``produced`` is the output so far: what is billed if it ends now."""

    request: web.Request
    operation: Operation
    number: int
    asked: Asked
    body: Json
    raw: bytes
    faults: Faults
    answer: Answer
    bill: Bill
    produced: int = 0
    status: int = 200
    state: str = "disconnected"

    async def serve(self) -> web.StreamResponse:
        """Answers, and books exactly one line however it ends."""
        try:
            return await self._serve()
        finally:
            self._book()

    async def _serve(self) -> web.StreamResponse:
        faults = self.faults
        if faults.delay_ms:
            await asyncio.sleep(faults.delay_ms / 1000)
        if faults.hang == "before_headers":
            await asyncio.sleep(HANG_S)
        if failure := self._failure():
            return failure
        response = web.StreamResponse(headers={"content-type": "application/json"})
        response.headers["request-id"] = f"req_{self.number:08d}"
        response.headers.update(echoed(self.request, faults))
        if self._streams:
            sse = "text/event-stream; charset=utf-8"
            response.headers["content-type"] = CONTENT_TYPE if self._is_binary else sse
            response.headers["cache-control"] = "no-cache"
            await self._stream(response)
        else:
            await self._document(response)
        return response

    @property
    def _streams(self) -> bool:
        return self.asked.stream and self.operation.events is not None

    @property
    def _is_binary(self) -> bool:
        """Framed by Amazon, where line ends and comments would break it."""
        return self.operation.dialect == "bedrock"

    def _failure(self) -> web.Response | None:
        """The refusal before any work that the faults ask for; it is billed nothing."""
        faults = self.faults
        headers = {"retry-after": faults.retry_after} if faults.retry_after else {}
        if faults.redirect:
            self._fail(302)
            return web.Response(status=302, headers={"location": "/elsewhere"})
        if faults.empty:
            self._fail(faults.status or 200)
            return web.Response(status=self.status, headers=headers)
        if faults.html_error:
            self._fail(faults.status or 503)
            return web.Response(
                status=self.status, headers=headers, text=HTML, content_type="text/html"
            )
        status = faults.status
        if not status and faults.answer == "error" and not self._streams:
            status = OVERLOADED
        if not status and not faults.error_200:
            return None
        self._fail(status or 200)
        dialect, status = self.operation.dialect, status or 500
        shown = echoed(self.request, faults)
        message = " ".join((ERROR_MESSAGE, *shown.values()))
        document = error_document(dialect, status, message, f"req_{self.number:08d}")
        headers |= error_headers(dialect, status) | shown
        return web.json_response(document, status=self.status, headers=headers)

    def _fail(self, status: int) -> None:
        self.status, self.state = status, "failed"

    async def _document(self, response: web.StreamResponse) -> None:
        """A JSON document. All of it is produced, and billed, before its first byte is sent."""
        text = web.json_response(self.operation.document(self.answer, self.body)).body
        assert isinstance(text, bytes)
        if self.faults.gzip:
            text = gzip.compress(text, compresslevel=1)
            response.headers["content-encoding"] = "gzip"
        self.produced = self.answer.output_tokens
        response.content_length = len(text)
        await response.prepare(self.request)
        if self.faults.hang:
            await asyncio.sleep(HANG_S)
        if self.faults.chunk_delay_ms:
            await asyncio.sleep(self.faults.chunk_delay_ms / 1000)
        if self.faults.cut_after_events >= 0:
            await response.write(text[: len(text) // 2])
            self._cut()
            return
        await response.write(text)
        await response.write_eof()
        self.state = "completed"

    async def _stream(self, response: web.StreamResponse) -> None:
        faults = self.faults
        assert self.operation.events is not None
        if faults.gzip:
            response.enable_compression(web.ContentCoding.gzip)
        await response.prepare(self.request)
        if faults.hang == "after_headers":
            await asyncio.sleep(HANG_S)
        if await self._send_events(response, self.operation.events(self.answer)):
            await response.write_eof()
            self.state = "failed" if self.answer.fails else "completed"

    async def _send_events(self, response: web.StreamResponse, events: Events) -> bool:
        """Sends all events; False if the faults cut them off."""
        faults = self.faults
        for count, (event, produced) in enumerate(events):
            if count == faults.cut_after_events:
                self._cut()
                return False
            if count == EVENTS_BEFORE_HANG and faults.hang == "mid_stream":
                await asyncio.sleep(HANG_S)
            # Counted before it is written: what the client may have seen is never left out.
            self.produced = produced
            await self._write(response, event)
            if faults.chunk_delay_ms:
                await asyncio.sleep(faults.chunk_delay_ms / 1000)
        return True

    async def _write(self, response: web.StreamResponse, event: bytes) -> None:
        faults = self.faults
        if faults.comments and not self._is_binary:
            event = b": keep-alive\n\n" + event
        if faults.crlf and not self._is_binary:
            event = event.replace(b"\n", b"\r\n")
        size = faults.split_bytes if faults.split_bytes > 0 else len(event)
        for start in range(0, len(event), size):
            await response.write(event[start : start + size])
            if size < len(event):
                # Lets the piece leave on its own.
                await asyncio.sleep(0)

    def _cut(self) -> None:
        """Resets the connection."""
        self.state = "failed"
        if self.request.transport is not None:
            self.request.transport.abort()

    def _book(self) -> None:
        """Refused before work: nothing. Otherwise input and what was produced, or everything."""
        answer = self.answer
        nothing = self.faults.error_200 or self.faults.empty
        refused = self.state == "failed" and (self.status != 200 or nothing)
        everything = self.faults.bill_after_disconnect or self.state == "completed"
        output = answer.output_tokens if everything else self.produced
        counts = {
            "input_tokens": 0 if refused else answer.input_tokens,
            "output_tokens": 0 if refused else output,
            "cached_tokens": 0 if refused else answer.cached_tokens,
            "cache_write_tokens": 0 if refused else answer.cache_write_tokens,
        }
        line = received(self.request, self.operation, self.asked, self.raw)
        if self.faults.keep_bodies:
            line["body"] = self.raw.decode("utf-8", "replace")
        self.bill.add({**line, **counts, "status": self.status, "state": self.state})


def refuse(
    request: web.Request,
    operation: Operation,
    raw: bytes,
    problem: BadRequestError,
    number: int,
    bill: Bill,
) -> web.Response:
    """Answers in the dialect's shape, and books a line of nothing."""
    counts = dict.fromkeys(
        ("input_tokens", "output_tokens", "cached_tokens", "cache_write_tokens"), 0
    )
    line = received(request, operation, Asked(""), raw)
    bill.add({**line, **counts, "status": problem.status, "state": "failed"})
    return refusal(operation.dialect, problem, number)


def refusal(dialect: Dialect, problem: BadRequestError, number: int) -> web.Response:
    """The answer to a request that is refused."""
    document = refusal_document(dialect, problem, f"req_{number:08d}")
    headers = error_headers(dialect, problem.status, problem.code)
    return web.json_response(document, status=problem.status, headers=headers)


def received(
    request: web.Request, operation: Operation, asked: Asked, raw: bytes
) -> dict[str, Any]:
    """What a bill line says of the request. Of a credential, only its last four characters."""
    headers = request.headers
    return {
        "provider": request.match_info["provider"],
        "model": asked.model,
        "dialect": operation.dialect,
        "operation": operation.path,
        "path": request.path,
        "anthropic": {
            name.lower(): value
            for name, value in headers.items()
            if name.lower().startswith("anthropic-")
        },
        "stream": asked.stream,
        "request_id": headers.get("x-request-id", ""),
        "attempt": headers.get("x-envoy-attempt-count", ""),
        "headers": sorted({name.lower() for name in headers}),
        "key_end": key_of(request)[-4:],
        "body_sha256": hashlib.sha256(raw).hexdigest(),
    }
