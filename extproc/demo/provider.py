"""The demo provider's HTTP server.

``/{provider}/openai/v1/...`` and ``/{provider}/anthropic/v1/...`` answer for any provider name.
``PUT /faults/{provider}`` makes one of them slow, failing, hanging, cut off or dishonest until
``DELETE /faults``; ``GET /bill`` is what it all would cost.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from aiohttp import web

from extproc.demo.bill import Bill, count_tokens
from extproc.demo.dialects import (
    Answer,
    chat_events,
    chat_json,
    completion_json,
    embeddings_json,
    messages_events,
    messages_json,
    responses_events,
    responses_json,
)

Json = dict[str, Any]

DEFAULT_OUTPUT_TOKENS = 32
MAX_BODY_BYTES = 64 * 1024 * 1024
HANG_S = 3600.0

_MAXIMUM = {
    "chat/completions": ("max_completion_tokens", "max_tokens"),
    "completions": ("max_tokens",),
    "responses": ("max_output_tokens",),
    "messages": ("max_tokens",),
}


class DemoProvider:
    """The handlers, the bill and the faults."""

    def __init__(self, bill_file: Path | None = None) -> None:
        self.bill = Bill(bill_file)
        self.faults: dict[str, Json] = {}
        self._seen: dict[str, int] = {}
        self._number = 0

    def application(self) -> web.Application:
        """The aiohttp application."""
        application = web.Application(client_max_size=MAX_BODY_BYTES)
        route = application.router
        route.add_get("/bill", self._get_bill)
        route.add_get("/bill/total", self._get_total)
        route.add_delete("/bill", self._clear_bill)
        route.add_put("/faults/{provider}", self._set_faults)
        route.add_delete("/faults", self._clear_faults)
        for path in ("chat/completions", "completions", "responses", "embeddings"):
            route.add_post("/{provider}/openai/v1/" + path, self._calls(path))
        route.add_post("/{provider}/anthropic/v1/messages", self._calls("messages"))
        route.add_post("/{provider}/anthropic/v1/messages/count_tokens", self._count_tokens)
        return application

    # -- administration ---------------------------------------------------------------------------

    async def _get_bill(self, request: web.Request) -> web.Response:
        since = int(request.query.get("since", "0"))
        return web.json_response([line for line in self.bill.lines if line["n"] > since])

    async def _get_total(self, _: web.Request) -> web.Response:
        total = {"micro_usd": self.bill.total_micro_usd, "requests": self.bill.requests}
        return web.json_response(total)

    async def _clear_bill(self, _: web.Request) -> web.Response:
        self.bill.clear()
        return web.json_response({})

    async def _set_faults(self, request: web.Request) -> web.Response:
        provider = request.match_info["provider"]
        self.faults[provider] = await request.json()
        self._seen[provider] = 0
        return web.json_response({})

    async def _clear_faults(self, _: web.Request) -> web.Response:
        self.faults.clear()
        return web.json_response({})

    def _faults_of(self, provider: str) -> Json:
        faults = self.faults.get(provider, {})
        if faults:
            self._seen[provider] = self._seen.get(provider, 0) + 1
            if self._seen[provider] > faults.get("first_n", 10**9):
                return {}
        return faults

    # -- calls ------------------------------------------------------------------------------------

    def _calls(self, operation: str) -> Callable[[web.Request], Any]:
        async def call(request: web.Request) -> web.StreamResponse:
            return await self._call(request, operation)

        return call

    async def _count_tokens(self, request: web.Request) -> web.Response:
        text = await request.text()
        return web.json_response({"input_tokens": count_tokens(text, "words")})

    async def _call(self, request: web.Request, operation: str) -> web.StreamResponse:
        raw = await request.read()
        provider = request.match_info["provider"]
        faults = self._faults_of(provider)
        try:
            body = json.loads(raw)
            problem = _problem(operation, body, request)
        except ValueError:
            body, problem = {}, "the body is not JSON"
        if problem:
            return _error(operation, 400, problem)
        if delay_ms := faults.get("delay_ms"):
            await asyncio.sleep(delay_ms / 1000)
        line = self._line(request, provider, operation, body, raw, faults)
        if faults.get("hang") == "before_headers":
            await self._hang(line)
        if status := faults.get("status"):
            headers = {}
            if "retry_after" in faults:
                headers["retry-after"] = str(faults["retry_after"])
            self._book(line, 0, 0, status=status)
            return _error(operation, status, "the demo provider was told to fail", headers)
        answer = self._answer(operation, body, raw, faults)
        if body.get("stream") and operation != "embeddings":
            return await self._stream(request, operation, answer, faults, line)
        self._book(line, answer.input_tokens, answer.output_tokens, cached=answer.cached_tokens)
        if operation == "embeddings":
            inputs = body.get("input")
            document = embeddings_json(answer, len(inputs) if isinstance(inputs, list) else 1)
        else:
            document = _JSON[operation](answer)
        if faults.get("error_200"):
            document = {"error": {"message": "broken", "type": "server_error"}}
        response = web.json_response(document)
        if faults.get("gzip"):
            response.enable_compression(web.ContentCoding.gzip)
        return response

    async def _stream(
        self, request: web.Request, operation: str, answer: Answer, faults: Json, line: Json
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        sent = 0
        state = "completed"
        everything = bool(faults.get("bill_after_disconnect"))
        try:
            if faults.get("hang") == "after_headers":
                await asyncio.sleep(HANG_S)
            for count, (event, tokens) in enumerate(_EVENTS[operation](answer)):
                if count == faults.get("cut_after_events", -1):
                    state = "cut"
                    if request.transport is not None:
                        request.transport.abort()
                    break
                if faults.get("hang") == "mid_stream" and count == 3:
                    await asyncio.sleep(HANG_S)
                await _write(response, event, faults)
                sent = tokens
                if pause_ms := faults.get("chunk_delay_ms"):
                    await asyncio.sleep(pause_ms / 1000)
            else:
                await response.write_eof()
        except (ConnectionError, asyncio.CancelledError):
            state = "disconnected"
            raise
        finally:
            output = answer.output_tokens if everything else sent
            cached = answer.cached_tokens
            self._book(line, answer.input_tokens, output, state=state, cached=cached)
        return response

    async def _hang(self, line: Json) -> None:
        """Works, bills, and never answers."""
        self._book(line, line["body_tokens"], 0, state="hung")
        await asyncio.sleep(HANG_S)

    def _answer(self, operation: str, body: Json, raw: bytes, faults: Json) -> Answer:
        self._number += 1
        limits = [body[key] for key in _MAXIMUM.get(operation, ()) if body.get(key)]
        wanted = int(faults.get("output_tokens", DEFAULT_OUTPUT_TOKENS))
        output = 0 if operation == "embeddings" else min([wanted, *limits])
        options = body.get("stream_options") or {}
        return Answer(
            id=f"{self._number:08d}",
            model=body["model"],
            input_tokens=_input_tokens(raw, faults),
            output_tokens=output * int(body.get("n") or 1),
            cached_tokens=int(faults.get("cached_tokens", 0)),
            include_usage=bool(options.get("include_usage")),
            omit_usage=bool(faults.get("omit_usage")),
            falsify=str(faults.get("falsify_usage", "")),
        )

    def _line(
        self,
        request: web.Request,
        provider: str,
        operation: str,
        body: Json,
        raw: bytes,
        faults: Json,
    ) -> Json:
        authorization = request.headers.get("authorization", "")
        return {
            "provider": provider,
            "model": body["model"],
            "operation": operation,
            "request_id": request.headers.get("x-request-id", ""),
            "stream": bool(body.get("stream")),
            "headers": sorted(name.lower() for name in request.headers),
            "key_end": (authorization or request.headers.get("x-api-key", ""))[-4:],
            "body_sha256": hashlib.sha256(raw).hexdigest(),
            "body": raw.decode() if faults.get("keep_bodies") else None,
            "body_tokens": _input_tokens(raw, faults),
        }

    def _book(
        self,
        line: Json,
        input_tokens: int,
        output_tokens: int,
        *,
        status: int = 200,
        state: str = "completed",
        cached: int = 0,
    ) -> None:
        self.bill.add(
            {
                **line,
                "input_tokens": input_tokens,
                "output_tokens": output_tokens,
                "cached_tokens": cached,
                "cache_write_tokens": 0,
                "status": status,
                "state": state,
            }
        )


def _input_tokens(raw: bytes, faults: Json) -> int:
    mode = str(faults.get("tokenizer", "words"))
    return count_tokens(raw.decode(), mode) + int(faults.get("hidden_template_tokens", 8))


_JSON: dict[str, Callable[[Answer], Json]] = {
    "chat/completions": chat_json,
    "completions": completion_json,
    "responses": responses_json,
    "messages": messages_json,
}
_EVENTS: dict[str, Callable[[Answer], Iterator[tuple[bytes, int]]]] = {
    "chat/completions": chat_events,
    "completions": chat_events,
    "responses": responses_events,
    "messages": messages_events,
}


async def _write(response: web.StreamResponse, event: bytes, faults: Json) -> None:
    if faults.get("crlf"):
        event = event.replace(b"\n", b"\r\n")
    if faults.get("comments"):
        event = b": keep-alive\n\n" + event
    size = int(faults.get("split_bytes", 0)) or len(event)
    for start in range(0, len(event), size):
        await response.write(event[start : start + size])
        if size < len(event):
            await asyncio.sleep(0)


def _problem(operation: str, body: Any, request: web.Request) -> str:
    if not isinstance(body, dict) or not isinstance(body.get("model"), str):
        return "model is required"
    if operation in ("chat/completions", "messages") and not isinstance(body.get("messages"), list):
        return "messages is required"
    if operation == "messages":
        if not isinstance(body.get("max_tokens"), int):
            return "max_tokens is required"
        if "anthropic-version" not in request.headers:
            return "anthropic-version is required"
    return ""


def _error(
    operation: str, status: int, message: str, headers: dict[str, str] | None = None
) -> web.Response:
    if operation == "messages":
        document: Json = {"type": "error", "error": {"type": "api_error", "message": message}}
    else:
        document = {"error": {"message": message, "type": "server_error", "code": None}}
    return web.json_response(document, status=status, headers=headers)
