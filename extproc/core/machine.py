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
from collections.abc import Sequence
from enum import Enum

from extproc.core import refusals
from extproc.core.breach import Fallback, fallbacks_for
from extproc.core.callers import Caller, Plan, kind_of
from extproc.core.commands import Answer, AwaitBody, Forward, Refuse, Reserve
from extproc.core.estimate import estimate_amounts, output_bound_tokens
from extproc.core.events import RequestBody, RequestHeaders, Reserved
from extproc.core.gate import LEASE_MS, MAX_IN_FLIGHT, Attempt, Gate, InFlight
from extproc.core.holds import SCOPES, Applicable, ScopeValues, scope_values
from extproc.core.identity import resolve_envelope
from extproc.core.model_list import model_list
from extproc.core.routing import Chain, Route
from extproc.ledger.port import Account, Denied, Granted, Hold
from extproc.policy.snapshot import Credential, Target
from extproc.values.dialect import Dialect, Operation
from extproc.values.limit import Amounts, Scope, Unit
from extproc.values.refusal import Refusal
from extproc.wire.conversation import conversation_root
from extproc.wire.errors import WireError
from extproc.wire.headers import CallerHeaders, api_key
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
        "_caller",
        "_chain",
        "_fallbacks",
        "_first_refusal",
        "_gate",
        "_generation",
        "_now_ms",
        "_overrides",
        "_plan",
        "_remove",
        "_request",
        "_route",
        "dialect",
        "operation",
        "request_id",
        "state",
    )

    operation: Operation
    _caller: Caller
    _remove: Sequence[str]
    _request: InferenceRequest
    _route: Route
    _chain: Chain
    _plan: Plan
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
            headers = generation.names.parse(event.headers)
            self.request_id = headers.request_id
            self.operation = operation = headers.operation
            self.dialect = operation.dialect
            if operation is Operation.MODELS:
                return self._list_models(headers)
            kind = kind_of(headers)
            caller = generation.callers.find(kind)
            if caller is None:
                found = self._verified(headers)
                if isinstance(found, Refusal):
                    return self._refuse(found)
                caller = found
                generation.callers.remember(kind, caller)
        except WireError as error:
            self._note_caller(event)
            return self._refuse(error.refusal)
        if event.end_of_stream:
            return self._refuse(refusals.empty_body())
        self._caller = caller
        self._remove = headers.remove
        self.state = State.BODY
        return AWAIT_BODY

    def on_body(self, event: RequestBody) -> Reserve | Forward | Refuse:
        """What is asked for, where it would go, and what it may cost."""
        assert self.state is State.BODY
        self._now_ms = event.now_ms
        gate, generation = self._gate, self._generation
        try:
            request = parse_inference_request(self.operation, event.body)
        except WireError as error:
            return self._refuse(error.refusal)
        self._request = request
        route = generation.route(request.model, self.dialect)
        if route is None:
            return self._refuse(refusals.unknown_model())
        if not generation.may_use(self._caller.credential, route.model):
            return self._refuse(refusals.model_not_allowed())
        self._route = route
        if not route.targets:
            return self._refuse(refusals.dialect_not_served(request.model, self.dialect))
        self._chain = route.draw(event.draw, gate.breakers, event.now_ms)
        if not self._chain.targets:
            return self._refuse(self._all_open())
        if self.operation.free:
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

    def _list_models(self, headers: CallerHeaders) -> Answer | Refuse:
        credential = self._credential(headers)
        if credential is None:
            return self._refuse(refusals.INVALID_CREDENTIAL)
        self.state = State.DONE
        generation = self._generation
        return Answer(model_list(generation, credential), self.request_id, generation.number)

    def _credential(self, headers: CallerHeaders) -> Credential | None:
        key = api_key(headers.authorization, headers.x_api_key)
        return self._generation.policy.credentials.get(hashlib.sha256(key).digest())

    def _verified(self, headers: CallerHeaders) -> Caller | Refusal:
        """A caller seen for the first time. Raises ``WireError``."""
        policy = self._generation.policy
        key = api_key(headers.authorization, headers.x_api_key)
        claims = self._generation.names.claims(headers.identity)
        credential = policy.credentials.get(hashlib.sha256(key).digest())
        if credential is None:
            return refusals.INVALID_CREDENTIAL
        envelope = resolve_envelope(credential, claims, policy.envelope)
        return envelope if isinstance(envelope, Refusal) else Caller(credential, envelope)

    def _reserve_first(self) -> Reserve | Refuse:
        caller, request, target = self._caller, self._request, self._chain.targets[0]
        plan = caller.plans.get((self.operation, request.model, target.name))
        if plan is None:
            plan = self._make_plan(caller, request, target)
        self._plan = plan
        applicable = plan.applicable
        if applicable.bounds_money:
            if request.server_tools:
                return self._refuse(refusals.server_tools())
            if request.priority_tier:
                return self._refuse(refusals.dearer_variant())
        if applicable.counts_sessions:
            credential = caller.credential
            maximum = credential.max_sessions
            session = plan.scope_values[_SESSION_PLACE]
            if not self._gate.sessions.admit(credential.id, session, maximum, self._now_ms):
                return self._refuse(refusals.too_many_sessions(maximum))
        return self._reserve(self._chain)

    def _make_plan(self, caller: Caller, request: InferenceRequest, target: Target) -> Plan:
        envelope, credential, provider = caller.envelope, caller.credential, target.provider.name
        applicable = self._generation.applicable(envelope, credential, request.model, provider)
        session = envelope.session_id
        derived = applicable.counts_sessions and not session
        if derived:
            # "~" is in no identifier, so a derived session is never somebody's real one.
            session = "~" + conversation_root(request)
        values = scope_values(envelope, credential.id, session, request.model, provider)
        plan = Plan(applicable, values, self._account(applicable, values, target))
        if not derived:
            caller.plans[self.operation, request.model, target.name] = plan
        return plan

    def _account(self, applicable: Applicable, values: ScopeValues, target: Target) -> Account:
        about = {
            "credential": self._caller.credential.id,
            "envelope": tuple(self._caller.envelope),
            "operation": self.operation,
            "model": self._request.model,
            "target": target.name,
            "generation": self._generation.number,
        }
        holds = applicable.holds(values, self._overrides)
        if applicable.alerts:
            self._gate.watched.add(holds)
        return Account(holds, about)

    def _reserve(self, chain: Chain) -> Reserve:
        self._chain = chain
        self._amounts = self._estimate(chain.targets[0])
        self.state = State.RESERVATION
        return Reserve(
            self.request_id + "/1",
            self._plan.account,
            self._amounts,
            self._now_ms + LEASE_MS,
            self._now_ms,
        )

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
        plan, target = self._plan, fallback.chain.targets[0]
        account = self._account(plan.applicable, plan.scope_values, target)
        self._plan = Plan(plan.applicable, plan.scope_values, account)
        return self._reserve(fallback.chain)

    def _forward(self, granted: Granted) -> Forward:
        gate, request, chain = self._gate, self._request, self._chain
        chain = self._affordable(chain, granted)
        target = chain.targets[0]
        gate.in_flight[self.request_id] = InFlight(
            self.request_id,
            self._generation,
            self.operation,
            request.body_bytes,
            chain,
            self._plan,
            self._overrides,
            {1: Attempt(self.request_id + "/1", target, self._amounts)},
        )
        gate.breakers.sent(target.name, chain.breaker, self._now_ms)
        inject_usage = needs_usage_injected(request)
        maximum = None
        unbounded = request.generates and request.max_output_tokens is None
        if unbounded and self._plan.applicable.watches_money:
            default_tokens = self._generation.policy.default_max_output_tokens
            maximum = output_bound_tokens(request, target, default_tokens)
        self.state = State.DONE
        return Forward(
            chain,
            self.operation,
            rewrite(request, target.model, maximum, inject_usage),
            inject_usage,
            self._generation.number,
            self._plan.applicable.rules,
            granted.remaining,
            self._remove,
            self._now_ms,
            (("degraded", granted.degraded),) if granted.degraded else (),
        )

    def _forward_free(self) -> Forward:
        target = self._chain.targets[0]
        self.state = State.DONE
        return Forward(
            self._chain,
            self.operation,
            rewrite(self._request, target.model, None, False),
            False,
            self._generation.number,
            "",
            (),
            self._remove,
            self._now_ms,
        )

    def _estimate(self, target: Target) -> Amounts:
        request, gate, plan = self._request, self._gate, self._plan
        default_tokens = self._generation.policy.default_max_output_tokens
        amounts = estimate_amounts(request, target, default_tokens, gate.estimator)
        if not plan.applicable.counts_likely:
            return amounts
        return gate.workflows.likely(plan.workflow_tag, target, request.body_bytes, amounts)

    def _affordable(self, chain: Chain, granted: Granted) -> Chain:
        """The chain without fallbacks that the money left could not pay: the reservation of an
        earlier attempt stays held until that attempt has provably cost nothing."""
        left, likely_left = granted.money_left_micro_usd, granted.likely_left_micro_usd
        if left >= _CHECK_BELOW_MICRO_USD and likely_left >= _CHECK_BELOW_MICRO_USD:
            return chain
        dear = []
        for target in chain.targets[1:]:
            amounts = self._estimate(target)
            if amounts[Unit.MICRO_USD] > left or amounts[Unit.LIKELY_MICRO_USD] > likely_left:
                dear.append(target)
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
        rules = self._plan.applicable.rules if self.state is State.RESERVATION else ""
        self.state = State.DONE
        return Refuse(refusal, self.dialect, self.request_id, self._generation.number, rules)


_CHECK_BELOW_MICRO_USD = 1_000_000_000
"""Fallbacks are priced at admission only when less than $1,000 is left: no request costs more than
that, so above it every target fits."""

_SESSION_PLACE = SCOPES.index(Scope.SESSION)
AWAIT_BODY = AwaitBody()
