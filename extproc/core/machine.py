"""One request, from its headers to its forwarding or refusal.

    headers  -> AwaitBody | Answer | Refuse
    body     -> Reserve | Forward (operations that are free) | Refuse
    reserved -> Forward | Reserve (a fallback) | Refuse

The machine reads one policy generation from its first event to its last, so a reload in between
changes nothing for it. An event in the wrong state is a bug of ours and raises ``AssertionError``;
the edge then answers 503, and nothing passes.
"""

from __future__ import annotations

import hashlib
from enum import Enum

from extproc.core import refusals
from extproc.core.breach import Fallback, fallbacks_for
from extproc.core.commands import Answer, AwaitBody, Forward, Refuse, Reserve
from extproc.core.estimate import estimate_amounts, output_bound_tokens
from extproc.core.events import RequestBody, RequestHeaders, Reserved
from extproc.core.gate import LEASE_MS, MAX_IN_FLIGHT, Attempt, Gate, InFlight
from extproc.core.holds import Applicable, ScopeValues, scope_values
from extproc.core.identity import resolve_envelope
from extproc.core.model_list import model_list
from extproc.core.routing import Chain, Route
from extproc.ledger.port import Denied, Granted, Hold
from extproc.policy.snapshot import Credential, Target
from extproc.values.dialect import Dialect, Operation
from extproc.values.envelope import Envelope
from extproc.values.limit import Amounts
from extproc.values.refusal import Refusal
from extproc.wire.conversation import conversation_root
from extproc.wire.errors import WireError
from extproc.wire.headers import CallerHeaders
from extproc.wire.inference_request import (
    InferenceRequest,
    needs_usage_injected,
    parse_inference_request,
    rewrite,
)

MAX_FALLBACKS = 8
"""Chains tried after a breach. Each is one more reservation; virtual models have two to six."""


class State(Enum):
    """What the machine waits for."""

    HEADERS = "headers"
    BODY = "body"
    RESERVATION = "reservation"
    DONE = "done"


class RequestMachine:
    """Decides one request. Feed it events; carry out the command that each returns."""

    __slots__ = (
        "_amounts",
        "_applicable",
        "_caller",
        "_chain",
        "_credential",
        "_envelope",
        "_fallbacks",
        "_first_refusal",
        "_gate",
        "_generation",
        "_now_ms",
        "_overrides",
        "_request",
        "_route",
        "_values",
        "dialect",
        "request_id",
        "state",
    )

    _caller: CallerHeaders
    _credential: Credential
    _envelope: Envelope
    _request: InferenceRequest
    _route: Route
    _chain: Chain
    _applicable: Applicable
    _values: ScopeValues
    _amounts: Amounts

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._generation = gate.generation
        self.state = State.HEADERS
        self.dialect = Dialect.OPENAI
        self.request_id = ""
        self._now_ms = 0
        self._overrides: dict[str, Hold] | None = None
        self._fallbacks: list[Fallback] | None = None
        self._first_refusal: Refusal | None = None

    def on_headers(self, event: RequestHeaders) -> AwaitBody | Answer | Refuse:
        """Who asks, and may they ask at all."""
        assert self.state is State.HEADERS
        generation = self._generation
        try:
            caller = generation.names.parse(event.headers)
        except WireError as error:
            self._note_caller(event)
            return self._refuse(error.refusal)
        self._caller = caller
        self.request_id = caller.request_id
        self.dialect = caller.operation.dialect
        key_hash = hashlib.sha256(caller.api_key).digest()
        credential = generation.policy.credentials.get(key_hash)
        if credential is None:
            return self._refuse(refusals.INVALID_CREDENTIAL)
        self._credential = credential
        if caller.operation is Operation.MODELS:
            self.state = State.DONE
            return Answer(model_list(generation, credential), self.request_id, generation.number)
        envelope = resolve_envelope(credential, caller.claims, generation.policy.envelope)
        if isinstance(envelope, Refusal):
            return self._refuse(envelope)
        if event.end_of_stream:
            return self._refuse(refusals.empty_body())
        self._envelope = envelope
        self.state = State.BODY
        return AWAIT_BODY

    def on_body(self, event: RequestBody) -> Reserve | Forward | Refuse:
        """What is asked for, where it would go, and what it may cost."""
        assert self.state is State.BODY
        self._now_ms = event.now_ms
        gate, generation = self._gate, self._generation
        try:
            request = parse_inference_request(self._caller.operation, event.body)
        except WireError as error:
            return self._refuse(error.refusal)
        self._request = request
        route = generation.route(request.model, self.dialect)
        if route is None:
            return self._refuse(refusals.unknown_model())
        if not generation.may_use(self._credential, route.model):
            return self._refuse(refusals.model_not_allowed())
        self._route = route
        if not route.targets:
            return self._refuse(refusals.dialect_not_served(request.model, self.dialect))
        self._chain = route.draw(event.draw, gate.breakers, event.now_ms)
        if not self._chain.targets:
            return self._refuse(self._all_open())
        if request.operation.free:
            return self._forward_free()
        if len(gate.in_flight) >= MAX_IN_FLIGHT:
            return self._refuse(refusals.TOO_MANY_IN_FLIGHT)
        return self._reserve_first()

    def on_reserved(self, event: Reserved) -> Forward | Reserve | Refuse:
        """The ledger's answer: go, go elsewhere, or not at all."""
        assert self.state is State.RESERVATION
        outcome = event.outcome
        if isinstance(outcome, Granted):
            return self._forward(outcome)
        return self._breached(outcome)

    def on_ledger_failed(self) -> Refuse:
        """The ledger is not there: nothing is admitted."""
        return self._refuse(refusals.LEDGER_FAILED)

    def refuse_internal_error(self) -> Refuse:
        """Our own fault, found by the edge."""
        return self._refuse(refusals.INTERNAL_ERROR)

    # -- steps ------------------------------------------------------------------------------------

    def _reserve_first(self) -> Reserve | Refuse:
        envelope, credential, request = self._envelope, self._credential, self._request
        gate = self._gate
        provider = self._chain.targets[0].provider.name
        applicable = self._generation.applicable(envelope, credential, request.model, provider)
        self._applicable = applicable
        if applicable.bounds_money and request.server_tools:
            return self._refuse(refusals.server_tools())
        if applicable.bounds_money and request.priority_tier:
            return self._refuse(refusals.dearer_variant())
        session = envelope.session_id
        if applicable.counts_sessions:
            # "~" is in no identifier, so a derived session is never somebody's real one.
            session = session or "~" + conversation_root(request)
            maximum = credential.max_sessions
            if not gate.sessions.admit(credential.id, session, maximum, self._now_ms):
                return self._refuse(refusals.too_many_sessions(maximum))
        self._values = scope_values(envelope, credential.id, session, request.model, provider)
        return self._reserve(self._chain)

    def _reserve(self, chain: Chain) -> Reserve:
        target = chain.targets[0]
        default_tokens = self._generation.policy.default_max_output_tokens
        self._chain = chain
        self._amounts = estimate_amounts(
            self._request, target, default_tokens, self._gate.estimator
        )
        self.state = State.RESERVATION
        return Reserve(
            self.request_id + "/1",
            self._applicable.holds(self._values, self._overrides),
            self._amounts,
            self._now_ms + LEASE_MS,
            self._now_ms,
            self._about(target),
        )

    def _about(self, target: Target) -> dict[str, object]:
        """What the usage log says of a reservation."""
        return {
            "credential": self._credential.id,
            "envelope": tuple(self._envelope),
            "operation": self._request.operation,
            "model": self._request.model,
            "target": target.name,
            "generation": self._generation.number,
        }

    def _breached(self, denied: Denied) -> Reserve | Refuse:
        standing = denied.standings[0]
        estimated = self._amounts[standing.hold.limit.unit]
        refusal = refusals.over_limit(standing, estimated, self._now_ms)
        if self._fallbacks is None:
            self._first_refusal = refusal
            self._fallbacks = fallbacks_for(
                denied.standings,
                self._request,
                self._route,
                self._chain.targets[0],
                self._generation,
                self._gate,
                self._now_ms,
            )[:MAX_FALLBACKS]
        if not self._fallbacks:
            return self._refuse(self._first_refusal or refusal)
        fallback = self._fallbacks.pop(0)
        moved = {hold.limit.key.partition(":overflow")[0]: hold for hold in fallback.moved}
        self._overrides = moved
        return self._reserve(fallback.chain)

    def _forward(self, granted: Granted) -> Forward:
        gate, request, chain = self._gate, self._request, self._chain
        chain = self._affordable(chain, granted.money_left_micro_usd)
        target = chain.targets[0]
        gate.in_flight[self.request_id] = InFlight(
            self.request_id,
            self._generation,
            request,
            chain,
            self._applicable,
            self._values,
            self._overrides,
            self._about(target),
            {1: Attempt(self.request_id + "/1", target, self._amounts)},
        )
        gate.breakers.sent(target.name, chain.breaker, self._now_ms)
        inject_usage = needs_usage_injected(request)
        maximum = None
        unbounded = request.generates and request.max_output_tokens is None
        if unbounded and self._applicable.watches_money:
            default_tokens = self._generation.policy.default_max_output_tokens
            maximum = output_bound_tokens(request, target, default_tokens)
        self.state = State.DONE
        return Forward(
            chain,
            request.operation,
            rewrite(request, target.model, maximum, inject_usage),
            inject_usage,
            self._generation.number,
            self._applicable.rules,
            granted.standings,
            self._caller.remove,
        )

    def _forward_free(self) -> Forward:
        target = self._chain.targets[0]
        self.state = State.DONE
        return Forward(
            self._chain,
            self._request.operation,
            rewrite(self._request, target.model, None, False),
            False,
            self._generation.number,
            "",
            (),
            self._caller.remove,
        )

    def _affordable(self, chain: Chain, left_micro_usd: int) -> Chain:
        """The chain without fallbacks that the money left could not pay: the reservation of an
        earlier attempt stays held until that attempt has provably cost nothing."""
        default_tokens = self._generation.policy.default_max_output_tokens
        dear = [
            target
            for target in chain.targets[1:]
            if target.price.dearest.output > 0
            and left_micro_usd < _CHECK_BELOW_MICRO_USD
            and estimate_amounts(self._request, target, default_tokens, self._gate.estimator)[-1]
            > left_micro_usd
        ]
        return chain.without(dear) if dear else chain

    def _all_open(self) -> Refusal:
        policy = self._route.model.breaker
        wait_ms = min(
            self._gate.breakers.retry_after_ms(target.name, policy, self._now_ms)
            for target in self._route.targets
        )
        return refusals.all_targets_open(self._request.model, wait_ms)

    def _note_caller(self, event: RequestHeaders) -> None:
        """For the refusal of headers that could not be read: where they came from."""
        for name, value in event.headers:
            if name == "x-request-id":
                self.request_id = value.decode("ascii", "replace")
            elif name == ":path" and b"/messages" in value:
                self.dialect = Dialect.ANTHROPIC

    def _refuse(self, refusal: Refusal) -> Refuse:
        rules = self._applicable.rules if self.state is State.RESERVATION else ""
        self.state = State.DONE
        return Refuse(refusal, self.dialect, self.request_id, self._generation.number, rules)


_CHECK_BELOW_MICRO_USD = 1_000_000_000
"""Fallbacks are priced at admission only when less than $1,000 is left: no request costs more than
that, so above it every target fits."""

AWAIT_BODY = AwaitBody()
