from __future__ import annotations

from dataclasses import replace
from typing import Any

import anthropic
import httpx
import httpx2
import openai
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.values.dialect import Dialect
from extproc.values.refusal import STATUS_OF, LimitState, Refusal, RefusalCode
from extproc.wire.error_body import (
    MAX_TEXT_CHARACTERS,
    amount_text,
    refusal_body,
    refusal_headers,
)

BUDGET = Refusal(
    RefusalCode.BUDGET_EXCEEDED,
    "The budget 'intern-sandbox-cap' is spent.",
    limit=LimitState(
        rule_id="intern-sandbox-cap",
        scope="project",
        window="monthly",
        unit="usd",
        limit=500_000_000,
        spent=499_000_001,
        reserved=900_000,
        estimated=250_000,
        resets_at_ms=1_793_491_200_000,
    ),
)
RATE = Refusal(
    RefusalCode.RATE_LIMIT_EXCEEDED,
    "Too many tokens.",
    retry_after_s=12,
    limit=LimitState("loop", "session", "1h", "tokens", 200_000, 199_000, 500, 4_000, None),
)
IDENTITY = Refusal(RefusalCode.IDENTITY_REQUIRED, "Missing X-TFY-Project.", param="x-tfy-project")


def parsed(dialect: Dialect, refusal: Refusal) -> dict[str, Any]:
    document: dict[str, Any] = orjson.loads(refusal_body(dialect, refusal, "req-1", 12))
    return document


# -- golden bodies --------------------------------------------------------------------------------

BUDGET_METADATA = {
    "code": "budget_exceeded",
    "retryable": False,
    "request_id": "req-1",
    "policy_generation": 12,
    "rule_id": "intern-sandbox-cap",
    "scope": "project",
    "window": "monthly",
    "unit": "usd",
    "limit": "500.00",
    "spent": "499.000001",
    "reserved": "0.90",
    "estimated": "0.25",
    "resets_at": "2026-11-01T00:00:00Z",
}


def test_openai_shape() -> None:
    assert parsed(Dialect.OPENAI, BUDGET) == {
        "error": {
            "message": "The budget 'intern-sandbox-cap' is spent.",
            "type": "budget_exceeded",
            "param": None,
            "code": "budget_exceeded",
            "metadata": BUDGET_METADATA,
        }
    }


def test_anthropic_shape() -> None:
    assert parsed(Dialect.ANTHROPIC, BUDGET) == {
        "type": "error",
        "error": {
            "type": "rate_limit_error",
            "message": "The budget 'intern-sandbox-cap' is spent.",
            "metadata": BUDGET_METADATA,
        },
        "request_id": "req-1",
    }


def test_a_limit_in_tokens_is_told_in_plain_numbers() -> None:
    metadata = parsed(Dialect.OPENAI, RATE)["error"]["metadata"]
    assert (metadata["limit"], metadata["spent"], metadata["unit"]) == (200_000, 199_000, "tokens")
    assert metadata["resets_at"] is None
    assert metadata["retryable"] is True


def test_a_refusal_without_a_limit_names_its_parameter() -> None:
    error = parsed(Dialect.OPENAI, IDENTITY)["error"]
    assert (error["param"], error["code"]) == ("x-tfy-project", "identity_required")
    assert "limit" not in error["metadata"]


def test_extra_never_overrides_what_the_contract_names() -> None:
    refusal = replace(IDENTITY, extra=(("detail", "x"), ("code", "forged")))
    metadata = parsed(Dialect.OPENAI, refusal)["error"]["metadata"]
    assert (metadata["detail"], metadata["code"]) == ("x", "identity_required")


@pytest.mark.parametrize(
    ("unit", "amount", "text"),
    [
        ("usd", 0, "0.00"),
        ("usd", 1, "0.000001"),
        ("usd", 1_500_000, "1.50"),
        ("usd", 4_000_000_000, "4000.00"),
        ("usd", -250_000, "-0.25"),
        ("usd", 2**53 - 1, "9007199254.740991"),
        ("tokens", 200_000, "200000"),
    ],
)
def test_amounts_are_exact(unit: str, amount: int, text: str) -> None:
    assert amount_text(unit, amount) == text


# -- retries --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("refusal", "expected"),
    [
        (RATE, {"retry-after": "12"}),
        (replace(RATE, retry_after_s=60), {"retry-after": "60"}),
        (replace(RATE, retry_after_s=61), {"x-should-retry": "false"}),
        (BUDGET, {"x-should-retry": "false"}),
        (Refusal(RefusalCode.STORE_UNAVAILABLE, "no"), {"x-should-retry": "false"}),
        (Refusal(RefusalCode.INTERNAL_ERROR, "oops"), {}),
    ],
)
def test_headers_steer_retries(refusal: Refusal, expected: dict[str, str]) -> None:
    assert dict(refusal_headers(refusal)) == {"content-type": "application/json"} | expected


# -- F45 ------------------------------------------------------------------------------------------

ANY_TEXT = st.text(max_size=30) | st.just("a\r\nset-cookie: x") | st.just("\ud800")


@given(
    st.sampled_from(RefusalCode),
    ANY_TEXT,
    st.none() | st.integers(0, 10**9),
    st.none() | ANY_TEXT,
    ANY_TEXT,
    st.integers(0, 2**62),
)
def test_F45_any_text_makes_a_valid_body_and_clean_headers(
    code: RefusalCode, message: str, retry_s: int | None, param: str | None, rule: str, big: int
) -> None:
    limit = LimitState(rule, "user", "1d", "usd", big, big, big, big, big)
    refusal = Refusal(code, message, retry_s, limit, param, ((rule, message),))
    for dialect in (Dialect.OPENAI, Dialect.ANTHROPIC):
        assert orjson.loads(refusal_body(dialect, refusal, message, 1))["error"]["message"] in (
            message,
            "?",
        )
    for name, value in refusal_headers(refusal):
        assert (name + value).isascii()
        assert (name + value).isprintable()


def test_F45_texts_are_bounded() -> None:
    refusal = Refusal(RefusalCode.INVALID_REQUEST, "m" * 10**6, param="p" * 10**6)
    body = refusal_body(Dialect.OPENAI, refusal, "r" * 10**6, 1)
    assert len(body) < 4 * MAX_TEXT_CHARACTERS


# -- what the SDKs make of it ---------------------------------------------------------------------

RAISED = {
    400: "BadRequestError",
    401: "AuthenticationError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    429: "RateLimitError",
}
ANTHROPIC_TYPE = {
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
EVERY_CODE = pytest.mark.parametrize("code", RefusalCode)


def answering(library: Any, dialect: Dialect, refusal: Refusal, calls: list[str]) -> Any:
    """An HTTP client whose every call is answered with one refusal. The two SDKs build on
    different major versions of one library."""
    body = refusal_body(dialect, refusal, "req-1", 12)

    def answer(request: Any) -> Any:
        calls.append(str(request.url))
        headers = [*refusal_headers(refusal), ("x-request-id", "req-1")]
        return library.Response(refusal.status, headers=headers, content=body)

    return library.Client(transport=library.MockTransport(answer))


def through_openai(refusal: Refusal) -> tuple[openai.APIStatusError, int]:
    calls: list[str] = []
    with (
        answering(httpx, Dialect.OPENAI, refusal, calls) as http,
        openai.OpenAI(
            api_key="k", base_url="http://gateway/v1", http_client=http, max_retries=1
        ) as client,
        pytest.raises(openai.APIStatusError) as caught,
    ):
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
    return caught.value, len(calls)


def through_anthropic(refusal: Refusal) -> tuple[anthropic.APIStatusError, int]:
    calls: list[str] = []
    with (
        answering(httpx2, Dialect.ANTHROPIC, refusal, calls) as http,
        anthropic.Anthropic(
            api_key="k", base_url="http://gateway", http_client=http, max_retries=1
        ) as client,
        pytest.raises(anthropic.APIStatusError) as caught,
    ):
        client.messages.create(model="m", max_tokens=5, messages=[{"role": "user", "content": "x"}])
    return caught.value, len(calls)


@EVERY_CODE
def test_openai_sdk_raises_its_own_typed_error_once(code: RefusalCode) -> None:
    # A retry of our own fault is right, but waits; without the header's word nothing else does.
    if code is RefusalCode.INTERNAL_ERROR:
        assert refusal_headers(Refusal(code, "x")) == [("content-type", "application/json")]
        return
    error, calls = through_openai(Refusal(code, "A readable reason.", param="model"))
    assert calls == 1
    assert error.status_code == STATUS_OF[code]
    if error.status_code in RAISED:
        assert type(error).__name__ == RAISED[error.status_code]
    assert "A readable reason." in str(error)
    assert (error.code, error.param, error.request_id) == (code.value, "model", "req-1")


@EVERY_CODE
def test_anthropic_sdk_raises_its_own_typed_error_once(code: RefusalCode) -> None:
    if code is RefusalCode.INTERNAL_ERROR:
        assert parsed(Dialect.ANTHROPIC, Refusal(code, "x"))["error"]["type"] == "api_error"
        return
    error, calls = through_anthropic(Refusal(code, "A readable reason."))
    assert calls == 1
    assert error.status_code == STATUS_OF[code]
    if error.status_code in RAISED:
        assert type(error).__name__ == RAISED[error.status_code]
    assert "A readable reason." in str(error)
    assert isinstance(error.body, dict)
    expected = ANTHROPIC_TYPE[error.status_code]
    if code is RefusalCode.NO_HEALTHY_TARGET:
        expected = "overloaded_error"
    assert error.body["error"]["type"] == expected
    assert error.body["error"]["metadata"]["code"] == code.value


def test_sdks_retry_where_a_retry_can_succeed() -> None:
    soon = replace(RATE, retry_after_s=0)
    for through in (through_openai, through_anthropic):
        error, calls = through(soon)
        assert type(error).__name__ == "RateLimitError"
        assert calls == 2
