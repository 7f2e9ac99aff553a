"""``/kill-switch`` of the admin API: who must not spend, told and changed.

The console has no password: it listens on loopback. What a browser could be talked into sending
from another page is refused: a change needs a JSON content type, which no plain form has, an origin
that is this console, and a host that is no public name somebody pointed at 127.0.0.1.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import urlsplit

import msgspec
import orjson
from aiohttp import web

from extproc.core.gate import Gate
from extproc.edge.kill_board import KillBoard, Order, TooManyKillsError
from extproc.edge.notices import Notify, kill_notice
from extproc.policy.kill_documents import MAX_REASON_CHARACTERS, is_kill_value, is_named
from extproc.policy.matching import MATCH_FIELDS
from extproc.wire.error_body import rfc3339

PATH = "/kill-switch"

Json = dict[str, object]


class _Change(msgspec.Struct, forbid_unknown_fields=True):
    field: str
    value: str
    reason: str = ""


class KillApi:
    """The handlers of ``/kill-switch``."""

    def __init__(self, board: KillBoard, gate: Gate, notify: Callable[[], Notify]) -> None:
        self._board = board
        self._gate = gate
        self._notify = notify

    def add_to(self, application: web.Application) -> None:
        """Adds the routes."""
        application.router.add_get(PATH, self._list)
        application.router.add_post(PATH, self._changing(self._kill))
        application.router.add_delete(PATH, self._changing(self._revive))

    async def _list(self, _: web.Request) -> web.Response:
        by_policy: list[Json] = [
            {"field": kill.field, "value": kill.value, "reason": kill.reason, "by": "policy"}
            for kill in self._gate.kills.by_policy
        ]
        return _answer(200, {"killed": by_policy + [_shown(one) for one in self._board.killed]})

    async def _kill(self, change: _Change) -> web.Response:
        try:
            order = await self._board.kill(change.field, change.value, change.reason)
        except TooManyKillsError:
            return _problem(409, "too many values are stopped; put them into the policy")
        except OSError as error:
            return _problem(
                500, f"in effect, but only until the next restart: {error.strerror or error}"
            )
        self._notify()(kill_notice(*order[:3], True, order.at_ms), ())
        known = is_named(self._gate.generation.policy, order.field, order.value)
        return _answer(200, {**_shown(order), "known": known})

    async def _revive(self, change: _Change) -> web.Response:
        try:
            order = await self._board.revive(change.field, change.value)
        except OSError as error:
            return _problem(500, f"it stays stopped: {error.strerror or error}")
        if order is None:
            policy = any(
                (kill.field, kill.value) == (change.field, change.value)
                for kill in self._gate.kills.by_policy
            )
            where = "it is stopped by policy" if policy else "it is not stopped"
            return _problem(404, where)
        self._notify()(kill_notice(*order[:3], False, order.at_ms), ())
        return _answer(200, {"field": change.field, "value": change.value})

    def _changing(
        self, handler: Callable[[_Change], Awaitable[web.Response]]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            if request.content_type != "application/json":
                return _problem(415, "the content type must be application/json")
            if not is_own_page(request.headers.get("Host", ""), request.headers):
                return _problem(403, "requests from other pages are refused")
            try:
                change = msgspec.json.decode(await request.read(), type=_Change)
            except (msgspec.MsgspecError, UnicodeError) as error:
                return _problem(400, str(error))
            problem = _what_is_wrong(change)
            return _problem(400, problem) if problem else await handler(change)

        return handle


def is_own_page(host: str, headers: Mapping[str, str]) -> bool:
    """Whether a request is not from another site's page. Programs send no ``Origin``."""
    name = urlsplit("//" + host).hostname or ""
    if not _is_local_name(name):
        return False
    if headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        return False
    origin = headers.get("Origin", "")
    return not origin or urlsplit(origin).netloc == host


def _is_local_name(name: str) -> bool:
    """An address, or a name without dots: nobody can make a public name resolve to us."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return bool(name) and "." not in name
    return True


def _what_is_wrong(change: _Change) -> str:
    if change.field not in MATCH_FIELDS:
        return f"field must be one of {', '.join(MATCH_FIELDS)}"
    if not is_kill_value(change.value):
        return f"value is no value of {change.field}"
    if len(change.reason) > MAX_REASON_CHARACTERS:
        return f"reason is longer than {MAX_REASON_CHARACTERS} characters"
    return ""


def _shown(order: Order) -> Json:
    return {
        "field": order.field,
        "value": order.value,
        "reason": order.reason,
        "by": "console",
        "since": rfc3339(order.at_ms),
    }


def _problem(status: int, text: str) -> web.Response:
    return _answer(status, {"error": text})


def _answer(status: int, document: Json) -> web.Response:
    body = orjson.dumps(document, option=orjson.OPT_INDENT_2)
    return web.Response(status=status, body=body, content_type="application/json")
