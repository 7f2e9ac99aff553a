"""Refusals as the caller's SDK expects them: body and headers, in its dialect."""

from __future__ import annotations

from datetime import UTC, datetime

import orjson

from extproc.values.dialect import Dialect
from extproc.values.money import MICRO_USD_PER_USD
from extproc.values.refusal import LimitState, Refusal, RefusalCode

MAX_TEXT_CHARACTERS = 1_000
"""Of any single text in an error body. Ours are shorter; a rule's id comes from policy text."""

_ANTHROPIC_TYPE = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "request_too_large",
    415: "invalid_request_error",
    429: "rate_limit_error",
    503: "api_error",
}
"""By status: the types that Anthropic's SDK and its users branch on."""
_ANTHROPIC_OVERLOADED = "overloaded_error"
"""Said only when providers cannot serve: it is what Anthropic itself says then."""

_LAST_TIME = datetime(9999, 12, 31, tzinfo=UTC)


def refusal_body(dialect: Dialect, refusal: Refusal, request_id: str, generation: int) -> bytes:
    """The JSON body of a refusal."""
    metadata = refusal_metadata(refusal, request_id, generation)
    if dialect is Dialect.ANTHROPIC:
        document: dict[str, object] = {
            "type": "error",
            "error": {
                "type": _anthropic_type(refusal),
                "message": _text(refusal.message),
                "metadata": metadata,
            },
            "request_id": _text(request_id),
        }
    else:
        document = {
            "error": {
                "message": _text(refusal.message),
                "type": refusal.code.value,
                "param": None if refusal.param is None else _text(refusal.param),
                "code": refusal.code.value,
                "metadata": metadata,
            }
        }
    return orjson.dumps(document)


def refusal_metadata(refusal: Refusal, request_id: str, generation: int) -> dict[str, object]:
    """What programs read of a refusal, the same in every dialect."""
    metadata: dict[str, object] = {_text(key): _text(value) for key, value in refusal.extra}
    metadata |= {
        "code": refusal.code.value,
        "retryable": refusal.retryable,
        "request_id": _text(request_id),
        "policy_generation": generation,
    }
    if refusal.limit is not None:
        metadata |= _limit_metadata(refusal.limit)
    return metadata


def refusal_headers(refusal: Refusal) -> list[tuple[str, str]]:
    """Headers that steer the client's retries, and name the content type."""
    headers = [("content-type", "application/json")]
    if refusal.retryable:
        headers.append(("retry-after", str(refusal.retry_after_s)))
    elif refusal.code is RefusalCode.INTERNAL_ERROR:
        pass  # our own fault may be gone at the next try: the SDK's usual back-off applies
    else:
        headers.append(("x-should-retry", "false"))
    return headers


def amount_text(unit: str, amount: int) -> str:
    """An amount for people: dollars to the micro-dollar, or a plain count."""
    if unit != "usd":
        return str(amount)
    whole, fraction = divmod(abs(amount), MICRO_USD_PER_USD)
    digits = f"{fraction:06d}".rstrip("0").ljust(2, "0")
    return f"{'-' if amount < 0 else ''}{whole}.{digits}"


def _limit_metadata(limit: LimitState) -> dict[str, object]:
    def number(amount: int) -> object:
        return amount_text("usd", amount) if limit.unit == "usd" else amount

    return {
        "rule_id": _text(limit.rule_id),
        "scope": limit.scope,
        "window": limit.window,
        "unit": limit.unit,
        "limit": number(limit.limit),
        "spent": number(limit.spent),
        "reserved": number(limit.reserved),
        "estimated": number(limit.estimated),
        "resets_at": None if limit.resets_at_ms is None else rfc3339(limit.resets_at_ms),
    }


def _anthropic_type(refusal: Refusal) -> str:
    if refusal.code is RefusalCode.NO_HEALTHY_TARGET:
        return _ANTHROPIC_OVERLOADED
    return _ANTHROPIC_TYPE[refusal.status]


def rfc3339(time_ms: int) -> str:
    """A time in whole seconds, in UTC."""
    seconds = min(time_ms // 1000, int(_LAST_TIME.timestamp()))
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _text(text: str) -> str:
    """Bounded, and always encodable: a text from elsewhere must not make the refusal fail."""
    return text[:MAX_TEXT_CHARACTERS].encode("utf-8", "replace").decode()
