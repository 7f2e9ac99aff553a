"""Local stand-ins for those whom alerts go to. They check what they get as the real ones do."""

from __future__ import annotations

import asyncio
import datetime
import json
import socket
import threading
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from aiohttp import web
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, Envelope, LoginPassword
from certificates import server_context

SLACK_TOKEN = "xoxb-canary-bot-token"
ROUTING_KEY = "canary0routing0key0of0thirty0two"


class Request(NamedTuple):
    """One request that was received."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Answer(NamedTuple):
    """What is answered instead of the usual; ``hang_s`` before it."""

    status: int = 500
    body: bytes = b""
    headers: Mapping[str, str] = MappingProxyType({})
    hang_s: float = 0.0


class Receiver:
    """An HTTP server in a thread of its own. ``script`` holds answers that come first."""

    def __init__(self, answer: Callable[[Request], Answer], tls: Path | None = None) -> None:
        self.requests: list[Request] = []
        self.script: deque[Answer] = deque()
        self.refuse_all: Answer | None = None
        self._answer = answer
        self._tls = tls
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.port = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"

    async def _start(self) -> int:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._receive)
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        context = server_context(self._tls) if self._tls else None
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=context).start()
        return self._runner.addresses[0][1]

    async def _receive(self, raw: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in raw.headers.items()}
        request = Request(raw.path, headers, await raw.read())
        self.requests.append(request)
        scripted = self.script.popleft() if self.script else self.refuse_all
        answer = scripted or self._answer(request)
        if answer.hang_s:
            await asyncio.sleep(answer.hang_s)
        return web.Response(
            status=answer.status,
            body=answer.body,
            headers={"content-type": "application/json", **answer.headers},
        )

    def close(self) -> None:
        async def end() -> None:
            await self._runner.cleanup()

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


# -- Slack ----------------------------------------------------------------------------------------


def slack(request: Request) -> Answer:
    """An incoming webhook at ``/services/...``, and the Web API at ``/api/``."""
    problem = slack_problem(request)
    if request.path.startswith("/services/"):
        return Answer(400, problem.encode()) if problem else Answer(200, b"ok")
    if request.path != "/api/chat.postMessage":
        return _api({"ok": False, "error": "unknown_method"})
    if request.headers.get("authorization") != f"Bearer {SLACK_TOKEN}":
        return _api({"ok": False, "error": "invalid_auth"})
    channel = request.json.get("channel", "")
    if not channel.startswith("#") or channel == "#nowhere":
        return _api({"ok": False, "error": "channel_not_found"})
    if problem:
        return _api({"ok": False, "error": problem})
    return _api({"ok": True, "channel": "C1", "ts": "1.2", "message": {"text": "x"}})


def _api(body: dict[str, Any]) -> Answer:
    return Answer(200, json.dumps(body).encode())


def slack_problem(request: Request) -> str:
    """Slack's rules for a message with blocks (docs.slack.dev, reference of Block Kit)."""
    if not request.headers.get("content-type", "").startswith("application/json"):
        return "invalid_content_type"
    body = request.json
    if not isinstance(body.get("text"), str) or not body["text"]:
        return "no_text"
    blocks = body.get("blocks")
    if not isinstance(blocks, list) or not 1 <= len(blocks) <= 50:
        return "invalid_blocks"
    for block in blocks:
        kind = block.get("type")
        if kind == "header":
            text = block["text"]
            good = text["type"] == "plain_text" and 1 <= len(text["text"]) <= 150
        elif kind == "section":
            fields = block.get("fields", [])
            good = 1 <= len(fields) <= 10 and all(_is_text(field, 2_000) for field in fields)
        elif kind == "context":
            elements = block["elements"]
            good = 1 <= len(elements) <= 10 and all(_is_text(e, 3_000) for e in elements)
        else:
            good = False
        if not good:
            return "invalid_blocks"
    return ""


def _is_text(text: dict[str, Any], most: int) -> bool:
    return text["type"] in ("mrkdwn", "plain_text") and 1 <= len(text["text"]) <= most


# -- PagerDuty ------------------------------------------------------------------------------------


def pagerduty(request: Request) -> Answer:
    """The Events API v2."""
    problems = pagerduty_problems(request)
    if problems:
        body = {"status": "invalid event", "message": "Event object is invalid", "errors": problems}
        return Answer(400, json.dumps(body).encode())
    key = request.json.get("dedup_key", "made-up")
    body = {"status": "success", "message": "Event processed", "dedup_key": key}
    return Answer(202, json.dumps(body).encode())


def pagerduty_problems(request: Request) -> list[str]:
    """PagerDuty's rules for an event (developer.pagerduty.com, Events API v2)."""
    if request.path != "/v2/enqueue":
        return ["no such path"]
    body = request.json
    problems = []
    if body.get("routing_key") != ROUTING_KEY:
        problems.append("'routing_key' is missing or invalid")
    action = body.get("event_action")
    if action not in ("trigger", "acknowledge", "resolve"):
        problems.append("'event_action' is invalid")
    if not 1 <= len(body.get("dedup_key", "")) <= 255:
        problems.append("'dedup_key' is missing or too long")
    if action == "trigger":
        payload = body.get("payload", {})
        if not 1 <= len(payload.get("summary", "")) <= 1024:
            problems.append("'payload.summary' is missing or too long")
        if not payload.get("source"):
            problems.append("'payload.source' is missing")
        if payload.get("severity") not in ("info", "warning", "error", "critical"):
            problems.append("'payload.severity' is invalid")
        datetime.datetime.fromisoformat(payload["timestamp"])
        if not isinstance(payload.get("custom_details"), dict):
            problems.append("'payload.custom_details' is invalid")
    return problems


# -- mail -----------------------------------------------------------------------------------------


class MailServer:
    """A mail server. With a certificate it takes no mail without STARTTLS, or speaks TLS at once;
    with a password it takes none without that."""

    def __init__(
        self, certificate: Path | None = None, password: str = "", *, implicit_tls: bool = False
    ) -> None:
        self.mails: list[Envelope] = []
        self.script: deque[str] = deque()
        self.encrypted: list[bool] = []
        context = server_context(certificate) if certificate else None
        self._password = password
        settings: dict[str, Any] = {}
        if context is not None and implicit_tls:
            settings["ssl_context"] = context
        elif context is not None:
            settings |= {"tls_context": context, "require_starttls": True}
        if password:
            settings |= {"authenticator": self._check, "auth_required": True}
            settings["auth_require_tls"] = not implicit_tls
        # The controller connects to the port that it was told: it cannot be 0.
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            self.port = taken.getsockname()[1]
        self._controller = Controller(self, hostname="127.0.0.1", port=self.port, **settings)
        self._controller.start()

    def _check(self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> Any:
        good = isinstance(data, LoginPassword) and data.password == self._password.encode()
        return AuthResult(success=good, handled=False)

    async def handle_RCPT(self, server, session, envelope, address, options) -> str:
        if address.startswith("nobody"):
            return "550 no such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Envelope) -> str:
        if self.script:
            return self.script.popleft()
        self.encrypted.append(server.transport.get_extra_info("ssl_object") is not None)
        self.mails.append(envelope)
        return "250 OK"

    def close(self) -> None:
        self._controller.stop()
