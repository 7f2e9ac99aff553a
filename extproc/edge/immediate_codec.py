"""Immediate responses: refusals and documents of our own, which Envoy sends at once."""

from __future__ import annotations

from collections.abc import Iterable

from extproc.core.commands import Answer, Refuse
from extproc.edge.header_text import header_text, set_headers
from extproc.pb import extproc_pb2 as pb
from extproc.values.refusal import LimitState, Refusal, RefusalCode
from extproc.values.wire_names import ANSWER_HEADERS, REFUSED_DETAILS
from extproc.wire.error_body import amount_text, refusal_body, refusal_headers


def encode_refuse(command: Refuse) -> bytes:
    """The refusal in the caller's dialect."""
    refusal = command.refusal
    headers = told_headers(refusal, command.rules, command.generation)
    if refusal.limit is not None and refusal.code is not RefusalCode.SPEND_VELOCITY_EXCEEDED:
        # What a minute has left is no budget, and a client could take it for one.
        headers += _limit_headers(refusal.limit, refusal.retry_after_s)
    body = refusal_body(command.dialect, refusal, command.request_id, command.generation)
    return immediate(refusal.status, headers, body)


def encode_answer(command: Answer) -> bytes:
    """A document of our own."""
    headers = [
        ("content-type", "application/json"),
        ("x-tfy-policy-generation", str(command.generation)),
    ]
    return immediate(200, headers, command.body)


def told_headers(refusal: Refusal, rules: str, generation: int) -> list[tuple[str, str]]:
    """What the headers of every refusal say; ``rules`` are those that the request was booked on."""
    headers = refusal_headers(refusal)
    headers.append(("x-tfy-policy-generation", str(generation)))
    if rules:
        headers.append(("x-tfy-applied-rules", header_text(rules)))
    for key, text in refusal.extra:
        if key in ANSWER_HEADERS:
            headers.append((ANSWER_HEADERS[key], header_text(text)))
    return headers


def _limit_headers(limit: LimitState, retry_after_s: int | None) -> list[tuple[str, str]]:
    left = max(0, limit.limit - limit.spent - limit.reserved)
    if limit.unit == "usd":
        return [("x-budget-remaining-usd", amount_text("usd", left))]
    kind = "requests" if limit.unit == "requests" else "tokens"
    headers = []
    if retry_after_s is not None:
        headers.append((f"x-ratelimit-reset-{kind}", f"{retry_after_s}s"))
    headers.append((f"x-ratelimit-limit-{kind}", str(limit.limit)))
    headers.append((f"x-ratelimit-remaining-{kind}", str(left)))
    return headers


def immediate(status: int, headers: Iterable[tuple[str, str]], body: bytes) -> bytes:
    """The message."""
    response = pb.ProcessingResponse()
    written = response.immediate_response
    written.status.code = status
    written.body = body
    written.details = REFUSED_DETAILS
    set_headers(written.headers, headers)
    return response.SerializeToString()
