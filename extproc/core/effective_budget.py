"""``GET /v1/budget/effective``: what a caller may still spend, for agents that plan.

Every limit that a request of this caller would meet, as its counters stand now: for one model, or
for all that the caller may ask for. Only the caller's own counters are looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import parse_qs

import orjson

from extproc.core import refusals
from extproc.core.callers import Caller
from extproc.core.estimate import estimate_amounts
from extproc.core.gate import Gate
from extproc.core.generation import Generation
from extproc.core.holds import SCOPES, scope_values
from extproc.core.routing import Route
from extproc.core.velocity import Metered
from extproc.ledger.port import Hold, Standing
from extproc.policy.snapshot import Target
from extproc.values.dialect import CALLER_DIALECTS, Dialect, Operation
from extproc.values.limit import MONEY, NO_CEILING, BreachKind, Limit, Scope, Unit
from extproc.values.refusal import Refusal
from extproc.values.window import SlidingWindow
from extproc.wire.error_body import amount_text, rfc3339
from extproc.wire.inference_request import parse_inference_request

MAX_MODELS = 64
"""Models looked at when none is named. The answer is free, so it must stay cheap."""
MAX_COUNTERS = 256
"""Counters shown, for the same reason."""
MAX_TARGETS = 16
"""Targets of a named model whose largest answer is searched for."""
MAX_OUTPUT_TOKENS = 1_000_000
"""No model's answer is longer; where a price entry says less, that holds."""
MAX_QUERY_BYTES = 1_024
"""The query names one model, which has at most 128 characters."""

_WORKFLOW_PLACE = SCOPES.index(Scope.WORKFLOW_TAG)
_TOKEN_UNITS = (Unit.TOKENS, Unit.INPUT_TOKENS, Unit.OUTPUT_TOKENS)
_ASKED = {Dialect.OPENAI: Operation.CHAT_COMPLETIONS, Dialect.ANTHROPIC: Operation.MESSAGES}


class Question(NamedTuple):
    """What to look up for a caller."""

    gate: Gate
    generation: Generation
    model: str
    """Empty: all of them."""
    dialect: Dialect
    workflow_tag: str
    holds: Sequence[Hold]
    """Each counter once."""
    models: Sequence[Sequence[str]]
    """Whose requests meet the counter, by the place of its hold."""
    targets: Sequence[tuple[Target, frozenset[int]]]
    """Of a named model: where a request may go first, and the places of the holds it takes."""
    metered: Sequence[Metered]
    truncated: bool


def model_asked(path: bytes) -> str | None:
    """``model`` of a path's query; empty when it is not given, None for an endless query."""
    query = path.partition(b"?")[2]
    if len(query) > MAX_QUERY_BYTES:
        return None
    return parse_qs(query.decode("ascii", "replace")).get("model", [""])[0]


def ask(
    gate: Gate, caller: Caller, model: str, dialect: Dialect, now_ms: int
) -> Question | Refusal:
    """Which counters tell what the caller may spend, or why the model cannot be asked about."""
    generation = gate.generation
    known = generation.policy.virtual_models
    if model:
        named = known.get(model)
        if named is None:
            return refusals.unknown_model()
        if not generation.may_use(caller.credential, named):
            return refusals.model_not_allowed()
        names = [model]
    else:
        names = [name for name, one in known.items() if generation.may_use(caller.credential, one)]
    tag = scope_values(caller.envelope, caller.credential.id, "", "", "")[_WORKFLOW_PLACE]
    holds: dict[tuple[str, str], Hold] = {}
    places: dict[tuple[str, str], int] = {}
    models: list[list[str]] = []
    targets: list[tuple[Target, frozenset[int]]] = []
    metered: dict[Metered, None] = {}
    truncated = len(names) > MAX_MODELS
    for name in names[:MAX_MODELS]:
        route = _route(generation, name, dialect)
        first = _first_targets(gate, route, now_ms)
        for target in route.targets:
            taken = []
            for hold in _holds(generation, caller, name, target, metered):
                key = (hold.limit.key, hold.scope_value)
                if key not in holds:
                    if len(holds) >= MAX_COUNTERS:
                        truncated = True
                        continue
                    holds[key] = hold
                    places[key] = len(places)
                    models.append([])
                if name not in models[places[key]]:
                    models[places[key]].append(name)
                taken.append(places[key])
            if model and target in first:
                targets.append((target, frozenset(taken)))
    return Question(
        gate,
        generation,
        model,
        dialect,
        tag,
        list(holds.values()),
        models,
        targets,
        list(metered),
        truncated,
    )


def answer(question: Question, standings: Sequence[Standing], now_ms: int) -> bytes:
    """The document."""
    limits = [
        _limit_entry(standing, names, question.model, now_ms)
        for standing, names in zip(standings, question.models, strict=True)
    ]
    dollars = [
        _left(standing, standing.hold.limit.fallback_ceiling)
        for standing in standings
        if standing.hold.limit.unit in MONEY and standing.hold.limit.enforced
    ]
    document: dict[str, object] = {
        "object": "budget.effective",
        "as_of": rfc3339(now_ms),
        "policy_generation": question.generation.number,
        "model": question.model or None,
        "usd_remaining": amount_text("usd", min(dollars)) if dollars else None,
        "limits": limits,
        "velocity": _velocity_entries(question, now_ms),
        "truncated": question.truncated,
    }
    if question.model:
        document["max_tokens"] = _max_tokens(question, standings, now_ms)
    return orjson.dumps(document)


def _route(generation: Generation, name: str, dialect: Dialect) -> Route:
    """The model in the caller's dialect, or in the one it is served in."""
    routes = [generation.route(name, one) for one in (dialect, *CALLER_DIALECTS)]
    known = [route for route in routes if route is not None]
    return next((route for route in known if route.targets), known[0])


def _first_targets(gate: Gate, route: Route, now_ms: int) -> Sequence[Target]:
    """Where a request may be sent at first: any of those that are drawn, else the next in line."""
    policy = route.model.breaker
    admitted = [
        target for target in route.targets if gate.breakers.admits(target.name, policy, now_ms)
    ]
    drawn = [target for target in admitted if target in route.weighted]
    return drawn or admitted[:1]


def _holds(
    generation: Generation,
    caller: Caller,
    model: str,
    target: Target,
    metered: dict[Metered, None],
) -> Sequence[Hold]:
    envelope, credential = caller.envelope, caller.credential
    provider = target.provider.name
    applicable = generation.applicable(envelope, credential, model, provider)
    values = scope_values(envelope, credential.id, envelope.session_id, model, provider)
    metered.update(dict.fromkeys(generation.metered(envelope, credential, values)))
    return applicable.holds(values)


def _left(standing: Standing, ceiling: int) -> int:
    return max(0, ceiling - standing.settled - standing.reserved)


def _limit_entry(
    standing: Standing, models: Sequence[str], asked: str, now_ms: int
) -> dict[str, object]:
    limit = standing.hold.limit
    unit = refusals.UNIT_NAME[limit.unit]

    def shown(amount: int) -> object:
        return amount_text(unit, amount) if unit == "usd" else amount

    entry: dict[str, object] = {
        "rule_id": limit.rule_id,
        "kind": "budget" if limit.is_budget else "limit",
        "unit": unit,
        "window": str(limit.window),
        "scope": list(limit.scope),
        "limit": shown(limit.ceiling),
        "settled": shown(standing.settled),
        "reserved": shown(standing.reserved),
        "remaining": shown(_left(standing, limit.fallback_ceiling)),
        "remaining_for_fallback": shown(_left(standing, limit.ceiling)),
        "resets_at": _resets_at(standing, now_ms),
        "enforce": "enforce" if limit.enforced else "shadow",
        "mode": _mode(limit),
        "on_breach": _on_breach(limit),
    }
    if not asked:
        entry["models"] = models
    return entry


def _mode(limit: Limit) -> str:
    """Tokens are estimates until they are settled, as is the money of a statistical budget."""
    estimated = limit.unit in _TOKEN_UNITS or limit.unit is Unit.LIKELY_MICRO_USD
    return "statistical" if estimated else "strict"


def _on_breach(limit: Limit) -> str:
    breach = limit.breach
    if breach.kind is BreachKind.FALLBACK_TO:
        return f"fallback_to_{breach.name}"
    return breach.kind.value


def _resets_at(standing: Standing, now_ms: int) -> str | None:
    """When a calendar period ends. Of a sliding window: when a full one gives something back, and
    for others by when all that counts now has left; None where nothing counts."""
    window = standing.hold.limit.window
    slot = window.slot(now_ms)
    if not isinstance(window, SlidingWindow):
        return rfc3339(window.slot_ends_ms(slot))
    if standing.settled + standing.reserved == 0:
        return None
    full = _left(standing, standing.hold.limit.fallback_ceiling) == 0
    if full and standing.resets_at_ms is not None:
        return rfc3339(standing.resets_at_ms)
    return rfc3339(window.leaves_ms(slot))


def _velocity_entries(question: Question, now_ms: int) -> list[dict[str, object]]:
    entries: list[dict[str, object]] = []
    for rule, scope_value in question.metered:
        meter = question.gate.velocity.meter(rule.id, scope_value)
        spent = meter.rate(now_ms) if meter else 0
        closed = meter is None or meter.is_closed
        limit = rule.max_micro_usd if closed or meter is None else meter.limit
        entries.append(
            {
                "rule_id": rule.id,
                "scope": list(rule.scope),
                "state": meter.state.value if meter else "closed",
                "limit": amount_text("usd", limit) if limit else None,
                "spent": amount_text("usd", spent),
                "resets_at": None if closed or meter is None else rfc3339(meter.retry_at_ms),
                "enforce": "enforce" if rule.enforced else "shadow",
            }
        )
    return entries


def _max_tokens(question: Question, standings: Sequence[Standing], now_ms: int) -> int:
    """The largest maximum that is admitted now for an empty prompt, whichever target is drawn."""
    for rule, scope_value in question.metered:
        meter = question.gate.velocity.meter(rule.id, scope_value)
        if rule.enforced and meter is not None and not meter.admits(now_ms):
            return 0
    largest = [
        _largest(question, target, [standings[place] for place in sorted(places)])
        for target, places in question.targets[:MAX_TARGETS]
    ]
    return min(largest, default=0)


def _largest(question: Question, target: Target, standings: Sequence[Standing]) -> int:
    """By bisection over what admission itself estimates, so that the two never differ."""
    gate, default_tokens = question.gate, question.generation.policy.default_max_output_tokens
    operation = _ASKED[question.dialect]

    def fits(max_tokens: int) -> bool:
        request = parse_inference_request(operation, empty_prompt(question.model, max_tokens))
        amounts = estimate_amounts(request, target, default_tokens, gate.estimator)
        amounts = gate.workflows.likely(question.workflow_tag, target, request.body_bytes, amounts)
        return all(
            standing.hold.ceiling >= NO_CEILING
            or amounts[standing.hold.limit.unit] <= _left(standing, standing.hold.ceiling)
            for standing in standings
        )

    price = target.price
    low, high = 0, price.max_output_tokens or price.context_tokens or MAX_OUTPUT_TOKENS
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low


def empty_prompt(model: str, max_tokens: int) -> bytes:
    """The request that ``max_tokens`` of the answer is about."""
    messages = [{"role": "user", "content": ""}]
    return orjson.dumps({"model": model, "max_tokens": max_tokens, "messages": messages})
