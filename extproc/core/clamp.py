"""A shorter answer instead of a refusal: how many output tokens the remainder of full limits buys.

There is one estimate and no second formula beside it: the largest maximum is searched whose own
estimate fits, so what is reserved for the clamped request is what was found to fit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from extproc.ledger.port import Standing
from extproc.values.limit import Amounts
from extproc.wire.inference_request import InferenceRequest
from extproc.wire.reasoning import thinking_budget_tokens

MAX_CLAMPS = 3
"""Tries for one target. Another caller may take the remainder between an answer of a shared store
and the next question; who loses that often against others gets the breach action."""


def floor_tokens(
    request: InferenceRequest, least_output_tokens: int, thinking_tokens: int | None = None
) -> int:
    """The lowest maximum that an answer may be cut to.

    A thinking budget is left whole, because another one makes the provider forget its prompt cache,
    and the answer itself still has the policy's least on top of it. ``thinking_tokens`` stands in
    for the budget where an edit changes that.
    """
    if thinking_tokens is None:
        thinking_tokens = thinking_budget_tokens(request)
    return least_output_tokens + thinking_tokens


def clamped(
    request: InferenceRequest,
    bound_tokens: int,
    floor: int,
    standings: Sequence[Standing],
    estimate: Callable[[InferenceRequest], Amounts],
) -> InferenceRequest | None:
    """The request with the largest output maximum below ``bound_tokens`` that every full hold has
    room for; None where not even ``floor`` fits, or the limit is not one of output at all.

    ``estimate`` gives a request's amounts; it never falls when the maximum grows.
    """

    def affordable(maximum: int) -> bool:
        return fits(standings, estimate(with_maximum(request, maximum)))

    if not request.generates or bound_tokens <= floor or not affordable(floor):
        return None
    bought, too_many = floor, bound_tokens
    while too_many - bought > 1:
        middle = (bought + too_many) // 2
        if affordable(middle):
            bought = middle
        else:
            too_many = middle
    return with_maximum(request, bought)


def fits(standings: Sequence[Standing], amounts: Amounts) -> bool:
    """Whether all of these counters have room for the amounts."""
    return all(
        standing.settled + standing.reserved + amounts[standing.hold.limit.unit]
        <= standing.hold.ceiling
        for standing in standings
    )


def with_maximum(request: InferenceRequest, maximum: int) -> InferenceRequest:
    """The request as it would be with another output maximum; its body is rewritten later."""
    return request._replace(max_output_tokens=maximum)
