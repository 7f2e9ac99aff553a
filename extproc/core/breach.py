"""What a breached limit leads to: another chain to try, or nothing but the refusal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from extproc.core.estimate import estimate_amounts
from extproc.core.gate import Gate
from extproc.core.generation import Generation
from extproc.core.holds import moved_to_fallback
from extproc.core.routing import Chain, Route
from extproc.ledger.port import Hold, Standing
from extproc.policy.snapshot import Target
from extproc.values.limit import BreachKind, Unit
from extproc.wire.inference_request import InferenceRequest


class Fallback(NamedTuple):
    """One way to go on after a refusal."""

    chain: Chain
    moved: Sequence[Hold]
    """The breached holds as this traffic takes them: overflow counter, or the whole ceiling."""


def fallbacks_for(
    standings: Sequence[Standing],
    request: InferenceRequest,
    route: Route,
    asked: Target,
    generation: Generation,
    gate: Gate,
    now_ms: int,
) -> list[Fallback]:
    """Where a request may still go, best first; empty when it must be refused.

    One breached limit that blocks (or whose action is not built yet) decides for all of them.
    """
    if any(standing.hold.limit.breach.kind not in _FALLBACKS for standing in standings):
        return []
    breach = standings[0].hold.limit.breach
    moved = [moved_to_fallback(standing.hold) for standing in standings]
    if breach.kind is BreachKind.FALLBACK_TO:
        named = generation.fallback_route(breach, route.dialect)
        chain = named.draw(0.0, gate.breakers, now_ms)
        return [Fallback(chain, moved)] if chain.targets else []
    default_tokens = generation.policy.default_max_output_tokens

    def worst_case(target: Target) -> int:
        return estimate_amounts(request, target, default_tokens, gate.estimator)[Unit.MICRO_USD]

    limit = worst_case(asked)
    policy = route.model.breaker
    cheaper = [
        target
        for target in route.targets
        if worst_case(target) < limit and gate.breakers.admits(target.name, policy, now_ms)
    ]
    # The dearest first: the closest to what was asked for that still fits the money.
    cheaper.sort(key=worst_case, reverse=True)
    return [Fallback(Chain(route.dialect, (target,), policy), moved) for target in cheaper]


_FALLBACKS = (BreachKind.FALLBACK_TO, BreachKind.FALLBACK_TO_CHEAPER)
