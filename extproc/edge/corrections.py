"""``POST /corrections``: mispriced history is set right by an entry of its own, never by an edit.

A browser must not be able to do this on an operator's behalf: only JSON is taken (which a page of
another origin cannot send unasked), a request that names an origin is refused (every page names its
own), and so is one from another machine.
"""

from __future__ import annotations

import asyncio
from collections import deque
from ipaddress import ip_address
from typing import Any

import orjson
from aiohttp import web

from extproc.edge.services import Sidecar
from extproc.ledger.port import Hold, LedgerUnavailableError
from extproc.values.limit import MONEY, NO_CEILING, UNIT_NAMES, Limit
from extproc.values.money import MAX_AMOUNT

MAX_REASON_CHARS = 500
MAX_NAME_CHARS = 128
MAX_BODY_BYTES = 16 * 1024
KEPT = 100
"""Corrections of this process that ``/usage`` shows. All are in the usage log."""
ANSWER_S = 5.0
"""How long a remote store may take to say what a counter holds."""

FIELDS = {"limit", "scope_value", "amount", "amount_micro_usd", "reason", "operator"}


class RefusedError(Exception):
    """Why a correction is not made."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Corrections:
    """Takes corrections for one sidecar's ledger."""

    def __init__(self, sidecar: Sidecar) -> None:
        self._sidecar = sidecar
        self._made: deque[dict[str, object]] = deque(maxlen=KEPT)

    @property
    def made(self) -> list[dict[str, object]]:
        """The latest corrections of this process, newest last."""
        return list(self._made)

    async def post(self, request: web.Request) -> web.Response:
        """The handler. 200 with what the counter holds now, or why not."""
        try:
            _refuse_strangers(request)
            body = await request.content.read(MAX_BODY_BYTES + 1)
            document, status = await self._correct(_parsed(body)), 200
        except RefusedError as refused:
            error = {"code": refused.code, "message": str(refused)}
            document, status = {"error": error}, refused.status
        return web.Response(
            body=orjson.dumps(document), content_type="application/json", status=status
        )

    async def _correct(self, fields: dict[str, Any]) -> dict[str, object]:
        limit = self._limit(_text(fields, "limit", MAX_NAME_CHARS))
        scope_value = _text(fields, "scope_value", 4 * 1024, default="")
        reason = _text(fields, "reason", MAX_REASON_CHARS)
        operator = _text(fields, "operator", MAX_NAME_CHARS, default="")
        amount = _amount(fields, limit)
        hold = Hold(limit, scope_value, NO_CEILING)
        ledger, now_ms = self._sidecar.ledger, self._sidecar.clock.now_ms()
        try:
            before = ledger.peek([hold], now_ms)
            if isinstance(before, asyncio.Future):
                before = await asyncio.wait_for(before, ANSWER_S)
            if not before[0].settled and not before[0].reserved:
                message = f"nothing is counted for {scope_value!r} of {limit.key} in this window"
                raise RefusedError(404, "no_usage", message)
            about = {"reason": reason, "operator": operator}
            if not ledger.correct(limit, scope_value, amount, now_ms, about):
                message = f"{before[0].settled} {UNIT_NAMES[limit.unit]} are settled: not enough"
                raise RefusedError(409, "below_zero", message)
            ledger.flush()
        except (LedgerUnavailableError, TimeoutError) as error:
            raise RefusedError(503, "store_unavailable", str(error) or "no answer") from error
        made: dict[str, object] = {
            "limit": limit.key,
            "scope_value": scope_value,
            "amount": amount,
            "unit": UNIT_NAMES[limit.unit],
            "reason": reason,
            "operator": operator,
            "at_ms": now_ms,
        }
        self._made.append(made)
        return {**made, "settled": before[0].settled + amount, "reserved": before[0].reserved}

    def _limit(self, name: str) -> Limit:
        limits = self._sidecar.gate.generation.policy.limits
        found = [limit for limit in limits if limit.key == name]
        found = found or [limit for limit in limits if limit.rule_id == name]
        if len(found) == 1:
            return found[0]
        if found:
            keys = ", ".join(limit.key for limit in found)
            raise RefusedError(400, "ambiguous_limit", f"{name!r} has several limits: {keys}")
        raise RefusedError(404, "unknown_limit", f"the active policy has no limit {name!r}")


def _refuse_strangers(request: web.Request) -> None:
    if "Origin" in request.headers or request.headers.get("Sec-Fetch-Site", "none") != "none":
        raise RefusedError(403, "browser", "corrections are not taken from web pages")
    if not _is_loopback(request.remote):
        raise RefusedError(403, "not_local", "corrections are taken from this machine only")
    if request.content_type != "application/json":
        raise RefusedError(415, "unsupported_media_type", "send application/json")


def _is_loopback(address: str | None) -> bool:
    try:
        return ip_address(address or "").is_loopback
    except ValueError:
        return False


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        fields = orjson.loads(body) if len(body) <= MAX_BODY_BYTES else None
    except orjson.JSONDecodeError:
        fields = None
    if not isinstance(fields, dict):
        raise RefusedError(400, "invalid_request", "the body is no JSON object")
    unknown = set(fields) - FIELDS
    if unknown:
        raise RefusedError(400, "invalid_request", f"unknown: {', '.join(sorted(unknown))[:200]}")
    return fields


def _text(fields: dict[str, Any], name: str, longest: int, default: str | None = None) -> str:
    text = fields.get(name, default)
    if not isinstance(text, str) or len(text) > longest or (default is None and not text.strip()):
        raise RefusedError(400, "invalid_request", f"{name} is a text of 1 to {longest} characters")
    return text


def _amount(fields: dict[str, Any], limit: Limit) -> int:
    name, other = "amount", "amount_micro_usd"
    if limit.unit in MONEY:
        name, other = other, name
    amount = fields.get(name)
    if other in fields or type(amount) is not int or not 0 < abs(amount) <= MAX_AMOUNT:
        unit = UNIT_NAMES[limit.unit]
        message = f"{limit.key} counts {unit}: {name} is a whole number of them, not zero"
        raise RefusedError(400, "invalid_request", message)
    return amount
