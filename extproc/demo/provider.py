"""The demo provider's HTTP server.

``/{provider}/openai/v1/...`` and ``/{provider}/anthropic/v1/...`` answer for any provider name.
``PUT /faults/{provider}`` makes one of them slow, failing, hanging, cut off or dishonest until
``DELETE /faults``; ``GET /bill`` is what it all would cost.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

from extproc.demo import anthropic_messages
from extproc.demo.answer import CREATED, BadRequestError, Json
from extproc.demo.bill import Bill
from extproc.demo.call import Call, refuse
from extproc.demo.errors import error_document
from extproc.demo.faults import FaultBook, Faults, faults_from_headers, faults_from_json
from extproc.demo.operations import OPERATIONS, Operation
from extproc.demo.prices import PRICES, price_from_json
from extproc.demo.tokens import Tokenizer

MAX_BODY_BYTES = 64 * 1024 * 1024
"""Twice what the gateway lets through, so that it is never this server that refuses."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class DemoProvider:
    """The routes, over one bill and one book of faults."""

    def __init__(self, bill_file: Path | None = None) -> None:
        self.bill = Bill(bill_file)
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
            path = f"/{{provider}}/{operation.dialect}/v1/{operation.path}"
            route.add_post(path, self._handler(operation))
        route.add_post("/{provider}/anthropic/v1/messages/count_tokens", self._count_tokens)
        route.add_get("/{provider}/openai/v1/models", self._models)
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
            if operation.dialect == "anthropic":
                anthropic_messages.check_version(request.headers)
            body = _object(raw)
            operation.check(body)
        except BadRequestError as problem:
            return refuse(request, operation, raw, problem, number, self.bill)
        input_tokens = self.tokenizer.count_prompt(body, raw, faults.tokenizer)
        input_tokens += faults.hidden_template_tokens
        answer = operation.answer(body, number, input_tokens, faults)
        call = Call(request, operation, number, body, raw, faults, answer, self.bill)
        return await call.serve()

    def _faults_of(self, request: web.Request) -> Faults:
        faults = self._faults.of_next_request(request.match_info["provider"])
        try:
            return faults_from_headers(request.headers, faults)
        except ValueError as error:
            raise BadRequestError(str(error)) from error

    async def _count_tokens(self, request: web.Request) -> web.Response:
        """Free: no line on the bill."""
        raw = await request.read()
        try:
            anthropic_messages.check_version(request.headers)
            body = _object(raw)
            anthropic_messages.check_count(body)
            faults = self._faults_of(request)
        except BadRequestError as problem:
            document = error_document("anthropic", 400, str(problem), self._number)
            return web.json_response(document, status=400)
        counted = self.tokenizer.count_prompt(body, raw, faults.tokenizer)
        return web.json_response({"input_tokens": counted + faults.hidden_template_tokens})

    async def _models(self, _: web.Request) -> web.Response:
        """Free: no line on the bill."""
        data = [
            {"id": model, "object": "model", "created": CREATED, "owned_by": "demo"}
            for model in PRICES
        ]
        return web.json_response({"object": "list", "data": data})


def _object(raw: bytes) -> Json:
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise BadRequestError("We could not parse the JSON body of your request.") from error
    if not isinstance(body, dict):
        raise BadRequestError("The body of your request is not a JSON object.")
    return body
