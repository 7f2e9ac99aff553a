"""The refusals that decisions make, in words for people."""

from __future__ import annotations

from collections.abc import Sequence

from extproc.core.velocity import MINUTE_MS, TooFast
from extproc.ledger.port import Standing
from extproc.values.limit import TOOL_CALLS, Limit, Scope, Unit
from extproc.values.refusal import LimitState, Refusal, RefusalCode
from extproc.values.window import SlidingWindow
from extproc.wire.error_body import amount_text
from extproc.wire.inference_request import InferenceRequest

UNIT_NAME = {
    Unit.REQUESTS: "requests",
    Unit.TOKENS: "tokens",
    Unit.INPUT_TOKENS: "input_tokens",
    Unit.OUTPUT_TOKENS: "output_tokens",
    Unit.MICRO_USD: "usd",
    Unit.LIKELY_MICRO_USD: "usd",
}
"""What policies and callers call a unit."""

INTERNAL_ERROR = Refusal(RefusalCode.INTERNAL_ERROR, "The gateway failed to decide this request.")
LEDGER_FAILED = Refusal(
    RefusalCode.STORE_UNAVAILABLE,
    "The usage store cannot be reached, so nothing may be spent.",
    retry_after_s=1,
    extra=(("degraded", "store_unavailable"),),
)
INVALID_CREDENTIAL = Refusal(RefusalCode.INVALID_CREDENTIAL, "The API key is not valid.")
UNREADABLE_ANSWER = Refusal(
    RefusalCode.NO_HEALTHY_TARGET, "The provider's answer could not be read. It is charged."
)
NO_FIRST_TOKEN = Refusal(
    RefusalCode.NO_HEALTHY_TARGET, "No target began to answer in time.", retry_after_s=1
)
TOO_MANY_IN_FLIGHT = Refusal(
    RefusalCode.STORE_UNAVAILABLE, "Too many requests await their settlement.", retry_after_s=1
)


def over_limit(standing: Standing, estimated: int, now_ms: int) -> Refusal:
    """The refusal of a limit that is full, or too small for the request."""
    limit = standing.hold.limit
    unit = TOOL_CALLS if limit.of_tools else UNIT_NAME[limit.unit]
    resets_at_ms = standing.resets_at_ms
    retry_after_s = None
    if resets_at_ms is not None:
        retry_after_s = max(1, -(-(resets_at_ms - now_ms) // 1000))
    state = LimitState(
        rule_id=limit.rule_id,
        scope=scope_text(limit),
        window=str(limit.window),
        unit=unit,
        limit=standing.hold.ceiling,
        spent=standing.settled,
        reserved=standing.reserved,
        estimated=estimated,
        resets_at_ms=resets_at_ms,
    )
    kind = "budget" if limit.is_budget else "limit"
    of = f"{amount_text(unit, state.limit)} {unit} per {state.window} for this {state.scope}"
    message = (
        f"The {kind} {limit.rule_id!r} ({of}) has {amount_text(unit, state.spent)} spent and "
        f"{amount_text(unit, state.reserved)} reserved; this request may need "
        f"{amount_text(unit, estimated)} more."
    )
    code = RefusalCode.BUDGET_EXCEEDED if limit.is_budget else RefusalCode.RATE_LIMIT_EXCEEDED
    return Refusal(code, message, retry_after_s, state)


def too_fast(trip: TooFast, estimated: int, now_ms: int) -> Refusal:
    """An open velocity breaker. ``estimated`` is the likely cost, micro-USD."""
    rule = trip.rule
    state = LimitState(
        rule_id=rule.id,
        scope=_joined(rule.scope),
        window=str(SlidingWindow(MINUTE_MS)),
        unit="usd",
        limit=trip.limit,
        spent=trip.spent,
        reserved=trip.reserved,
        estimated=estimated,
        resets_at_ms=trip.retry_at_ms,
    )
    message = (
        f"Spending for this {state.scope} was faster than {amount_text('usd', trip.limit)} usd per "
        f"minute, so the velocity breaker {rule.id!r} has stopped it for a while."
    )
    retry_after_s = max(1, -(-(trip.retry_at_ms - now_ms) // 1000))
    return Refusal(RefusalCode.SPEND_VELOCITY_EXCEEDED, message, retry_after_s, state)


def killed(field: str) -> Refusal:
    """The kill switch stops the request for one of its fields. Neither the value nor who stopped it
    is told."""
    message = f"Requests with this {field} are stopped by the operator's kill switch."
    return Refusal(RefusalCode.KILLED, message, extra=(("field", field),))


def queue_full(limit: Limit) -> Refusal:
    """The limit is full, and so is its queue. Whoever waits now has gone by the time named."""
    message = f"{_named(limit)} is full, and too many requests wait for it already."
    return _not_waiting(limit, message, max(1, limit.max_wait_ms // 1000))


def stopping(limit: Limit) -> Refusal:
    """The gateway stops while the request waits: another one, or the next, may serve it."""
    message = f"{_named(limit)} is full, and the gateway is being stopped."
    return _not_waiting(limit, message, 1)


def _not_waiting(limit: Limit, message: str, retry_after_s: int) -> Refusal:
    code = RefusalCode.BUDGET_EXCEEDED if limit.is_budget else RefusalCode.RATE_LIMIT_EXCEEDED
    extra = (("rule_id", limit.rule_id), ("scope", scope_text(limit)))
    return Refusal(code, message, retry_after_s, extra=extra)


def _named(limit: Limit) -> str:
    return f"The {'budget' if limit.is_budget else 'limit'} {limit.rule_id!r}"


def too_many_sessions(max_sessions: int) -> Refusal:
    """A credential opened more sessions today than it may."""
    message = f"This credential has opened its {max_sessions} sessions of today."
    return Refusal(RefusalCode.RATE_LIMIT_EXCEEDED, message)


def unknown_model() -> Refusal:
    """The name is no virtual model. The name itself is not repeated."""
    message = "The model does not exist. GET /v1/models lists those you may use."
    return Refusal(RefusalCode.UNKNOWN_MODEL, message, param="model")


def model_not_allowed() -> Refusal:
    """The credential may not ask for this model."""
    message = "This credential may not use the model. GET /v1/models lists those it may use."
    return Refusal(RefusalCode.MODEL_NOT_ALLOWED, message, param="model")


def dialect_not_served(model: str, dialect: str) -> Refusal:
    """No target of the model speaks the caller's dialect."""
    message = f"No target of {model} can be reached in the {dialect} dialect."
    return Refusal(RefusalCode.NO_HEALTHY_TARGET, message, param="model")


def all_targets_open(model: str, retry_after_ms: int) -> Refusal:
    """Every target's circuit breaker is open."""
    message = f"Every target of {model} has failed recently."
    retry_after_s = max(1, -(-retry_after_ms // 1000))
    return Refusal(RefusalCode.NO_HEALTHY_TARGET, message, retry_after_s, param="model")


def no_rule_applies(model: str) -> Refusal:
    """Targets could serve, but the conditions of the policy's rules leave none of them."""
    message = f"No rule of {model} applies to this request: their conditions do not hold for it."
    return Refusal(RefusalCode.NO_HEALTHY_TARGET, message, param="model")


def context_limit_exceeded(model: str, context_tokens: int) -> Refusal:
    """The request is too long for every target."""
    message = (
        f"The request is longer than the context of every target of {model} "
        f"(the largest has {context_tokens} tokens)."
    )
    return Refusal(RefusalCode.CONTEXT_LIMIT_EXCEEDED, message)


def unbounded(request: InferenceRequest) -> Refusal:
    """What no price bounds was asked for where money is bounded."""
    return server_tools() if request.server_tools else dearer_variant()


def server_tools() -> Refusal:
    """Tools that the provider bills per call cannot be bounded in dollars."""
    message = (
        "The request names tools that run at the provider and are billed per call; "
        "a strict budget cannot bound them."
    )
    return Refusal(RefusalCode.INVALID_REQUEST, message, param="tools")


def dearer_variant() -> Refusal:
    """Variants above the listed price (priority tiers, fast modes) have no price to bound."""
    message = (
        "The request asks for a variant above the standard price (a priority tier, a fast mode, a "
        "region or a longer context); a strict budget has no price to bound it with."
    )
    return Refusal(RefusalCode.INVALID_REQUEST, message, param="service_tier")


def empty_body() -> Refusal:
    """A call without a body."""
    return Refusal(RefusalCode.INVALID_REQUEST, "The request has no body.")


def unusable_query() -> Refusal:
    """A query that is longer than any it could be."""
    return Refusal(RefusalCode.INVALID_REQUEST, "The query is too long.", param="query")


def scope_text(limit: Limit) -> str:
    """A limit's scope for people and metadata."""
    return _joined(limit.scope)


def _joined(scope: Sequence[Scope]) -> str:
    return "+".join(scope) or "policy"
