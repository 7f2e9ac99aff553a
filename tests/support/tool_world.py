"""Calls of tools against a gate and a ledger, without I/O."""

from __future__ import annotations

import json
from typing import Any

from gateway import KEY
from world import NOW, compiled

from extproc.core import settlement
from extproc.core.commands import AwaitBody, Release, Reserve, Settle
from extproc.core.events import Ending, RequestBody, RequestEnded, RequestHeaders, Reserved
from extproc.core.gate import Gate
from extproc.core.generation import Generation
from extproc.core.tool_calls import ToolCallMachine
from extproc.ledger.memory import MemoryLedger
from extproc.ledger.port import Hold

POLICY = """
name: mcp
type: gateway-config
mcp_servers:
  docs:
    url: http://tools.invalid/mcp
    tools: {allow: [search, "read_*", status, buy], deny: [read_secret]}
    usd_per_call: {buy: 0.40}
    loop_guard: {repeats: 3, window: 10m, exempt: [status]}
  open: {url: "https://open.invalid:9000/a/b"}
---
name: tools
type: gateway-rate-limit-config
rules:
  - {id: session, limit: {tool_calls: 6, window: 1h}, scope: session}
  - {id: reads, when: {tools: ["read_*"]}, limit: {tool_calls: 2, window: 1h}, scope: tool}
  - {id: both, limit: {requests: 100, tool_calls: 100, window: 1h}, scope: credential}
---
name: money
type: gateway-budget-config
budgets:
  - {id: all, ceiling_usd: 1, window: daily}
"""


class ToolWorld:
    """One gateway's decisions on messages to MCP servers."""

    def __init__(self, policy: str = POLICY) -> None:
        self.gate = Gate(Generation(compiled(policy)))
        self.ledger = MemoryLedger()
        self.requests = 0
        self.holds: dict[tuple[str, str], Hold] = {}
        """Every counter that a call was booked on."""

    def send(
        self,
        body: Any,
        path: str = "/mcp/docs",
        method: str = "POST",
        now: int = NOW,
        **headers: str,
    ) -> Any:
        """One request to its last command."""
        self.requests += 1
        machine = ToolCallMachine(self.gate)
        pairs = [
            (":method", method.encode()),
            (":path", path.encode()),
            ("authorization", b"Bearer " + headers.pop("key", KEY).encode()),
            ("content-type", b"application/json"),
            ("x-request-id", b"r%d" % self.requests),
            *((name.replace("_", "-"), value.encode()) for name, value in headers.items()),
        ]
        command: Any = machine.on_headers(RequestHeaders(pairs, body is None, now))
        if not isinstance(command, AwaitBody):
            return command
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        command = machine.on_body(RequestBody(data, now, 0.0))
        if isinstance(command, Reserve):
            self.reserved = command
            self.holds |= {(h.limit.key, h.scope_value): h for h in command.account.holds}
            outcome = self.ledger.reserve(
                command.reservation_id, command.account, command.amounts, now,
                command.lease_until_ms,
            )  # fmt: skip
            command = machine.on_reserved(Reserved(outcome, now))
        return command

    def call(self, tool: str = "search", **more: Any) -> Any:
        """One call of a tool."""
        params = {"name": tool, "arguments": more.pop("arguments", {"n": self.requests})}
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        return self.send(body, **more)

    def end(self, ending: Ending, attempts: int = 1, now: int = NOW) -> list[Any]:
        """The last request's log entry, carried out."""
        event = RequestEnded(f"r{self.requests}", attempts, ending, b"", b"", b"", now)
        commands = settlement.request_ended(self.gate, event)
        for command in commands:
            if isinstance(command, Settle):
                self.ledger.settle(command.reservation_id, command.amounts, now, command.about)
            elif isinstance(command, Release):
                self.ledger.release(command.reservation_id, now, command.reason)
        return commands

    def counters(self) -> dict[str, tuple[int, int]]:
        """Settled and reserved by limit."""
        found: dict[str, tuple[int, int]] = {}
        for standing in self.ledger.peek(list(self.holds.values()), NOW):
            key = standing.hold.limit.key
            before = found.get(key, (0, 0))
            found[key] = (before[0] + standing.settled, before[1] + standing.reserved)
        return found
