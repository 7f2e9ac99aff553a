"""What decisions share: the current generation, the requests in flight, and what was learned.

A gate is one sidecar's whole decision state except the ledger. It holds no clock, no socket and no
randomness: all three arrive in events.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from extproc.core.affinity import Affinity
from extproc.core.breaker import Breakers
from extproc.core.callers import Caller, Plan
from extproc.core.estimate import Estimator
from extproc.core.generation import Generation
from extproc.core.kill_switch import KillSwitch
from extproc.core.latency import Latencies
from extproc.core.loop_guard import LoopGuard
from extproc.core.routing import Chain
from extproc.core.sessions import Sessions
from extproc.core.tool_list import ToolFilter
from extproc.core.tool_names import ToolNames
from extproc.core.velocity import Counted, Velocity
from extproc.core.waiting import WaitingRoom
from extproc.core.watched import Watched
from extproc.core.workflows import Workflows
from extproc.dialects.codec import AnswerTranslation
from extproc.ledger.port import Hold
from extproc.policy.snapshot import Kill, Target
from extproc.values.dialect import Operation
from extproc.values.limit import Amounts
from extproc.wire.usage import Reported

MAX_IN_FLIGHT = 50_000
"""Requests remembered between admission and settlement, about 1 KB each, beside the bodies below.
Envoy holds far fewer connections; the rest are waiting for a lost access-log entry until their
lease ends."""

MAX_KEPT_BYTES = 256 * 1024 * 1024
"""Of bodies kept for a next target, each until a target answers; Envoy keeps as much of the same
requests. With no room for its body a request goes without fallbacks."""
MAX_KEPT_BYTES_EACH = MAX_KEPT_BYTES // 4
"""Of them, of one credential: two of the largest bodies, or dozens of an agent's."""

LEASE_MS = 900_000
"""How long a reservation waits for its settlement before it is charged in full. Three times the
route's idle timeout, so a stream that is alive always renews it (by heartbeat) in time."""


class Attempt:
    """One try at one target, reserved under ``request_id/number``."""

    # Not a dataclass, as what follows: those are made by interpreted code, 4,000 instructions each.
    __slots__ = (
        "amounts",
        "answered",
        "counted",
        "ended",
        "first_token_us",
        "given_up",
        "reported",
        "reservation_id",
        "staged",
        "target",
        "translated",
        "translation",
    )

    def __init__(
        self,
        reservation_id: str,
        target: Target,
        amounts: Amounts,
        counted: Sequence[Counted] = (),
    ) -> None:
        self.reservation_id = reservation_id
        self.target = target
        self.amounts = amounts
        self.ended = False
        self.counted = counted
        """What the attempt counts for in velocity breakers."""
        self.translated = False
        """Its answer is read where it is translated, and not by Envoy."""
        self.translation: AnswerTranslation | None = None
        """What makes its answer the caller's, on the answer's way out."""
        self.answered = False
        """The provider began an answer there, which it may bill whatever the client got."""
        self.reported: Reported | None = None
        """What the provider said it used, where it was read there, and as its last word."""
        self.staged = False
        """It was made ready on its way out, which happens once."""
        self.first_token_us = 0
        """From its sending, where the first token was waited for; else unknown."""
        self.given_up = False
        """It had not begun to answer in time: the provider may bill what nobody waited for."""


class InFlight:
    """A request between its admission and its settlement."""

    __slots__ = (
        "attempts",
        "body_bytes",
        "caller",
        "chain",
        "changed",
        "generation",
        "injected_maximum",
        "kept_body",
        "operation",
        "over",
        "overrides",
        "plan",
        "request_id",
        "said_dropped",
        "sent_headers",
        "written_bytes",
    )

    def __init__(
        self,
        request_id: str,
        generation: Generation,
        operation: Operation,
        body_bytes: int,
        written_bytes: int,
        chain: Chain,
        plan: Plan,
        overrides: dict[str, Hold] | None,
        attempts: dict[int, Attempt],
        caller: Caller,
        injected_maximum: bool,
    ) -> None:
        self.request_id = request_id
        self.generation = generation
        self.operation = operation
        self.body_bytes = body_bytes
        self.written_bytes = written_bytes
        """As the request knew it: ``InferenceRequest.written_bytes``."""
        self.chain = chain
        self.plan = plan
        self.overrides = overrides
        """What a fallback moved, by limit key: later attempts are booked there too."""
        self.attempts = attempts
        """By Envoy's count, from 1."""
        self.caller = caller
        self.injected_maximum = injected_maximum
        """The body names an output maximum that the caller did not: its field follows the
        target."""
        self.sent_headers: dict[str, str | None] | None = None
        """What attempts so far set or removed, as it was before: None where there was none. Envoy
        keeps such changes from one attempt to the next."""
        self.changed = False
        """The body left the gateway as the first target takes it."""
        self.kept_body: bytes | None = None
        """Where it did, and another target may follow: the body as its attempt begins with it."""
        self.said_dropped = False
        """The answer's headers were told that something was left out for a target."""
        self.over = False
        """The request's own log entry has arrived; attempts may still wait for theirs."""


@dataclass(slots=True, eq=False)
class OpenCall:
    """A call of a tool between its admission and its settlement: one attempt, never another."""

    reservation_id: str
    amounts: Amounts


class Gate:
    """The decision state of one sidecar."""

    __slots__ = (
        "_kept_bytes_of",
        "_silent_since_ms",
        "affinity",
        "breakers",
        "estimator",
        "generation",
        "in_flight",
        "kept_bytes",
        "kills",
        "latencies",
        "listings",
        "loop_guard",
        "sessions",
        "tokens",
        "tool_calls",
        "tool_names",
        "velocity",
        "waiting",
        "watched",
        "workflows",
    )

    def __init__(self, generation: Generation) -> None:
        self.generation = generation
        self.breakers = Breakers()
        self.estimator = Estimator()
        self.latencies = Latencies()
        self.affinity = Affinity()
        self.sessions = Sessions()
        self.velocity = Velocity()
        self.kills = KillSwitch()
        self.waiting = WaitingRoom()
        self.watched = Watched()
        self.workflows = Workflows()
        self.in_flight: dict[str, InFlight] = {}
        self.kept_bytes = 0
        """Of bodies kept for next targets."""
        self._kept_bytes_of: dict[str, int] = {}
        """By credential; those that have any."""
        self.tool_calls: dict[str, OpenCall] = {}
        self.tool_names = ToolNames()
        self.loop_guard = LoopGuard()
        self.listings: dict[str, ToolFilter] = {}
        """Of requests for lists of tools, until their answers come: which tools stay in them."""
        self.tokens: frozenset[str] = frozenset()
        """Google key files that have a token: without one a provider can be asked nothing."""
        self.kills.set_policy(generation.policy.kills)
        self._stop_targets()
        self._silent_since_ms: dict[str, int] = {}
        """Requests whose attempts have all ended, by when the last one did, oldest first. Another
        attempt may follow, or their own log entry; or Envoy died and neither ever comes."""

    def enter(self, generation: Generation) -> None:
        """Takes a new policy generation for requests that begin from now on."""
        assert generation.number > self.generation.number, "generations only grow"
        self.generation = generation
        self.kills.set_policy(generation.policy.kills)
        self._stop_targets()

    def kill(self, kills: Iterable[Kill]) -> None:
        """Takes what operators have stopped, as a whole; requests and attempts that begin from now
        on obey."""
        self.kills.set_operators(kills)
        self._stop_targets()

    def know_tokens(self, key_files: frozenset[str]) -> None:
        """Takes which Google key files have a token, as a whole."""
        if key_files != self.tokens:
            self.tokens = key_files
            self._stop_targets()

    def _stop_targets(self) -> None:
        """Chains are drawn without killed targets, and without those that have no credential, as
        without those that fail."""
        kills, tokens = self.kills, {"", *self.tokens}
        self.breakers.unkeyed = frozenset(
            target.name
            for model in self.generation.policy.virtual_models.values()
            for target in model.all_targets
            if _needs_token(target) not in tokens
        )
        self.breakers.stopped = frozenset(
            target.name
            for model in self.generation.policy.virtual_models.values()
            for target in model.all_targets
            if kills.active and kills.stops_target(target)
        )

    def forget(self, reservation_id: str) -> None:
        """A reservation ended by its lease: its request no longer waits for a log entry."""
        request_id, _, number = reservation_id.rpartition("/")
        entry = self.in_flight.get(request_id)
        if entry is None:
            self.tool_calls.pop(request_id, None)
            return
        attempt = entry.attempts.get(int(number))
        if attempt is not None:
            attempt.ended = True
        if all(attempt.ended for attempt in entry.attempts.values()):
            self.drop(request_id)

    def drop(self, request_id: str) -> None:
        """Nothing more is awaited of the request."""
        self.let_go(self.in_flight.pop(request_id))
        if self._silent_since_ms:
            self._silent_since_ms.pop(request_id, None)

    def keep(self, entry: InFlight, body: bytes) -> bool:
        """Keeps a body for the request's next target; False if there is no room for it."""
        credential, size = entry.caller.credential.id, len(body)
        of_credential = self._kept_bytes_of.get(credential, 0) + size
        if self.kept_bytes + size > MAX_KEPT_BYTES or of_credential > MAX_KEPT_BYTES_EACH:
            return False
        entry.kept_body = body
        self.kept_bytes += size
        self._kept_bytes_of[credential] = of_credential
        return True

    def let_go(self, entry: InFlight) -> None:
        """No other target will be asked: one answers, or the request is over."""
        if entry.kept_body is None:
            return
        credential, size = entry.caller.credential.id, len(entry.kept_body)
        entry.kept_body = None
        self.kept_bytes -= size
        of_credential = self._kept_bytes_of.pop(credential) - size
        if of_credential:
            self._kept_bytes_of[credential] = of_credential

    def falls_silent(self, request_id: str, now_ms: int) -> None:
        """Nothing of the request is reserved any more, and it is not known to be over."""
        self._silent_since_ms.pop(request_id, None)
        self._silent_since_ms[request_id] = now_ms

    def forget_silent(self, now_ms: int) -> None:
        """Lets requests go that have been silent for as long as a lease: no reservation is left
        whose end would remove them."""
        silent = self._silent_since_ms
        while silent:
            request_id, since_ms = next(iter(silent.items()))
            if since_ms + LEASE_MS > now_ms:
                return
            del silent[request_id]
            entry = self.in_flight.get(request_id)
            if entry is not None and all(attempt.ended for attempt in entry.attempts.values()):
                self.let_go(self.in_flight.pop(request_id))


def _needs_token(target: Target) -> str:
    """The Google key file whose token a target is asked with; empty for other targets."""
    credential = target.provider.credential
    return credential.name if credential is not None and credential.kind == "google" else ""
