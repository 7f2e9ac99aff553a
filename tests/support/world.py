"""A gate with a ledger and a policy, and the loop that the edge runs: decisions without I/O."""

from __future__ import annotations

import json
from typing import Any

from gateway import KEY, base_policy, chat

from extproc.core import settlement
from extproc.core.attempt import AttemptMachine
from extproc.core.commands import AwaitBody, Forward, Reserve
from extproc.core.events import (
    AttemptFailed,
    AttemptStarted,
    Ending,
    RequestBody,
    RequestEnded,
    RequestHeaders,
    Reserved,
)
from extproc.core.gate import Gate
from extproc.core.generation import Generation
from extproc.core.queueing import QueueingMachine
from extproc.ledger.memory import MemoryLedger
from extproc.policy.compiler import compile_folder
from extproc.policy.snapshot import BreakerPolicy, PolicySnapshot

NOW = 1_790_000_000_000
POLICY = """
name: limits
type: gateway-rate-limit-config
rules:
  - {id: session, limit: {requests: 3, window: 1h}, scope: session}
  - {id: shadow, limit: {requests: 1, window: 1h}, enforce: shadow}
---
name: budgets
type: gateway-budget-config
budgets:
  - id: cheap
    scope: {metadata: {X-TFY-Project: p2}}
    ceiling_usd: 0.01
    window: daily
    on_exceed: fallback_to_cheaper
  - {id: all, ceiling_usd: 1, window: daily}
---
name: mixed
type: gateway-load-balancing-config
rules:
  - {id: dear, weight: 1, target: {provider: openai, model: gpt-4o}}
fallbacks:
  - {provider: vertex, model: gemini-2.0-flash}
  - {provider: openai, model: gpt-4o-mini}
"""


def compiled(policy: str = POLICY, generation: int = 1, **defaults: int) -> PolicySnapshot:
    """The snapshot of the base policy with another file beside it, and with other ``defaults``."""
    files = {**base_policy(), **({"more.yaml": policy} if policy else {})}
    if defaults:
        files["gateway.yaml"] += f"defaults: {json.dumps(defaults)}\n"
    encoded = {name: text.encode() for name, text in files.items()}
    snapshot = compile_folder(encoded, generation, {}, "http://127.0.0.1:9")
    assert isinstance(snapshot, PolicySnapshot), snapshot
    return snapshot


class World:
    """A gate and a ledger, and the loop that the edge runs."""

    def __init__(self, policy: str = POLICY, **defaults: int) -> None:
        self.gate = Gate(Generation(compiled(policy, **defaults)))
        self.ledger = MemoryLedger()
        self.requests = 0
        self.reservations: list[Reserve] = []
        self.extra: list[tuple[str, bytes]] = []
        """Headers added to every request."""
        self.upload_ms = 0
        """Between a request's headers and the end of its body."""

    def ask(self, body: Any = None, draw: float = 0.0, now: int = NOW, **headers: str) -> Any:
        """One request to its last command."""
        self.requests += 1
        machine = QueueingMachine(self.gate)
        pairs = [
            (":path", headers.pop("path", "/v1/chat/completions").encode()),
            ("authorization", b"Bearer " + headers.pop("key", KEY).encode()),
            ("content-type", b"application/json"),
            ("x-request-id", b"r%d" % self.requests),
            *(
                (f"x-tfy-{name.replace('_', '-')}", value.encode())
                for name, value in headers.items()
            ),
            *self.extra,
        ]
        began = now - self.upload_ms
        command: Any = machine.on_headers(RequestHeaders(pairs, False, began))
        if not isinstance(command, AwaitBody):
            return command
        content = json.dumps(chat() if body is None else body).encode()
        command = machine.on_body(RequestBody(content, now, draw))
        self.reservations = []
        return self.go_on(machine, command, now)

    def go_on(self, machine: QueueingMachine, command: Any, now: int = NOW) -> Any:
        """What comes of a command once the ledger has answered."""
        self.machine = machine
        while isinstance(command, Reserve):
            self.reservations.append(command)
            command = machine.on_reserved(Reserved(self.reserve(command), now))
        return command

    def reserve(self, command: Reserve) -> Any:
        return self.ledger.reserve(
            command.reservation_id, command.account, command.amounts, command.now_ms,
            command.lease_until_ms,
        )  # fmt: skip

    def end(self, **fields: Any) -> list[Any]:
        """The request's log entry."""
        event: dict[str, Any] = {
            "request_id": f"r{self.requests}",
            "attempts": 1,
            "ending": Ending(200),
            "usage_first": b"",
            "usage_last": b"",
            "usage_tail": b"",
            "now_ms": NOW,
            **fields,
        }
        return settlement.request_ended(self.gate, RequestEnded(**event))

    def attempt(self, first: Forward, place: int, now: int = NOW) -> Any:
        """Envoy tries the target at ``place`` of the chain next: the attempt's last command."""
        target = first.chain.targets[place]
        cluster = target.clusters[first.chain.dialect]
        event = AttemptStarted(f"r{self.requests}", place + 1, cluster)
        machine = AttemptMachine(self.gate, event)
        command: Any = machine.on_body(first.body, now)
        while isinstance(command, Reserve):
            self.reservations.append(command)
            command = machine.on_reserved(Reserved(self.reserve(command), now))
        return command

    def attempt_failed(self, number: int, ending: Ending, now: int = NOW) -> list[Any]:
        """The log entry of one attempt that failed."""
        event = AttemptFailed(f"r{self.requests}", number, ending, now)
        return settlement.attempt_failed(self.gate, event)

    def break_target(self, name: str, now: int = NOW) -> None:
        """Opens the circuit breaker of a target."""
        self.gate.breakers.failed(name, BreakerPolicy(1, 60_000, 60_000), now)


def targets(command: Forward) -> list[str]:
    """The names of the targets of a chain, in the order in which they are tried."""
    return [target.name for target in command.chain.targets]
