"""A later attempt of a request: priced, reserved and rewritten for its own target first.

    body     -> Reserve | SendAttempt (the first, where its first token is waited for) | Refuse
    reserved -> SendAttempt | Reserve (clamped) | Refuse
    late     -> Refuse | None (another target may answer)

A refusal here is terminal: Envoy does not retry it, and no provider sees the attempt.
"""

from __future__ import annotations

from extproc.core import refusals
from extproc.core.answer_passage import AnswerPassage
from extproc.core.breach import fitted
from extproc.core.clamp import MAX_CLAMPS, clamped, floor_tokens, with_maximum
from extproc.core.commands import Refuse, Reserve, SendAttempt
from extproc.core.context import outgrows_context
from extproc.core.estimate import estimate_amounts, likely_micro_usd, output_bound_tokens
from extproc.core.events import AttemptStarted, Reserved
from extproc.core.first_token import FirstToken
from extproc.core.gate import LEASE_MS, Attempt, Gate, InFlight
from extproc.core.holds import ScopeValues, scope_key
from extproc.core.outgoing import callers_headers, outgoing
from extproc.core.translated import edits_at, refusal_of
from extproc.core.velocity import Counted, TooFast
from extproc.dialects.conversation import UntranslatableError
from extproc.ledger.port import Account, Denied, Granted
from extproc.policy.snapshot import Target
from extproc.values.dialect import Dialect, Operation
from extproc.values.limit import NOTHING, Amounts
from extproc.values.refusal import Refusal
from extproc.wire.errors import WireError
from extproc.wire.inference_request import (
    InferenceRequest,
    parse_inference_request,
    renamed_maximum,
    rewrite,
)


class AttemptMachine:
    """Decides one attempt after the first, and the first where its first token is waited for."""

    __slots__ = (
        "_account",
        "_amounts",
        "_arrived",
        "_clamps",
        "_counted",
        "_counts_likely",
        "_entry",
        "_event",
        "_gate",
        "_now_ms",
        "_request",
        "_target",
        "_whole",
        "answer",
    )

    answer: AnswerPassage | None
    """Set with a ``SendAttempt`` whose answer comes here too, until its first token."""
    _entry: InFlight
    _target: Target
    _account: Account
    _arrived: InferenceRequest
    _whole: InferenceRequest
    """As it arrived, with a maximum where one is needed."""
    _request: InferenceRequest
    _amounts: Amounts

    def __init__(self, gate: Gate, event: AttemptStarted) -> None:
        self._gate = gate
        self._event = event
        self._now_ms = 0
        self._clamps = 0
        self.answer = None
        self._counts_likely = False
        self._counted: list[Counted] = []

    def on_body(self, body: bytes, now_ms: int) -> Reserve | SendAttempt | Refuse:
        """The body as it left the gateway for the first attempt, with that one's maximum; it is not
        looked at where the first target's API changed it."""
        event = self._event
        entry = self._gate.in_flight.get(event.request_id)
        if entry is None:
            return self._refuse(refusals.INTERNAL_ERROR)
        if entry.changed:
            # What Envoy has is the first target's.
            if entry.kept_body is None:
                return self._refuse(refusals.INTERNAL_ERROR)
            body = entry.kept_body
        self._entry = entry
        self._now_ms = now_ms
        operation = entry.operation
        found = [t for t in entry.chain.targets if t.clusters.get(operation) == event.cluster]
        if not found:
            return self._refuse(refusals.INTERNAL_ERROR)
        self._target = target = found[0]
        first = entry.attempts.get(event.attempt)
        if first is not None:
            if event.attempt != 1 or first.target is not target or first.staged:
                return self._refuse(refusals.INTERNAL_ERROR)
            # Reserved and rewritten when the request was admitted.
            return self._sent(first, body, ())
        try:
            request = self._parsed(body)
        except WireError as error:
            return self._refuse(error.refusal)
        self._arrived = request
        caller, generation, plan = entry.caller, entry.generation, entry.plan
        kills = self._gate.kills
        if kills.active:
            killed = kills.stops_request(plan.subject, target, request)
            if killed:
                return self._refuse(refusals.killed(killed))
        if operation.free:
            free = Attempt(f"{event.request_id}/{event.attempt}", target, NOTHING)
            return self._sent(free, rewrite(request, target.model, None, False), ())
        # As the caller named it: the body names the model of the first target.
        model = str(plan.account.about["model"])
        # Some limits may be those of this attempt's own provider.
        provider = target.provider.name
        applicable = generation.applicable(caller.envelope, caller.credential, model, provider)
        self._counts_likely = applicable.counts_likely
        if applicable.bounds_money and self._is_unbounded(request):
            return self._refuse(refusals.unbounded(request))
        if applicable.watches_money and request.generates and request.max_output_tokens is None:
            # No limit on the first provider counted dollars, one on this provider does.
            request = with_maximum(request, self._bound_tokens(request))
        self._whole = request
        self._request = fitted(request, target, self._floor(request))
        values = caller.scope_values(plan.session, model, provider)
        if plan.metered:
            self._amounts = self._estimate(self._request)
            refusal = self._too_fast(values)
            if refusal is not None:
                return self._refuse(refusal)
        holds = applicable.holds(values, entry.overrides)
        if applicable.alerts:
            self._gate.watched.add(holds)
        self._account = Account(holds, {**entry.plan.account.about, "target": target.name})
        return self._reserve()

    def on_reserved(self, event: Reserved) -> SendAttempt | Reserve | Refuse:
        """The ledger's answer."""
        outcome = event.outcome
        if isinstance(outcome, Granted):
            return self._send()
        shorter = self._clamped(outcome)
        if shorter is not None:
            self._request = shorter
            return self._reserve()
        standing = outcome.standings[0]
        estimated = self._amounts[standing.hold.limit.unit]
        return self._refuse(refusals.over_limit(standing, estimated, self._now_ms))

    def _parsed(self, body: bytes) -> InferenceRequest:
        """The request, its injected maximum in the field that this target knows. Raises
        ``WireError``."""
        entry = self._entry
        request = parse_inference_request(entry.operation, body)
        if entry.injected_maximum:
            renamed = renamed_maximum(request, self._target.model)
            if renamed is not request.body.body:
                request = parse_inference_request(entry.operation, renamed)
        if entry.written_bytes:
            request = request._replace(written_bytes=entry.written_bytes)
        return request

    def _is_unbounded(self, request: InferenceRequest) -> bool:
        """Whether no reservation could hold what the attempt may cost."""
        target, entry = self._target, self._entry
        if request.unpriced_at(target.translated):
            return True
        # What an earlier target's policy removed comes back with this one.
        headers = callers_headers(entry, self._event.headers)
        pairs = [(name, value.encode("latin-1")) for name, value in headers.items()]
        return outgrows_context(request, pairs, target, entry.chain)

    def _reserve(self) -> Reserve:
        event = self._event
        self._amounts = self._estimate(self._request)
        return Reserve(
            f"{event.request_id}/{event.attempt}",
            self._account,
            self._amounts,
            self._now_ms + LEASE_MS,
            self._now_ms,
        )

    def _estimate(self, request: InferenceRequest) -> Amounts:
        gate, target = self._gate, self._target
        default_tokens = self._entry.generation.policy.default_max_output_tokens
        amounts = estimate_amounts(request, target, default_tokens, gate.estimator)
        if not self._counts_likely:
            return amounts
        tag = self._entry.plan.workflow_tag
        return gate.workflows.likely(tag, target, request.body_bytes, amounts)

    def _bound_tokens(self, request: InferenceRequest) -> int:
        default_tokens = self._entry.generation.policy.default_max_output_tokens
        return output_bound_tokens(request, self._target, default_tokens)

    def _floor(self, request: InferenceRequest) -> int:
        return floor_tokens(request, self._entry.generation.policy.min_output_tokens)

    def _clamped(self, denied: Denied) -> InferenceRequest | None:
        """The attempt as the remainder of the full limits can pay for it; None if it cannot."""
        if self._clamps >= MAX_CLAMPS:
            return None
        self._clamps += 1
        request = self._request
        bound, floor = self._bound_tokens(request), self._floor(request)
        return clamped(request, bound, floor, denied.standings, self._estimate)

    def _send(self) -> SendAttempt | Refuse:
        entry, target, request = self._entry, self._target, self._request
        number = self._event.attempt
        attempt = entry.attempts[number] = Attempt(
            f"{self._event.request_id}/{number}", target, self._amounts, counted=self._counted
        )
        self._counted = []  # the attempt's own from here on
        self._gate.breakers.sent(target.name, entry.chain.breaker, self._now_ms)
        maximum = None if request is self._arrived else request.max_output_tokens
        edits, dropped = edits_at(request, target)
        notes: tuple[tuple[str, str], ...] = ()
        if request is not self._whole:
            notes = (("clamped", f"max_tokens={maximum}"),)
        if dropped:
            notes = (*notes, ("dropped", ",".join(dropped)))
        return self._sent(attempt, rewrite(request, target.model, maximum, False, edits), notes)

    def _sent(
        self, attempt: Attempt, body: bytes, notes: tuple[tuple[str, str], ...]
    ) -> SendAttempt | Refuse:
        """The attempt as its target takes it."""
        operation, target = self._entry.operation, attempt.target
        attempt.staged = True
        try:
            waits = target.first_token_timeout_ms > 0 and _streams(operation, body)
            sent = outgoing(self._entry, attempt, body, self._event.headers, self._now_ms)
        except (UntranslatableError, WireError) as error:
            # Admission asked the translators; overrides it asks of the first target only.
            return self._refuse(refusal_of(error))
        if sent.dropped:
            notes = (*notes, ("dropped", sent.dropped))
        if any(key == "dropped" for key, _ in notes):
            self._entry.said_dropped = True
        elif self._entry.said_dropped:
            # What an earlier target lacked is no word about this one.
            notes = (*notes, ("dropped", ""))
        if target.first_token_timeout_ms:
            translation = sent.translation
            reading = translation.another_reader() if waits and translation is not None else None
            token = FirstToken(operation) if waits else None
            deadline_ms = self._now_ms + target.first_token_timeout_ms if waits else 0
            self.answer = AnswerPassage(attempt, reading, token, self._now_ms, deadline_ms)
        reads_answer = self.answer is not None
        return SendAttempt(
            target, operation, sent.body, notes, sent.path, sent.headers, sent.removed, reads_answer
        )

    def on_first_token_late(self) -> Refuse | None:
        """Nothing was said in time: the attempt is given up. None where Envoy has another target to
        go on to."""
        assert self.answer is not None
        self.answer.give_up()
        if self._event.attempt < len(self._entry.chain.targets):
            return None
        return self._refuse(refusals.NO_FIRST_TOKEN)

    def on_ledger_failed(self) -> Refuse:
        """The ledger is not there: the attempt is not sent."""
        return self._refuse(refusals.LEDGER_FAILED)

    def abandon(self) -> None:
        """The caller left before the ledger answered: the attempt is not sent."""
        self._gate.velocity.give_back(self._counted, self._now_ms)
        self._counted = []

    def refuse_internal_error(self) -> Refuse:
        """Our own fault, found by the edge."""
        return self._refuse(refusals.INTERNAL_ERROR)

    def _too_fast(self, values: ScopeValues) -> Refusal | None:
        """Passes the velocity breakers, as the first attempt did."""
        entry, gate = self._entry, self._gate
        metered = [(rule, scope_key(rule.scope, values)) for rule, _ in entry.plan.metered]
        likely = likely_micro_usd(self._amounts, self._target)
        probing = any(one.probe for tried in entry.attempts.values() for one in tried.counted)
        found = gate.velocity.admit(metered, likely, self._now_ms, probing=probing)
        if isinstance(found, TooFast):
            return refusals.too_fast(found, likely, self._now_ms)
        self._counted = found
        return None

    def _refuse(self, refusal: Refusal) -> Refuse:
        self.abandon()
        entry = self._gate.in_flight.get(self._event.request_id)
        dialect = entry.operation.dialect if entry else Dialect.OPENAI
        generation = (entry.generation if entry else self._gate.generation).number
        rules = entry.plan.rules if entry else ""
        return Refuse(refusal, dialect, self._event.request_id, generation, rules)


def _streams(operation: Operation, body: bytes) -> bool:
    """Whether a stream is asked for. Raises ``WireError``."""
    return parse_inference_request(operation, body).stream
