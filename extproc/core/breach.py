"""What a breached limit leads to: other ways to serve the request, or nothing but the refusal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from extproc.core.clamp import clamped, fits, floor_tokens, with_maximum
from extproc.core.estimate import output_bound_tokens
from extproc.core.gate import Gate
from extproc.core.generation import Generation
from extproc.core.holds import moved_to_fallback
from extproc.core.routing import Chain, Route
from extproc.core.translated import without_unsayable
from extproc.ledger.port import Hold, Standing
from extproc.policy.snapshot import Target
from extproc.values.limit import Amounts, Breach, BreachKind, Limit, Scope, Unit
from extproc.wire.capabilities import needed_capabilities
from extproc.wire.inference_request import InferenceRequest
from extproc.wire.reasoning import (
    MIN_THINKING_TOKENS,
    NO_EDITS,
    SAID_OF_EDITS,
    Edits,
    less_effort,
    less_thinking,
    thinking_budget_tokens,
)


class Way(NamedTuple):
    """One way to go on after a refusal."""

    chain: Chain
    request: InferenceRequest
    """As this way serves it: at most with the maximum that the breached limits leave."""
    edits: Edits
    """What else of the body is asked for otherwise."""
    floor: int
    """The lowest maximum that the answer may be cut to."""
    moved: Sequence[Hold]
    """The breached holds as this traffic takes them: overflow counter, or the whole ceiling."""
    fallback_from: str
    """Ids of the rules that moved it to another model; empty where it stays."""
    degraded_by: str
    """Ids of the rules that degrade it; empty where none does."""


class Asked(NamedTuple):
    """What was asked for, and the state that says what else there is."""

    request: InferenceRequest
    route: Route
    chain: Chain
    """As drawn."""
    generation: Generation
    gate: Gate
    now_ms: int
    estimate: Callable[[InferenceRequest, Target], Amounts]
    """What a request is reserved at."""
    choose: Callable[[Route], Chain]
    """The chain of the request at another model."""
    limits_at: Callable[[Target], Sequence[Limit]]
    """The limits that apply at a target."""

    @property
    def least_output_tokens(self) -> int:
        """The policy's floor of an answer."""
        return self.generation.policy.min_output_tokens

    def bound_tokens(self, request: InferenceRequest, target: Target) -> int:
        """The most output tokens of one choice."""
        return output_bound_tokens(
            request, target, self.generation.policy.default_max_output_tokens
        )


def ways_on(standings: Sequence[Standing], asked: Asked) -> list[Way]:
    """How a request may still be served, best first; empty when it must be refused.

    One breached limit that blocks (or whose action is not built yet) decides for all of them.
    """
    breaches = [standing.hold.limit.breach for standing in standings]
    if any(breach.kind not in _WAYS_OUT for breach in breaches):
        return []
    moved = [moved_to_fallback(standing.hold) for standing in standings]
    left = [standing._replace(hold=hold) for standing, hold in zip(standings, moved, strict=True)]
    degraded_by = _rules(standings, (BreachKind.DEGRADE,))
    fallback_from = _rules(standings, _FALLBACKS)
    request, edits = asked.request, NO_EDITS
    floor = floor_tokens(request, asked.least_output_tokens)
    if degraded_by:
        degraded = _degraded(standings, asked)
        if degraded is None:
            return []
        request, edits, floor = degraded
    chains = [asked.chain]
    if fallback_from:
        breach = next(breach for breach in breaches if breach.kind in _FALLBACKS)
        request, chains = _fallback_chains(breach, request, asked)
    ways = []
    for chain in chains:
        target = chain.targets[0]
        served = _afforded(fitted(request, target, floor), target, floor, left, asked)
        if served is not None:
            ways.append(Way(chain, served, edits, floor, moved, fallback_from, degraded_by))
    return ways


def notes_of(
    asked: InferenceRequest,
    served: InferenceRequest,
    way: Way | None,
    store_degraded: str,
    dropped: Sequence[str] = (),
) -> list[tuple[str, str]]:
    """What the answer says of a request that is not served as it was asked: ``Forward.notes``."""
    notes = [("degraded", store_degraded)] if store_degraded else []
    if dropped:
        notes.append(("dropped", ",".join(dropped)))
    cut = []
    if served.max_output_tokens != asked.max_output_tokens:
        cut.append(f"max_tokens={served.max_output_tokens}")
    if way is not None:
        cut += [SAID_OF_EDITS[key] for key in way.edits]
        if way.degraded_by:
            cut.append(f"degraded_by={way.degraded_by}")
        if way.fallback_from:
            notes.append(("overflow", way.fallback_from))
    if cut:
        notes.append(("clamped", ", ".join(cut)))
    return notes


def fitted(request: InferenceRequest, target: Target, floor: int) -> InferenceRequest:
    """The request with a maximum that the target takes: a model refuses one above its own. What
    could not be answered within that is left to the provider to refuse."""
    most = target.price.max_output_tokens
    named = request.max_output_tokens
    if most is None or named is None or named <= most or most < floor:
        return request
    return with_maximum(request, most)


def _afforded(
    request: InferenceRequest,
    target: Target,
    floor: int,
    left: Sequence[Standing],
    asked: Asked,
) -> InferenceRequest | None:
    """The request, clamped if need be to what the breached counters leave; None if nothing fits."""
    left = [standing for standing in left if _is_counted(standing, target, asked)]
    if fits(left, asked.estimate(request, target)):
        return request
    bound = asked.bound_tokens(request, target)
    return clamped(request, bound, floor, left, lambda cut: asked.estimate(cut, target))


def _is_counted(standing: Standing, target: Target, asked: Asked) -> bool:
    """Whether the full counter is one that the request would fill at the target too."""
    if target.provider.name == asked.chain.targets[0].provider.name:
        return True
    limit = standing.hold.limit
    return Scope.PROVIDER not in limit.scope and limit in asked.limits_at(target)


def _degraded(
    standings: Sequence[Standing], asked: Asked
) -> tuple[InferenceRequest, Edits, int] | None:
    """The request with a short answer and little reasoning, and its floor; None where it must think
    for longer than the answer may be."""
    request, least = asked.request, asked.least_output_tokens
    if not request.generates:
        return None
    most = min(
        standing.hold.limit.degrade_max_output_tokens
        for standing in standings
        if standing.hold.limit.breach.kind is BreachKind.DEGRADE
    )
    least = min(least, most)
    edits = less_effort(request)
    thinking = thinking_budget_tokens(request)
    if thinking and thinking + least > most:
        edits = less_thinking(request)
        thinking = min(thinking, MIN_THINKING_TOKENS)
        if thinking + least > most:
            return None
    bound = min(most, asked.bound_tokens(request, asked.chain.targets[0]))
    return with_maximum(request, bound), edits, floor_tokens(request, least, thinking)


def _fallback_chains(
    breach: Breach, request: InferenceRequest, asked: Asked
) -> tuple[InferenceRequest, list[Chain]]:
    """Where the request could go, by what it needs of a model, and how long it becomes there."""
    generation, gate, route = asked.generation, asked.gate, asked.route
    needed = needed_capabilities(request)

    def serves(target: Target) -> bool:
        return not needed & target.lacks and _within_context(request, target, asked)

    if breach.kind is BreachKind.FALLBACK_TO:
        named = generation.fallback_route(breach, route.operation)
        chain = asked.choose(named)
        first = asked.chain.targets[0]
        # A call that is on the fallback already stays where it is.
        same = [target for target in chain.targets if target.name == first.name]
        targets = (*same, *(target for target in chain.targets if target not in same))
        able = tuple(target for target in targets if serves(target))
        request, chain, _ = without_unsayable(request, named.in_order(able))
        return request, [chain] if chain.targets else []

    def worst_case(target: Target) -> int:
        return asked.estimate(request, target)[Unit.MICRO_USD]

    limit = worst_case(asked.chain.targets[0])
    policy = route.model.breaker
    cheaper = [
        target
        for target in asked.chain.targets
        if worst_case(target) < limit
        and serves(target)
        and gate.breakers.admits(target.name, policy, asked.now_ms)
    ]
    # The dearest first: the closest to what was asked for that still fits the money.
    cheaper.sort(key=worst_case, reverse=True)
    return request, [route.alone(target) for target in cheaper]


def _within_context(request: InferenceRequest, target: Target, asked: Asked) -> bool:
    """Whether the request is likely to fit the model's context. By the byte bound no agent's call
    of 200 KB would fit any model; a wrong guess here costs an error, not money."""
    context = target.price.context_tokens
    if context is None:
        return True
    input_tokens, _ = asked.gate.estimator.likely_tokens(
        target.canonical_model, request.body_bytes, 0
    )
    request = fitted(request, target, 0)
    return input_tokens + asked.bound_tokens(request, target) <= context


def _rules(standings: Sequence[Standing], kinds: Sequence[BreachKind]) -> str:
    ids = [s.hold.limit.rule_id for s in standings if s.hold.limit.breach.kind in kinds]
    return ",".join(dict.fromkeys(ids))


_FALLBACKS = (BreachKind.FALLBACK_TO, BreachKind.FALLBACK_TO_CHEAPER)
_WAYS_OUT = (*_FALLBACKS, BreachKind.DEGRADE)
