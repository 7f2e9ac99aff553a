"""What decisions share: the current generation, the requests in flight, and what was learned.

A gate is one sidecar's whole decision state except the ledger. It holds no clock, no socket and no
randomness: all three arrive in events.
"""

from __future__ import annotations

from dataclasses import dataclass

from extproc.core.breaker import Breakers
from extproc.core.callers import Plan
from extproc.core.estimate import Estimator
from extproc.core.generation import Generation
from extproc.core.routing import Chain
from extproc.core.sessions import Sessions
from extproc.core.watched import Watched
from extproc.core.workflows import Workflows
from extproc.ledger.port import Hold
from extproc.policy.snapshot import Target
from extproc.values.dialect import Operation
from extproc.values.limit import Amounts

MAX_IN_FLIGHT = 50_000
"""Requests remembered between admission and settlement, about 1 KB each, without their bodies.
Envoy holds far fewer connections; the rest are waiting for a lost access-log entry until their
lease ends."""

LEASE_MS = 900_000
"""How long a reservation waits for its settlement before it is charged in full. Three times the
route's idle timeout, so a stream that is alive always renews it (by heartbeat) in time."""


@dataclass(slots=True)
class Attempt:
    """One try at one target, reserved under ``request_id/number``."""

    reservation_id: str
    target: Target
    amounts: Amounts
    ended: bool = False


@dataclass(slots=True, eq=False)
class InFlight:
    """A request between its admission and its settlement."""

    request_id: str
    generation: Generation
    operation: Operation
    body_bytes: int
    chain: Chain
    plan: Plan
    overrides: dict[str, Hold] | None
    """What a fallback moved, by limit key: later attempts are booked there too."""
    attempts: dict[int, Attempt]
    """By Envoy's count, from 1."""
    over: bool = False
    """The request's own log entry has arrived; attempts may still wait for theirs."""


class Gate:
    """The decision state of one sidecar."""

    __slots__ = (
        "breakers",
        "estimator",
        "generation",
        "in_flight",
        "sessions",
        "watched",
        "workflows",
    )

    def __init__(self, generation: Generation) -> None:
        self.generation = generation
        self.breakers = Breakers()
        self.estimator = Estimator()
        self.sessions = Sessions()
        self.watched = Watched()
        self.workflows = Workflows()
        self.in_flight: dict[str, InFlight] = {}

    def enter(self, generation: Generation) -> None:
        """Takes a new policy generation for requests that begin from now on."""
        assert generation.number > self.generation.number, "generations only grow"
        self.generation = generation

    def forget(self, reservation_id: str) -> None:
        """A reservation ended by its lease: its request no longer waits for a log entry."""
        request_id, _, number = reservation_id.rpartition("/")
        entry = self.in_flight.get(request_id)
        if entry is None:
            return
        attempt = entry.attempts.get(int(number))
        if attempt is not None:
            attempt.ended = True
        if all(attempt.ended for attempt in entry.attempts.values()):
            del self.in_flight[request_id]
