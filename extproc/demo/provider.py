"""The demo provider's HTTP server.

``/{provider}/openai/v1/...`` and its neighbours (``anthropic``, ``gemini``, ``bedrock``) answer for
any provider name.
``/mcp`` is an MCP server.
``PUT /faults/{provider}`` makes one of them slow, failing, hanging, cut off or dishonest until
``DELETE /faults``; ``GET /bill`` is what it all would cost.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from aiohttp import web

from extproc.demo import anthropic_messages, gemini
from extproc.demo.answer import CREATED, BadRequestError, Dialect
from extproc.demo.asked import Asked, Json
from extproc.demo.bill import Bill
from extproc.demo.call import Call, refusal, refuse
from extproc.demo.credentials import check_caller
from extproc.demo.faults import FaultBook, Faults, faults_from_headers, faults_from_json
from extproc.demo.mcp_server import McpServer
from extproc.demo.operations import OPERATIONS, Operation, gemini_routes
from extproc.demo.prices import PRICES, price_from_json
from extproc.demo.proto_json import in_camel_case
from extproc.demo.strict.dialects import check_strictly
from extproc.demo.tokens import Tokenizer

MAX_BODY_BYTES = 64 * 1024 * 1024
"""Twice what the gateway lets through, so that it is never this server that refuses."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Counted(NamedTuple):
    """An operation that only counts: free, no line on the bill."""

    dialect: Dialect
    path: str


COUNT_TOKENS = Counted("anthropic", "messages/count_tokens")
COUNT_GEMINI_TOKENS = Counted("gemini", "countTokens")


class DemoProvider:
    """The routes, over one bill and one book of faults."""

    def __init__(self, bill_file: Path | None = None, files: Path | None = None) -> None:
        self.bill = Bill(bill_file)
        self._mcp_server = McpServer(files)
        self.tokenizer = Tokenizer()
        self._faults = FaultBook()
        self._number = 0

    def application(self) -> web.Application:
        """The aiohttp application.

        Its runner needs ``handler_cancellation=True``: a call learns that way that its client left.
        """
        application = web.Application(client_max_size=MAX_BODY_BYTES)
        route = application.router
        route.add_get("/bill", self._get_bill)
        route.add_get("/bill/total", self._get_total)
        route.add_delete("/bill", self._clear_bill)
        route.add_put("/prices/{model}", self._set_price)
        route.add_put("/faults/{provider}", self._set_faults)
        route.add_delete("/faults", self._clear_faults)
        for operation in OPERATIONS:
            for path in operation.routes:
                route.add_post(path, self._handler(operation))
        route.add_post(f"/{{provider}}/anthropic/v1/{COUNT_TOKENS.path}", self._count_tokens)
        for path in gemini_routes(COUNT_GEMINI_TOKENS.path):
            route.add_post(path, self._count_gemini_tokens)
        route.add_get("/{provider}/openai/v1/models", self._models)
        self._mcp_server.add_to(application)
        return application

    # -- administration ---------------------------------------------------------------------------

    async def _get_bill(self, request: web.Request) -> web.Response:
        since = request.query.get("since", "0")
        if not since.isascii() or not since.isdigit():
            raise web.HTTPBadRequest(text=f"since is a line number, not {since!r}")
        return web.json_response(self.bill.since(int(since)))

    async def _get_total(self, _: web.Request) -> web.Response:
        total = {"micro_usd": self.bill.total_micro_usd, "requests": self.bill.requests}
        return web.json_response(total)

    async def _clear_bill(self, _: web.Request) -> web.Response:
        self.bill.clear()
        return web.json_response({})

    async def _set_price(self, request: web.Request) -> web.Response:
        try:
            price = price_from_json(await request.json())
        except ValueError as error:
            raise web.HTTPBadRequest(text=str(error)) from error
        self.bill.set_price(request.match_info["model"], price)
        return web.json_response({})

    async def _set_faults(self, request: web.Request) -> web.Response:
        try:
            faults = faults_from_json(await request.json())
        except ValueError as error:
            raise web.HTTPBadRequest(text=str(error)) from error
        self._faults.set(request.match_info["provider"], faults)
        return web.json_response({})

    async def _clear_faults(self, _: web.Request) -> web.Response:
        self._faults.clear()
        return web.json_response({})

    # -- calls ------------------------------------------------------------------------------------

    def _handler(self, operation: Operation) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            return await self._call(request, operation)

        return handle

    async def _call(self, request: web.Request, operation: Operation) -> web.StreamResponse:
        raw = await request.read()
        self._number += 1
        number = self._number
        try:
            faults = self._faults_of(request)
            check_caller(request, operation.dialect, raw, faults)
            body = _object(raw, operation.dialect)
            asked = _asked(request, operation, body, faults)
        except BadRequestError as problem:
            return refuse(request, operation, raw, problem, number, self.bill)
        input_tokens = self.tokenizer.count_prompt(body, raw, faults.tokenizer)
        input_tokens += faults.hidden_template_tokens
        answer = operation.answer(asked, number, input_tokens, faults)
        call = Call(request, operation, number, asked, body, raw, faults, answer, self.bill)
        return await call.serve()

    def _faults_of(self, request: web.Request) -> Faults:
        faults = self._faults.of_next_request(request.match_info["provider"])
        try:
            return faults_from_headers(request.headers, faults)
        except ValueError as error:
            raise BadRequestError(str(error)) from error

    async def _count_tokens(self, request: web.Request) -> web.Response:
        try:
            tokens = await self._counted(request, COUNT_TOKENS, anthropic_messages.check_count)
        except BadRequestError as problem:
            return refusal("anthropic", problem, self._number)
        return web.json_response({"input_tokens": tokens})

    async def _count_gemini_tokens(self, request: web.Request) -> web.Response:
        try:
            tokens = await self._counted(request, COUNT_GEMINI_TOKENS, gemini.check_count)
        except BadRequestError as problem:
            return refusal("gemini", problem, self._number)
        return web.json_response(gemini.count_document(tokens))

    async def _counted(
        self, request: web.Request, counted: Counted, check: Callable[[Json], None]
    ) -> int:
        raw = await request.read()
        faults = self._faults_of(request)
        check_caller(request, counted.dialect, raw, faults)
        body = _object(raw, counted.dialect)
        check(body)
        body = body.get("generateContentRequest", body)
        if faults.strict:
            model = request.match_info.get("model", "")
            check_strictly(counted.dialect, counted.path, body, model, request.headers)
        tokens = self.tokenizer.count_prompt(body, raw, faults.tokenizer)
        return tokens + faults.hidden_template_tokens

    async def _models(self, _: web.Request) -> web.Response:
        """Free: no line on the bill."""
        data = [
            {"id": model, "object": "model", "created": CREATED, "owned_by": "demo"}
            for model in PRICES
        ]
        return web.json_response({"object": "list", "data": data})


def _asked(request: web.Request, operation: Operation, body: Json, faults: Faults) -> Asked:
    """What a body asks for, together with what the path does; BadRequestError if it is refused."""
    operation.check(body)
    model = request.match_info.get("model", "")
    if faults.strict:
        check_strictly(operation.dialect, operation.path, body, model, request.headers)
    try:
        asked = operation.asked(body)
    except (LookupError, TypeError, AttributeError) as error:
        raise BadRequestError("The body of your request is not of the right shape.") from error
    if operation.streams is None:
        return replace(asked, model=model) if model else asked
    if operation.dialect == "gemini" and operation.streams:
        gemini.check_stream(request.query.get("alt", ""))
    return replace(asked, model=model, stream=operation.streams)


def _object(raw: bytes, dialect: Dialect) -> Json:
    try:
        body = json.loads(raw)
        if dialect == "gemini":
            body = in_camel_case(body)
    except (ValueError, RecursionError) as error:
        raise BadRequestError("We could not parse the JSON body of your request.") from error
    if not isinstance(body, dict):
        raise BadRequestError("The body of your request is not a JSON object.")
    return body
