"""A later attempt of a request: priced, reserved and rewritten for its own target first.

    body     -> Reserve | SendAttempt (free operations) | Refuse
    reserved -> SendAttempt | Refuse

A refusal here is terminal: Envoy does not retry it, and no provider sees the attempt.
"""

from __future__ import annotations

from extproc.core import refusals
from extproc.core.commands import Refuse, Reserve, SendAttempt
from extproc.core.estimate import estimate_amounts
from extproc.core.events import AttemptStarted, Reserved
from extproc.core.gate import LEASE_MS, Attempt, Gate, InFlight
from extproc.core.holds import SCOPES
from extproc.ledger.port import Account, Granted
from extproc.policy.snapshot import Target
from extproc.values.dialect import Dialect
from extproc.values.limit import Amounts, Scope
from extproc.values.refusal import Refusal
from extproc.wire.errors import WireError
from extproc.wire.inference_request import InferenceRequest, parse_inference_request, rewrite

_PROVIDER_PLACE = SCOPES.index(Scope.PROVIDER)


class AttemptMachine:
    """Decides one attempt after the first."""

    __slots__ = ("_amounts", "_entry", "_event", "_gate", "_now_ms", "_request", "_target")

    _entry: InFlight
    _target: Target
    _request: InferenceRequest
    _amounts: Amounts

    def __init__(self, gate: Gate, event: AttemptStarted) -> None:
        self._gate = gate
        self._event = event
        self._now_ms = 0

    def on_body(self, body: bytes, now_ms: int) -> Reserve | Refuse:
        """The body as it left the gateway for the first attempt."""
        event = self._event
        entry = self._gate.in_flight.get(event.request_id)
        if entry is None:
            return self._refuse(refusals.INTERNAL_ERROR)
        self._entry = entry
        self._now_ms = now_ms
        dialect = entry.operation.dialect
        found = [t for t in entry.chain.targets if t.clusters.get(dialect) == event.cluster]
        if not found or event.attempt in entry.attempts:
            return self._refuse(refusals.INTERNAL_ERROR)
        self._target = target = found[0]
        try:
            self._request = parse_inference_request(entry.operation, body)
        except WireError as error:
            return self._refuse(error.refusal)
        generation = entry.generation
        self._amounts = estimate_amounts(
            self._request,
            target,
            generation.policy.default_max_output_tokens,
            self._gate.estimator,
        )
        plan = entry.plan
        if plan.applicable.counts_likely:
            self._amounts = self._gate.workflows.likely(
                plan.workflow_tag, target, self._request.body_bytes, self._amounts
            )
        values = list(plan.scope_values)
        values[_PROVIDER_PLACE] = target.provider.name
        holds = plan.applicable.holds(tuple(values), entry.overrides)
        if plan.applicable.alerts:
            self._gate.watched.add(holds)
        return Reserve(
            f"{event.request_id}/{event.attempt}",
            Account(holds, {**plan.account.about, "target": target.name}),
            self._amounts,
            now_ms + LEASE_MS,
            now_ms,
        )

    def on_reserved(self, event: Reserved) -> SendAttempt | Refuse:
        """The ledger's answer."""
        outcome = event.outcome
        entry, target = self._entry, self._target
        if not isinstance(outcome, Granted):
            standing = outcome.standings[0]
            estimated = self._amounts[standing.hold.limit.unit]
            return self._refuse(refusals.over_limit(standing, estimated, self._now_ms))
        number = self._event.attempt
        entry.attempts[number] = Attempt(
            f"{self._event.request_id}/{number}", target, self._amounts
        )
        self._gate.breakers.sent(target.name, entry.chain.breaker, self._now_ms)
        return SendAttempt(
            target,
            entry.operation,
            rewrite(self._request, target.model, None, False),
        )

    def on_ledger_failed(self) -> Refuse:
        """The ledger is not there: the attempt is not sent."""
        return self._refuse(refusals.LEDGER_FAILED)

    def refuse_internal_error(self) -> Refuse:
        """Our own fault, found by the edge."""
        return self._refuse(refusals.INTERNAL_ERROR)

    def _refuse(self, refusal: Refusal) -> Refuse:
        entry = self._gate.in_flight.get(self._event.request_id)
        dialect = entry.operation.dialect if entry else Dialect.OPENAI
        generation = (entry.generation if entry else self._gate.generation).number
        rules = entry.plan.applicable.rules if entry else ""
        return Refuse(refusal, dialect, self._event.request_id, generation, rules)
