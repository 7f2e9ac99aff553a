"""Anthropic's messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from extproc.demo.answer import (
    Answer,
    BadRequestError,
    Events,
    Json,
    allow,
    allow_maximum,
    event,
    require,
    require_messages,
)

MAXIMA = ("max_tokens",)


def check(body: Json) -> None:
    """Raises BadRequestError where the real API answers 400."""
    check_count(body)
    require(body, "max_tokens", int)
    allow_maximum(body, "max_tokens")
    allow(body, "stream", bool)


def check_count(body: Json) -> None:
    """As ``check``, for counting tokens."""
    require(body, "model", str)
    require_messages(body)
    allow(body, "system", (str, list))


def check_version(headers: Mapping[str, str]) -> None:
    """Raises BadRequestError without an ``anthropic-version``."""
    if not headers.get("anthropic-version"):
        raise BadRequestError("anthropic-version: header is required")


def document(answer: Answer) -> Json:
    """A message."""
    message = _message(answer)
    message["content"] = [{"type": "text", "text": "".join(answer.words())}]
    message["stop_reason"] = _stop_reason(answer)
    if not answer.omit_usage:
        message["usage"] = usage(answer)
    return message


def events(answer: Answer) -> Events:
    """A messages stream: input tokens in its first event, output tokens in its last but one."""

    def named(kind: str, **fields: Any) -> bytes:
        return event({"type": kind, **fields}, kind)

    counts = usage(answer)
    start = _message(answer)
    if not answer.omit_usage:
        first = answer.output_tokens if answer.lie == "decreasing" else 1
        start["usage"] = {**counts, "output_tokens": first}
    yield named("message_start", message=start), 0
    block = {"type": "text", "text": ""}
    yield named("content_block_start", index=0, content_block=block), 0
    yield named("ping"), 0
    for sent, word in enumerate(answer.words(), 1 + answer.reasoning_tokens):
        delta = {"type": "text_delta", "text": word}
        yield named("content_block_delta", index=0, delta=delta), sent
    sent = answer.output_tokens
    yield named("content_block_stop", index=0), sent
    stop: Json = {"delta": {"stop_reason": _stop_reason(answer), "stop_sequence": None}}
    if not answer.omit_usage:
        stop["usage"] = {name: counts[name] for name in _DELTA_USAGE if name in counts}
    yield named("message_delta", **stop), sent
    if answer.lie == "twice":
        yield named("message_delta", **stop), sent
    if not answer.no_done:
        yield named("message_stop"), sent


_DELTA_USAGE = (
    "input_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
    "output_tokens",
)


def usage(answer: Answer) -> Json:
    """Usage as messages report it: cached and written tokens are beside the input, not in it."""
    prompt, completion = answer.reported()
    if prompt == answer.input_tokens:
        prompt -= answer.cached_tokens + answer.cache_write_tokens
    counts: Json = {
        "input_tokens": prompt,
        "cache_creation_input_tokens": answer.cache_write_tokens,
        "cache_read_input_tokens": answer.cached_tokens,
        "cache_creation": {
            "ephemeral_5m_input_tokens": answer.cache_write_tokens,
            "ephemeral_1h_input_tokens": 0,
        },
        "output_tokens": completion,
        "service_tier": "standard",
    }
    if answer.lie == "missing_field":
        del counts["output_tokens"]
    return counts


def _message(answer: Answer) -> Json:
    return {
        "id": "msg_" + answer.id,
        "type": "message",
        "role": "assistant",
        "model": answer.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def _stop_reason(answer: Answer) -> str:
    return "max_tokens" if answer.finish == "length" else "end_turn"
