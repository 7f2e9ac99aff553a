"""Anthropic's messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from extproc.demo.answer import (
    ERROR_MESSAGE,
    Answer,
    BadRequestError,
    Events,
    allow,
    allow_maximum,
    event,
    require,
    require_messages,
)
from extproc.demo.asked import Asked, Json, ToolSpec
from extproc.demo.errors import error_document
from extproc.demo.parts import Part
from extproc.demo.signatures import sealed, sign

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


def asked(body: Json) -> Asked:
    """What a checked body asks for."""
    choice = body.get("tool_choice") or {}
    tools = [tool for tool in body.get("tools") or () if "input_schema" in tool]
    output = (body.get("output_config") or {}).get("format") or {}
    return Asked(
        model=body["model"],
        stream=bool(body.get("stream")),
        max_tokens=body["max_tokens"],
        tools=()
        if choice.get("type") == "none"
        else tuple(ToolSpec(tool.get("name", ""), tool["input_schema"]) for tool in tools),
        only_tool=choice.get("name", ""),
        parallel=not choice.get("disable_parallel_tool_use"),
        schema=output.get("schema"),
        stops=tuple(body.get("stop_sequences") or ()),
    )


def document(answer: Answer) -> Json:
    """A message."""
    message = _message(answer)
    message["content"] = [_block(answer, place, part) for place, part in enumerate(answer.parts)]
    message |= _stop(answer)
    if not answer.omit_usage:
        message["usage"] = usage(answer)
    return message


def _block(answer: Answer, place: int, part: Part) -> Json:
    if part.kind == "thought":
        signature = sign("anthropic", part.text)
        return {"type": "thinking", "thinking": part.text, "signature": signature}
    if part.kind == "redacted":
        return {"type": "redacted_thinking", "data": sealed("anthropic", part.text)}
    if part.kind == "call":
        return {**_tool_use(answer, place, part), "input": part.arguments}
    if part.kind == "image":
        # Claude draws nothing.
        return {"type": "text", "text": "[image]"}
    return {"type": "text", "text": part.text}


def _tool_use(answer: Answer, place: int, part: Part) -> Json:
    return {"type": "tool_use", "id": f"toolu_{answer.id}_{place}", "name": part.name, "input": {}}


def events(answer: Answer) -> Events:
    """A messages stream: input tokens in its first event, output tokens in its last but one."""
    counts = usage(answer)
    start = _message(answer)
    if not answer.omit_usage:
        first = answer.output_tokens if answer.lie == "decreasing" else 1
        start["usage"] = {**counts, "output_tokens": first}
    yield _named("message_start", message=start), 0
    for step in answer.steps():
        place, part = step.place, step.part
        if step.number == 0:
            block = _opened(answer, place, part)
            yield _named("content_block_start", index=place, content_block=block), step.before
            if place == 0:
                yield _named("ping"), step.before
        delta = _delta(step.piece, part)
        if delta:
            yield _named("content_block_delta", index=place, delta=delta), step.after
        if step.is_last:
            if part.kind == "thought":
                signed = {"type": "signature_delta", "signature": sign("anthropic", part.text)}
                yield _named("content_block_delta", index=place, delta=signed), step.after
            yield _named("content_block_stop", index=place), step.after
    sent = answer.output_tokens
    if answer.fails:
        overloaded = error_document("anthropic", 529, ERROR_MESSAGE, "req_" + answer.id)
        yield event(overloaded, "error"), answer.produced_before_error
        return
    stop: Json = {"delta": _stop(answer)}
    if not answer.omit_usage:
        stop["usage"] = {name: counts[name] for name in _DELTA_USAGE if name in counts}
    yield _named("message_delta", **stop), sent
    if answer.lie == "twice":
        yield _named("message_delta", **stop), sent
    if not answer.no_done:
        yield _named("message_stop"), sent


def _named(kind: str, **fields: Any) -> bytes:
    return event({"type": kind, **fields}, kind)


def _opened(answer: Answer, place: int, part: Part) -> Json:
    """A block before its deltas; what is withheld comes at once."""
    if part.kind == "thought":
        return {"type": "thinking", "thinking": "", "signature": ""}
    if part.kind == "redacted":
        return _block(answer, place, part)
    if part.kind == "call":
        return _tool_use(answer, place, part)
    return {"type": "text", "text": ""}


def _delta(piece: str, part: Part) -> Json | None:
    if part.kind == "thought":
        return {"type": "thinking_delta", "thinking": piece}
    if part.kind == "redacted":
        return None
    if part.kind == "call":
        return {"type": "input_json_delta", "partial_json": piece}
    return {"type": "text_delta", "text": "[image]" if part.kind == "image" else piece}


_DELTA_USAGE = (
    "input_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
    "output_tokens",
    "output_tokens_details",
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
    if answer.reasoning_tokens:
        counts["output_tokens_details"] = {"thinking_tokens": answer.reasoning_tokens}
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


_STOP_REASON = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "refusal": "refusal",
    "stop_sequence": "stop_sequence",
}


def _stop(answer: Answer) -> Json:
    stopped_by = answer.stop_sequence or None
    return {"stop_reason": _STOP_REASON[answer.finish], "stop_sequence": stopped_by}
