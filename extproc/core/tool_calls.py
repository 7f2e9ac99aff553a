"""One HTTP request to an MCP server, from its headers to its forwarding or refusal.

    headers  -> AwaitBody | ForwardCall (GET, DELETE) | RefuseCall
    body     -> ForwardCall (whatever is no tool call) | Reserve | RefuseCall
    reserved -> ForwardCall | RefuseCall

Only calls of tools are counted, limited and paid for. They are booked in the ledger that requests
to models are booked in, under rules of their own, and dollars under the same budgets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from extproc.core import refusals
from extproc.core.callers import DERIVED_SESSION_MARK, Caller, Plan
from extproc.core.commands import AwaitBody, ForwardCall, RefuseCall, Reserve
from extproc.core.events import RequestBody, RequestHeaders, Reserved
from extproc.core.gate import LEASE_MS, MAX_IN_FLIGHT, Gate, OpenCall
from extproc.core.holds import SCOPES, Applicable, joined
from extproc.core.loop_guard import Loop, SessionKey
from extproc.core.tool_list import ToolFilter
from extproc.core.verification import caller_of, sender_of
from extproc.ledger.port import Account, Granted, Remaining
from extproc.policy.mcp_server import McpServer
from extproc.values.dialect import MCP_PREFIX
from extproc.values.limit import MONEY, Amounts, Scope
from extproc.values.refusal import Refusal, RefusalCode
from extproc.wire.error_body import rfc3339
from extproc.wire.errors import WireError
from extproc.wire.headers import check_media_type
from extproc.wire.json_rpc import (
    SESSION_HEADER,
    TOOLS_LIST,
    Message,
    check_mirrored,
    digest_of,
    parse_message,
)

MAX_PLANS = 64
"""Of one kind of caller remembered, beside those for models: an agent has some twenty tools. Names
of tools are the caller's to invent, so there must be an end."""
MAX_LISTINGS = 10_000
"""Requests for lists of tools that wait for their answers to begin. The oldest is forgotten: its
answer is cut."""
MAX_SESSION_BYTES = 128

_PREFIX = MCP_PREFIX.encode()
_SESSION = SCOPES.index(Scope.SESSION)
_NOT_NOW = (
    RefusalCode.RATE_LIMIT_EXCEEDED,
    RefusalCode.BUDGET_EXCEEDED,
    RefusalCode.LOOP_DETECTED,
    RefusalCode.STORE_UNAVAILABLE,
)
"""What a model is told as the result of its call, so that it goes on without it. Everything else is
an error of the message or of its sender."""


def is_mcp(event: RequestHeaders) -> bool:
    """Whether a request is for an MCP server."""
    return any(name == ":path" and value.startswith(_PREFIX) for name, value in event.headers)


class ToolCallMachine:
    """Decides one request. Feed it events; carry out the command that each returns."""

    __slots__ = (
        "_amounts",
        "_caller",
        "_digest",
        "_filter",
        "_gate",
        "_generation",
        "_headers",
        "_key",
        "_labels",
        "_message",
        "_now_ms",
        "_plan",
        "_remove",
        "_server",
        "request_id",
        "state",
    )

    _caller: Caller
    _filter: ToolFilter
    _headers: RequestHeaders
    _plan: Plan
    _server: McpServer
    _amounts: Amounts
    state: Literal["headers", "body", "reservation", "done"]
    _remove: Sequence[str]

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._generation = gate.generation
        self.state = "headers"
        self.request_id = ""
        self._labels = ("", "")
        self._message = Message(None, "")
        self._now_ms = 0
        self._digest: bytes | None = None
        self._key: SessionKey = ("", "", "")

    def on_headers(self, event: RequestHeaders) -> AwaitBody | ForwardCall | RefuseCall:
        """Who asks, and may they talk to this server."""
        assert self.state == "headers"
        self._headers, self._now_ms = event, event.now_ms
        generation = self._generation
        try:
            headers = generation.names.parse(event.headers)
            self.request_id = headers.request_id
            caller = caller_of(generation, headers, self._gate.kills)
            if isinstance(caller, Refusal):
                return self._refuse(caller)
            self._caller, self._remove = caller, headers.remove
            refusal = self._choose_server()
            if refusal is not None:
                return self._refuse(refusal)
            method = self._header(":method")
            if method == b"POST":
                check_media_type(self._header("content-type"), self._header("content-encoding"))
        except WireError as error:
            self.request_id = sender_of(event)[0]
            return self._refuse(error.refusal)
        if method in (b"GET", b"DELETE") and event.end_of_stream:
            return self._forward()
        if method != b"POST":
            return self._refuse(_METHOD_NOT_ALLOWED)
        if event.end_of_stream:
            return self._refuse(refusals.empty_body())
        self.state = "body"
        return AWAIT_BODY

    def on_body(self, event: RequestBody) -> Reserve | ForwardCall | RefuseCall:
        """What is said to the server, and what it counts for."""
        assert self.state == "body"
        self._now_ms = event.now_ms
        try:
            self._message = message = parse_message(event.body)
            check_mirrored(message, self._headers.headers)
        except WireError as error:
            return self._refuse(error.refusal)
        if not message.tool:
            return self._forward()
        named = message.tool in self._server.named_tools
        self._labels = (self._server.name, message.tool if named else "other")
        if not self._filter.allows(message.tool):
            return self._refuse(_TOOL_NOT_ALLOWED)
        gate = self._gate
        if len(gate.tool_calls) >= MAX_IN_FLIGHT:
            return self._refuse(refusals.TOO_MANY_IN_FLIGHT)
        self._plan = plan = self._plan_of(message.tool)
        killed = gate.kills.stops(plan.subject) if gate.kills.active else ""
        if killed:
            return self._refuse(refusals.killed(killed))
        credential = self._caller.credential
        if plan.applicable.counts_sessions and not gate.sessions.admit(
            credential.id, plan.scope_values[_SESSION], credential.max_sessions, event.now_ms
        ):
            return self._refuse(refusals.too_many_sessions(credential.max_sessions))
        loop = self._loop()
        if loop is not None:
            return self._refuse(_loop_refusal(loop, message.tool, self._server))
        cost = self._server.price_micro_usd(message.tool)
        self._amounts = (1, 0, 0, 0, cost, cost)
        self.state = "reservation"
        return Reserve(
            self.request_id + "/1",
            plan.account,
            self._amounts,
            event.now_ms + LEASE_MS,
            event.now_ms,
        )

    def on_reserved(self, event: Reserved) -> ForwardCall | RefuseCall:
        """The ledger's answer."""
        assert self.state == "reservation"
        outcome = event.outcome
        if not isinstance(outcome, Granted):
            standing = outcome.standings[0]
            estimated = self._amounts[standing.hold.limit.unit]
            return self._refuse(refusals.over_limit(standing, estimated, self._now_ms))
        call = OpenCall(self.request_id + "/1", self._amounts)
        self._gate.tool_calls[self.request_id] = call
        self._digest = None  # the call is made
        notes = (("degraded", outcome.degraded),) if outcome.degraded else ()
        return self._forward(outcome.remaining, notes)._replace(rules=self._plan.rules)

    def on_ledger_failed(self) -> RefuseCall:
        """The ledger is not there: nothing is admitted."""
        return self._refuse(refusals.LEDGER_FAILED)

    def abandon(self) -> None:
        """The caller left before the ledger answered: nothing is sent."""
        if self._digest is not None:
            self._gate.loop_guard.take_back(self._key, self._digest)
            self._digest = None

    def refuse_internal_error(self) -> RefuseCall:
        """Our own fault, found by the edge."""
        return self._refuse(refusals.INTERNAL_ERROR)

    # -- steps ------------------------------------------------------------------------------------

    def _header(self, name: str) -> bytes | None:
        return next((value for key, value in self._headers.headers if key == name), None)

    def _choose_server(self) -> Refusal | None:
        """Finds the server that the path names, if the credential may talk to it. Whether there are
        others is not told."""
        name = (self._header(":path") or b"")[len(_PREFIX) :].decode("ascii", "replace")
        server = self._generation.policy.mcp_servers.get(name)
        granted = self._caller.credential.tools
        if server is None or (granted is not None and name not in granted):
            return _UNKNOWN_SERVER
        self._server = server
        self._filter = ToolFilter(server, None if granted is None else granted[name])
        kills = self._gate.kills
        if kills.active:
            killed = kills.stops((*self._subject(""), "", name))
            return refusals.killed(killed) if killed else None
        return None

    def _subject(self, session: str) -> tuple[str, ...]:
        """Values in the order of ``MATCH_FIELDS``, up to the tool."""
        envelope = self._caller.envelope
        if session:
            envelope = envelope._replace(session_id=session)
        return (*envelope, self._caller.credential.id, "", "")

    def _session(self) -> str:
        """The caller's session; where it names none, the one that the server gave it: a new one
        costs a handshake that the server agrees to."""
        named = self._caller.envelope.session_id
        if named:
            return named
        given = self._header(SESSION_HEADER)
        if given is None or len(given) > MAX_SESSION_BYTES:
            return ""
        return DERIVED_SESSION_MARK + given.decode("ascii", "replace")

    def _plan_of(self, tool: str) -> Plan:
        """How a call is booked: found once per kind of caller and tool."""
        caller, server = self._caller, self._server
        session = self._session()
        self._key = (
            server.name,
            caller.credential.id,
            joined((caller.envelope.user_id, session)),
        )
        remembered = ("mcp", server.name, tool)
        plan = caller.plans.get(remembered)
        if plan is not None and session == caller.envelope.session_id:
            return plan
        generation, policy = self._generation, self._generation.policy
        subject = (*self._subject(session), tool, server.name)
        limits = policy.tool_limits.matching_subject(subject)
        if server.price_micro_usd(tool):
            every = policy.index.matching_subject(subject)
            limits += tuple(limit for limit in every if limit.unit in MONEY)
        applicable = Applicable(limits)
        counted = self._gate.tool_names.counted((server.name, caller.credential.id), tool)
        values = (*caller.scope_values(session, "", ""), counted, server.name)
        about = {
            "credential": caller.credential.id,
            "envelope": tuple(caller.envelope),
            "operation": "tools/call",
            "model": "",
            "target": f"{server.name}/{tool}",
            "generation": generation.number,
        }
        holds = applicable.holds(values)
        if applicable.alerts:
            self._gate.watched.add(holds)
        plan = Plan(applicable, values, Account(holds, about), (), subject)
        if session == caller.envelope.session_id and len(caller.plans) < MAX_PLANS:
            caller.plans[remembered] = plan
        return plan

    def _loop(self) -> Loop | None:
        rule, message = self._server.loop_guard, self._message
        if rule is None or rule.exempt.holds(message.tool):
            return None
        digest = digest_of(message)
        loop = self._gate.loop_guard.look(self._key, rule, digest, self._now_ms)
        if loop is None:
            self._digest = digest
        return loop

    def _forward(
        self, remaining: Sequence[Remaining] = (), notes: Sequence[tuple[str, str]] = ()
    ) -> ForwardCall:
        message, server = self._message, self._server
        is_list = message.method == TOOLS_LIST and (
            server.filters or self._filter.granted is not None
        )
        if is_list:
            listings = self._gate.listings
            listings[self.request_id] = self._filter
            if len(listings) > MAX_LISTINGS:
                del listings[next(iter(listings))]
        after_body = self.state != "headers"
        self.state = "done"
        return ForwardCall(
            server,
            is_list,
            self._labels,
            after_body,
            self._generation.number,
            "",
            remaining,
            self._remove,
            self._now_ms,
            notes,
        )

    def _refuse(self, refusal: Refusal) -> RefuseCall:
        self.abandon()
        rules = self._plan.rules if self.state == "reservation" else ""
        self.state = "done"
        message = self._message
        return RefuseCall(
            refusal,
            message.id,
            bool(message.tool) and refusal.code in _NOT_NOW,
            self._labels,
            self.request_id,
            self._generation.number,
            rules,
        )


def _loop_refusal(loop: Loop, tool: str, server: McpServer) -> Refusal:
    """The same calls again and again, with the evidence."""
    what = "This call has" if loop.period == 1 else f"These {loop.period} calls in turn have"
    message = (
        f"{what} been made {loop.repeats} times in a row with the same arguments; asking again "
        "will not tell more. Change the arguments, use another tool, or answer with what you have."
    )
    extra = (
        ("tool", tool),
        ("mcp_server", server.name),
        ("repeats", str(loop.repeats)),
        ("period", str(loop.period)),
        ("since", rfc3339(loop.since_ms)),
        ("resets_at", rfc3339(loop.ends_at_ms)),
    )
    return Refusal(RefusalCode.LOOP_DETECTED, message, extra=extra)


_METHOD_NOT_ALLOWED = Refusal(
    RefusalCode.METHOD_NOT_ALLOWED, "An MCP server takes POST, and GET and DELETE without a body."
)
_UNKNOWN_SERVER = Refusal(
    RefusalCode.UNKNOWN_MCP_SERVER, "No MCP server of this name may be used with this credential."
)
_TOOL_NOT_ALLOWED = Refusal(
    RefusalCode.TOOL_NOT_ALLOWED, "Unknown tool: tools/list names those that may be called."
)
AWAIT_BODY = AwaitBody()
