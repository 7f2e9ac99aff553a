"""What the edge shall do, imperative. Every event is answered by exactly one of these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from extproc.core.routing import Chain
from extproc.core.waiting import Waiter
from extproc.ledger.port import Account, Hold, Remaining
from extproc.policy.mcp_server import McpServer
from extproc.policy.snapshot import Target
from extproc.values.dialect import Dialect, Operation
from extproc.values.limit import Amounts
from extproc.values.refusal import Refusal


class AwaitBody(NamedTuple):
    """The headers are in order: let Envoy buffer the body and send it."""


class Refuse(NamedTuple):
    """Answer the caller with a refusal."""

    refusal: Refusal
    dialect: Dialect
    request_id: str
    generation: int
    rules: str
    """Ids of the rules that applied, comma separated; empty before they are known."""


class Answer(NamedTuple):
    """Answer the caller with a JSON document of our own."""

    body: bytes
    request_id: str
    generation: int


class Reserve(NamedTuple):
    """Ask the ledger; its answer comes back as ``Reserved``."""

    reservation_id: str
    account: Account
    amounts: Amounts
    lease_until_ms: int
    now_ms: int


class Peek(NamedTuple):
    """Read counters; they come back as ``Peeked``."""

    holds: Sequence[Hold]
    now_ms: int


class Forward(NamedTuple):
    """Let the request go to the first target of the chain, the others as its fallbacks."""

    chain: Chain
    operation: Operation
    body: bytes
    hide_usage: bool
    """The usage chunk of the stream was asked for by us: the caller shall not see it."""
    generation: int
    rules: str
    remaining: Sequence[Remaining]
    remove_headers: Sequence[str]
    """Those that the route does not strip by itself."""
    now_ms: int
    notes: Sequence[tuple[str, str]] = ()
    """What else the answer's headers shall say: keys of ``ANSWER_HEADERS``, and values."""
    stream: bool = False
    path: str = ""
    """With query string; empty: where the target serves the operation."""
    set_headers: Sequence[tuple[str, str]] = ()


class SendAttempt(NamedTuple):
    """Let an attempt go, rewritten for its target."""

    target: Target
    operation: Operation
    body: bytes
    notes: Sequence[tuple[str, str]] = ()
    """As those of ``Forward``."""
    path: str = ""
    """With query string; empty: where the target serves the operation."""
    headers: Sequence[tuple[str, str]] = ()
    """To set."""
    remove_headers: Sequence[str] = ()
    reads_answer: bool = False
    """Its answer is to come here too."""


class Wait(NamedTuple):
    """Keep the request until the waiting room calls it, or its client leaves."""

    waiter: Waiter
    hold_ms: int
    """How long Envoy must be told to wait for the answer; 0 when it was told before."""


class Settle(NamedTuple):
    """End a reservation at its real cost."""

    reservation_id: str
    amounts: Amounts
    about: Mapping[str, object]


class Release(NamedTuple):
    """End a reservation of an attempt that provably cost nothing."""

    reservation_id: str
    reason: str


class Renew(NamedTuple):
    """Keep a reservation, and hold at least so much: its attempt is being answered."""

    reservation_id: str
    lease_until_ms: int
    at_least: Amounts


class ForwardCall(NamedTuple):
    """Let a request go to an MCP server."""

    server: McpServer
    is_list: bool
    """The answer is a list of tools, and passes the sidecar, which filters it."""
    labels: tuple[str, str]
    """Of a call, its server and tool for the metrics; else empty."""
    after_body: bool
    """What is answered was the request's body; else its headers, and it has none."""
    generation: int
    rules: str
    remaining: Sequence[Remaining]
    remove_headers: Sequence[str]
    now_ms: int
    notes: Sequence[tuple[str, str]] = ()
    """As those of ``Forward``."""


class RefuseCall(NamedTuple):
    """Answer the sender of a message to an MCP server with a refusal."""

    refusal: Refusal
    message_id: bytes | None
    """As JSON; None where it is not known."""
    as_result: bool
    """It is the result of a call of a tool, for the model to read."""
    labels: tuple[str, str]
    """As those of ``ForwardCall``."""
    request_id: str
    generation: int
    rules: str


Verdict = AwaitBody | Refuse | Answer | Forward | SendAttempt | ForwardCall | RefuseCall
"""What is answered to Envoy at once."""
Command = Verdict | Reserve | Wait
EndCommand = Settle | Release
