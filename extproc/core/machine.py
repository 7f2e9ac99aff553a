"""One request, from its headers to its forwarding or refusal.

    headers  -> AwaitBody | Answer | Peek | Refuse
    peeked   -> Answer
    body     -> Reserve | Forward (operations that are free) | Refuse
    reserved -> Forward | Reserve (clamped, degraded or elsewhere) | Refuse

Where a rule lets requests wait, ``core/queueing.py`` adds to this.

The machine reads one policy generation from its first event to its last, so a reload in between
changes nothing for it. An event in the wrong state is a bug of ours and raises ``AssertionError``;
the edge then answers 503, and nothing passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from extproc.core import effective_budget, free_operation, refusals
from extproc.core.breach import Asked, Way, notes_of, ways_on
from extproc.core.callers import Caller, Plan
from extproc.core.choice import Asking, choose
from extproc.core.clamp import MAX_CLAMPS, clamped, floor_tokens, with_maximum
from extproc.core.commands import Answer, AwaitBody, Forward, Peek, Refuse, Reserve, Wait
from extproc.core.context import opens_longer_context, outgrows_context, without_narrow
from extproc.core.effective_budget import Question
from extproc.core.estimate import estimate_amounts, likely_micro_usd, output_bound_tokens
from extproc.core.events import Peeked, RequestBody, RequestHeaders, Reserved
from extproc.core.gate import LEASE_MS, MAX_IN_FLIGHT, Attempt, Gate, InFlight
from extproc.core.holds import (
    OVERFLOW_SUFFIX,
    SCOPES,
    Applicable,
    ScopeValues,
)
from extproc.core.model_list import model_list
from extproc.core.outgoing import first_outgoing
from extproc.core.routing import Chain, Route
from extproc.core.translated import edits_at, without_unsayable
from extproc.core.unserved import no_target, too_long
from extproc.core.velocity import Counted, TooFast
from extproc.core.verification import caller_of, credential_of, sender_of
from extproc.ledger.port import Account, Denied, Granted, Hold
from extproc.policy.snapshot import Target
from extproc.values.dialect import OWN_OPERATIONS, Dialect, Operation
from extproc.values.envelope import ENVELOPE_FIELDS
from extproc.values.limit import NOTHING, Amounts, Limit, Scope, Unit
from extproc.values.refusal import Refusal
from extproc.wire.errors import WireError
from extproc.wire.headers import CallerHeaders
from extproc.wire.inference_request import (
    InferenceRequest,
    needs_usage_injected,
    parse_inference_request,
    rewrite,
)

MAX_WAYS = 8
"""Other ways tried after a breach. Each is one more reservation; virtual models have two to six
targets."""


class State(Enum):
    """What the machine waits for."""

    HEADERS = "headers"
    BODY = "body"
    RESERVATION = "reservation"
    PEEK = "peek"
    TURN = "turn"
    DONE = "done"


class RequestMachine:
    """Decides one request. Feed it events; carry out the command that each returns."""

    __slots__ = (
        "_amounts",
        "_asked",
        "_body",
        "_caller",
        "_chain",
        "_clamps",
        "_counted",
        "_first_refusal",
        "_gate",
        "_generation",
        "_headers",
        "_now_ms",
        "_overrides",
        "_plan",
        "_question",
        "_remove",
        "_request",
        "_route",
        "_rules",
        "_way",
        "_ways",
        "dialect",
        "operation",
        "request_id",
        "state",
    )

    operation: Operation
    _headers: RequestHeaders
    _body: RequestBody
    _caller: Caller
    _remove: Sequence[str]
    _asked: InferenceRequest
    _request: InferenceRequest
    _route: Route
    _chain: Chain
    _plan: Plan
    _amounts: Amounts
    _question: Question

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._generation = gate.generation
        self.state = State.HEADERS
        self.dialect = Dialect.OPENAI
        self.request_id = ""
        self._now_ms = 0
        self._overrides: dict[str, Hold] | None = None
        self._clamps = 0
        self._ways: list[Way] | None = None
        self._way: Way | None = None
        self._first_refusal: Refusal | None = None
        self._counted: list[Counted] | None = None
        self._rules = ""

    def on_headers(self, event: RequestHeaders) -> AwaitBody | Answer | Peek | Refuse:
        """Who asks, and may they ask at all."""
        assert self.state is State.HEADERS
        self._headers = event
        generation = self._generation
        try:
            headers = generation.names.parse(event.headers)
            self.request_id = headers.request_id
            self.operation = operation = headers.operation
            self.dialect = operation.dialect
            if operation.free and operation in OWN_OPERATIONS:
                self.request_id, self.dialect = sender_of(event)
                if operation is Operation.MODELS:
                    return self._list_models(headers)
            caller = caller_of(generation, headers, self._gate.kills)
        except WireError as error:
            self.request_id, self.dialect = sender_of(event)
            return self._refuse(error.refusal)
        if isinstance(caller, Refusal):
            return self._refuse(caller)
        if operation.free and operation is Operation.EFFECTIVE_BUDGET:
            return self._ask_budget(event, caller)
        if event.end_of_stream:
            return self._refuse(refusals.empty_body())
        self._caller = caller
        self._remove = headers.remove
        self.state = State.BODY
        return AWAIT_BODY

    def on_body(self, event: RequestBody) -> Reserve | Forward | Wait | Refuse:
        """What is asked for, where it would go, and what it may cost."""
        assert self.state is State.BODY
        self._body = event
        self._now_ms = event.now_ms
        gate, generation = self._gate, self._generation
        try:
            request = parse_inference_request(self.operation, event.body)
        except WireError as error:
            return self._refuse(error.refusal)
        self._asked = self._request = request
        route = generation.route(request.model, self.operation)
        if route is None:
            return self._refuse(refusals.unknown_model())
        if not generation.may_use(self._caller.credential, route.model):
            return self._refuse(refusals.model_not_allowed())
        self._route = route
        if not route.targets:
            return self._refuse(refusals.dialect_not_served(request.model, self.dialect))
        if route.plain:
            self._chain = route.draw(event.draw, gate.breakers, event.now_ms)
        else:
            self._chain = self._choose(route, event.draw)
        if not self._chain.targets:
            return self._refuse(no_target(route, request, gate, self._now_ms))
        if len(gate.in_flight) >= MAX_IN_FLIGHT:
            return self._refuse(refusals.TOO_MANY_IN_FLIGHT)
        if self.operation.free:
            return self._forward_free()
        if request.input_by_reference or request.body_bytes > route.narrowest_bytes:
            if opens_longer_context(self._headers.headers, self._chain):
                request = self._asked = self._request = request._replace(longer_context=True)
            self._chain = without_narrow(request, self._chain, gate.estimator)
            if not self._chain.targets:
                return self._refuse(too_long(route, request, gate, self._now_ms))
        if route.translates:
            self._request, self._chain, unsayable = without_unsayable(request, self._chain)
            self._asked = self._request
            if unsayable is not None:
                return self._refuse(unsayable)
        return self._reserve_first()

    def on_reserved(self, event: Reserved) -> Forward | Reserve | Wait | Refuse:
        """The ledger's answer: go, go elsewhere, or not at all."""
        assert self.state is State.RESERVATION
        outcome = event.outcome
        if isinstance(outcome, Granted):
            return self._forward(outcome)
        return self._breached(outcome)

    def on_peeked(self, event: Peeked) -> Answer:
        """What the counters say that the caller asked about."""
        assert self.state is State.PEEK
        self.state = State.DONE
        body = effective_budget.answer(self._question, event.standings, event.now_ms)
        return Answer(body, self.request_id, self._generation.number)

    def on_ledger_failed(self) -> Refuse:
        """The ledger is not there: nothing is admitted."""
        return self._refuse(refusals.LEDGER_FAILED)

    def abandon(self) -> None:
        """The caller left before the ledger answered: nothing is sent."""
        self._give_back()

    def refuse_internal_error(self) -> Refuse:
        """Our own fault, found by the edge."""
        return self._refuse(refusals.INTERNAL_ERROR)

    # -- steps ------------------------------------------------------------------------------------

    def _list_models(self, headers: CallerHeaders) -> Answer | Refuse:
        credential = credential_of(self._generation, headers)
        if credential is None:
            return self._refuse(refusals.INVALID_CREDENTIAL)
        generation = self._generation
        if self._gate.kills.stops(("",) * len(ENVELOPE_FIELDS) + (credential.id,)):
            return self._refuse(refusals.killed("credential"))
        self.state = State.DONE
        return Answer(model_list(generation, credential), self.request_id, generation.number)

    def _ask_budget(self, event: RequestHeaders, caller: Caller) -> Peek | Refuse:
        path = next(value for name, value in event.headers if name == ":path")
        model = effective_budget.model_asked(path)
        if model is None:
            return self._refuse(refusals.unusable_query())
        found = effective_budget.ask(self._gate, caller, model, self.dialect, event.now_ms)
        if isinstance(found, Refusal):
            return self._refuse(found)
        self._question = found
        self.state = State.PEEK
        return Peek(found.holds, event.now_ms)

    def _choose(self, route: Route, draw: float = 0.0) -> Chain:
        """The chain at a model, also where more than weights decide."""
        gate, now_ms = self._gate, self._now_ms
        asking = Asking(self._request, self._caller, self._generation, gate, now_ms)
        return choose(route, draw, asking)

    def _reserve_first(self) -> Reserve | Wait | Refuse:
        caller, request, target = self._caller, self._request, self._chain.targets[0]
        plan = caller.plans.get((self.operation, request.model, target.name))
        if plan is None:
            plan = self._make_plan(target, "")
        self._plan = plan
        applicable = plan.applicable
        if applicable.bounds_money and request.unpriced_at(target.translated):
            return self._refuse(refusals.unbounded(request))
        if applicable.counts_sessions:
            credential = caller.credential
            maximum = credential.max_sessions
            session = plan.scope_values[_SESSION_PLACE]
            if not self._gate.sessions.admit(credential.id, session, maximum, self._now_ms):
                return self._refuse(refusals.too_many_sessions(maximum))
        return self._reserve(self._chain)

    def _make_plan(self, target: Target, moved: str) -> Plan:
        """How the request is booked at a target. ``moved`` names what ``_overrides`` changes."""
        caller, request, provider = self._caller, self._request, target.provider.name
        envelope, credential, generation = caller.envelope, caller.credential, self._generation
        applicable = generation.applicable(envelope, credential, request.model, provider)
        needed = (
            applicable.counts_sessions
            or generation.policy.watches_sessions
            or self._gate.kills.derived_sessions
            or self._route.model.learns_caches
        )
        session = caller.session(request, needed=needed)
        values = caller.scope_values(session, request.model, provider)
        plan = Plan(
            applicable,
            values,
            self._account(applicable, values, target),
            generation.metered(envelope, credential, values),
            (*envelope._replace(session_id=session), credential.id, request.model),
        )
        if session == envelope.session_id:
            caller.plans[self.operation, request.model, target.name + moved] = plan
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

    def _reserve(self, chain: Chain) -> Reserve | Wait | Refuse:
        target, plan = chain.targets[0], self._plan
        self._rules = plan.rules
        if plan.checked != self._gate.kills.version:
            killed = self._gate.kills.look_at_plan(plan, target, self._request)
            if killed:
                return self._refuse(refusals.killed(killed))
        self._chain = chain
        self._amounts = self._estimate(target)
        if plan.metered and self._counted is None:
            likely = likely_micro_usd(self._amounts, target)
            found = self._gate.velocity.admit(plan.metered, likely, self._now_ms)
            if isinstance(found, TooFast):
                return self._refuse(refusals.too_fast(found, likely, self._now_ms))
            self._counted = found
        self.state = State.RESERVATION
        return Reserve(
            self.request_id + "/1",
            self._plan.account,
            self._amounts,
            self._now_ms + LEASE_MS,
            self._now_ms,
        )

    def _breached(self, denied: Denied) -> Reserve | Wait | Refuse:
        shorter = self._clamped(denied)
        if shorter is not None:
            self._request = shorter
            return self._reserve(self._chain)
        return self._act_on(denied)

    def _act_on(self, denied: Denied) -> Reserve | Wait | Refuse:
        """The breach action of limits that no shorter answer fits."""
        standing = denied.standings[0]
        estimated = self._amounts[standing.hold.limit.unit]
        refusal = refusals.over_limit(standing, estimated, self._now_ms)
        if self._ways is None:
            self._first_refusal = refusal
            asked = Asked(
                self._asked,
                self._route,
                self._chain,
                self._generation,
                self._gate,
                self._now_ms,
                self._estimate_of,
                self._choose,
                self._limits_at,
            )
            self._ways = ways_on(denied.standings, asked)[:MAX_WAYS]
        if not self._ways:
            return self._refuse(self._first_refusal or refusal)
        return self._take(self._ways.pop(0))

    def _clamped(self, denied: Denied) -> InferenceRequest | None:
        """The request as the remainder of the full limits can pay for it; None if it cannot, and
        the ledger has said of the shortest answer when it will fit."""
        if self._clamps >= MAX_CLAMPS:
            return None
        self._clamps += 1
        request, target, policy = self._request, self._chain.targets[0], self._generation.policy
        bound = output_bound_tokens(request, target, policy.default_max_output_tokens)
        way = self._way
        floor = floor_tokens(request, policy.min_output_tokens) if way is None else way.floor
        shorter = clamped(
            request, bound, floor, denied.standings, lambda cut: self._estimate_of(cut, target)
        )
        never_fits = any(standing.resets_at_ms is None for standing in denied.standings)
        if shorter is None and floor < bound and never_fits:
            # What never fits as asked may fit later at the shortest: asking for that tells when.
            return with_maximum(request, floor)
        return shorter

    def _as_asked(self) -> None:
        """Forgets what was cut so far: there may be room for the whole answer."""
        self._request = self._asked if self._way is None else self._way.request
        self._clamps = 0

    def _take(self, way: Way) -> Reserve | Wait | Refuse:
        """Reserves for another way, on the counters of its own provider."""
        self._way = way
        self._as_asked()
        self._overrides = {hold.limit.key.removesuffix(OVERFLOW_SUFFIX): hold for hold in way.moved}
        request, target = way.request, way.chain.targets[0]
        # A space is in no name.
        moved = "".join([f" {hold.limit.key}@{hold.scope_value}" for hold in way.moved])
        plan = self._caller.plans.get((self.operation, request.model, target.name + moved))
        self._plan = plan = plan or self._make_plan(target, moved)
        if plan.applicable.bounds_money and (
            request.unpriced_at(target.translated)
            or outgrows_context(request, self._headers.headers, target, way.chain)
        ):
            return self._refuse(refusals.unbounded(request))
        return self._reserve(way.chain)

    def _forward(self, granted: Granted) -> Forward | Refuse:
        gate, request, chain = self._gate, self._request, self._chain
        chain = self._affordable(chain, granted)
        target = chain.targets[0]
        maximum = None
        if request is not self._asked:
            maximum = request.max_output_tokens
        elif (
            request.max_output_tokens is None
            and self._plan.applicable.watches_money
            and request.generates
        ):
            default_tokens = self._generation.policy.default_max_output_tokens
            maximum = output_bound_tokens(request, target, default_tokens)
        attempt = Attempt(
            self.request_id + "/1", target, self._amounts, counted=self._counted or ()
        )
        entry = InFlight(
            self.request_id,
            self._generation,
            self.operation,
            request.body_bytes,
            request.written_bytes,
            chain,
            self._plan,
            self._overrides,
            {1: attempt},
            self._caller,
            maximum is not None and self._asked.max_output_tokens is None,
        )
        inject_usage = needs_usage_injected(request)
        way = self._way
        edits, dropped = edits_at(request, target, None if way is None else way.edits)
        notes: Sequence[tuple[str, str]] = ()
        if granted.degraded or dropped or way is not None or request is not self._asked:
            notes = notes_of(self._asked, request, way, granted.degraded, dropped)
            entry.said_dropped = bool(dropped)
        command = Forward(
            chain,
            self.operation,
            rewrite(request, target.model, maximum, inject_usage, edits),
            inject_usage,
            self._generation.number,
            self._plan.rules,
            granted.remaining,
            self._remove,
            self._now_ms,
            notes,
            request.stream,
        )
        if chain.first_leaves_changed:
            changed = first_outgoing(gate, entry, attempt, command, self._headers.headers)
            if isinstance(changed, Refusal):
                return self._refuse(changed)
            command = changed
        gate.in_flight[self.request_id] = entry
        self._counted = None  # the attempt's own from here on
        gate.breakers.sent(target.name, chain.breaker, self._now_ms)
        self.state = State.DONE
        return command

    def _forward_free(self) -> Forward | Refuse:
        gate, request, chain = self._gate, self._request, self._chain
        target = chain.targets[0]
        if gate.kills.active:
            subject = free_operation.subject_of(self._caller, request)
            killed = gate.kills.stops_request(subject, target, request)
            if killed:
                return self._refuse(refusals.killed(killed))
        entry = free_operation.entry_of(
            self.request_id, self._generation, chain, self._caller, request
        )
        command = Forward(
            chain,
            self.operation,
            rewrite(request, target.model, None, False, edits_at(request, target)[0]),
            False,
            self._generation.number,
            "",
            (),
            self._remove,
            self._now_ms,
        )
        if chain.first_leaves_changed:
            attempt = Attempt(self.request_id + "/1", target, NOTHING)
            changed = first_outgoing(gate, entry, attempt, command, self._headers.headers)
            if isinstance(changed, Refusal):
                return self._refuse(changed)
            command = changed
        if len(chain.targets) > 1 or target.first_token_timeout_ms:
            gate.in_flight[self.request_id] = entry
            gate.falls_silent(self.request_id, self._now_ms)
        self.state = State.DONE
        return command

    def _estimate(self, target: Target) -> Amounts:
        return self._estimate_of(self._request, target)

    def _estimate_of(self, request: InferenceRequest, target: Target) -> Amounts:
        gate, plan = self._gate, self._plan
        default_tokens = self._generation.policy.default_max_output_tokens
        amounts = estimate_amounts(request, target, default_tokens, gate.estimator)
        if not plan.applicable.counts_likely:
            return amounts
        return gate.workflows.likely(plan.workflow_tag, target, request.body_bytes, amounts)

    def _limits_at(self, target: Target) -> tuple[Limit, ...]:
        """The limits that apply to the request at a target's provider."""
        caller, generation = self._caller, self._generation
        model, provider = self._asked.model, target.provider.name
        return generation.applicable(caller.envelope, caller.credential, model, provider).limits

    def _affordable(self, chain: Chain, granted: Granted) -> Chain:
        """The chain without fallbacks that the money left could not pay, not even for the shortest
        answer: the reservation of an earlier attempt stays held until that attempt has provably
        cost nothing."""
        left, likely_left = granted.money_left_micro_usd, granted.likely_left_micro_usd
        if left >= _CHECK_BELOW_MICRO_USD and likely_left >= _CHECK_BELOW_MICRO_USD:
            return chain
        dear = []
        for target in chain.targets[1:]:
            amounts = self._estimate(target)
            if amounts[Unit.MICRO_USD] <= left and amounts[Unit.LIKELY_MICRO_USD] <= likely_left:
                continue
            amounts = self._estimate_of(self._shortest(target), target)
            if amounts[Unit.MICRO_USD] > left or amounts[Unit.LIKELY_MICRO_USD] > likely_left:
                dear.append(target)
        return chain.without(dear) if dear else chain

    def _shortest(self, target: Target) -> InferenceRequest:
        """The request at the lowest maximum that a later attempt may be cut to."""
        request, policy = self._request, self._generation.policy
        bound = output_bound_tokens(request, target, policy.default_max_output_tokens)
        way = self._way
        floor = floor_tokens(request, policy.min_output_tokens) if way is None else way.floor
        return with_maximum(request, floor) if floor < bound else request

    def _give_back(self) -> None:
        if self._counted is not None:
            self._gate.velocity.give_back(self._counted, self._now_ms)
            self._counted = None

    def _refuse(self, refusal: Refusal) -> Refuse:
        self._give_back()
        self.state = State.DONE
        number = self._generation.number
        return Refuse(refusal, self.dialect, self.request_id, number, self._rules)


_CHECK_BELOW_MICRO_USD = 1_000_000_000
"""Fallbacks are priced at admission only when less than $1,000 is left: no request costs more than
that, so above it every target fits."""

_SESSION_PLACE = SCOPES.index(Scope.SESSION)
AWAIT_BODY = AwaitBody()
