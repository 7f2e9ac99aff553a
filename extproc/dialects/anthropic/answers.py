"""Whole messages and errors: to the shared answer and back."""

from __future__ import annotations

import orjson

from extproc.dialects.answer import Answer, ProviderError, Stop
from extproc.dialects.codec import Context
from extproc.dialects.conversation import (
    Json,
    Media,
    Part,
    Refused,
    Text,
    Thinking,
    ToolCall,
    Vendor,
)
from extproc.dialects.provider_error import (
    MAX_MESSAGE_CHARACTERS,
    error_in,
    in_plain_words,
    kind_of_status,
)
from extproc.dialects.thinking import given_signature
from extproc.dialects.turns import shown_arguments
from extproc.dialects.unsayable import unshown
from extproc.dialects.usage import reported_usage
from extproc.values.dialect import Operation
from extproc.values.usage import TokenUsage
from extproc.wire.call_ids import marked_call_id
from extproc.wire.errors import WireError

STOP_REASON = {
    Stop.END: "end_turn",
    Stop.MAX_TOKENS: "max_tokens",
    Stop.STOP_SEQUENCE: "stop_sequence",
    Stop.TOOL_CALLS: "tool_use",
    Stop.REFUSAL: "refusal",
    Stop.PAUSE: "pause_turn",
    Stop.CONTEXT_FULL: "model_context_window_exceeded",
}
_STOP = {reason: stop for stop, reason in STOP_REASON.items()}
_ERROR_TYPE = {
    "invalid_request": "invalid_request_error",
    "authentication": "authentication_error",
    "permission": "permission_error",
    "not_found": "not_found_error",
    "too_large": "request_too_large",
    "rate_limit": "rate_limit_error",
    "overloaded": "overloaded_error",
    "timeout": "timeout_error",
    "context_length": "invalid_request_error",
    "content_filter": "invalid_request_error",
}
_KIND = {
    "invalid_request_error": "invalid_request",
    "authentication_error": "authentication",
    "billing_error": "permission",
    "permission_error": "permission",
    "not_found_error": "not_found",
    "request_too_large": "too_large",
    "rate_limit_error": "rate_limit",
    "overloaded_error": "overloaded",
    "timeout_error": "timeout",
}


def stop_of(reason: object) -> Stop:
    """What a stop reason means; unknown ones end the answer."""
    return _STOP.get(reason, Stop.END) if isinstance(reason, str) else Stop.END


def read_answer(body: bytes, context: Context) -> Answer:
    """Raises ``WireError`` for what is no message."""
    try:
        document = orjson.loads(body)
        parts = [part for block in document["content"] if (part := part_of(block)) is not None]
    except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
        raise WireError("The provider's answer is no message.") from None
    return Answer(
        str(document.get("id") or context.request_id),
        str(document.get("model") or ""),
        parts,
        stop_of(document.get("stop_reason")),
        usage_of(document.get("usage")),
        str(document.get("stop_sequence") or ""),
    )


def part_of(block: Json) -> Part | None:
    """A block of an answer; None for one that only Anthropic's own tools make."""
    kind = block["type"]
    if kind == "text":
        return Text(block["text"])
    if kind == "thinking":
        return Thinking(block["thinking"], block.get("signature") or "", Vendor.ANTHROPIC)
    if kind == "redacted_thinking":
        return Thinking("", block["data"], Vendor.ANTHROPIC, redacted=True)
    if kind == "tool_use":
        return ToolCall(block["id"], block["name"], orjson.dumps(block["input"]).decode())
    return None


def usage_of(usage: object) -> TokenUsage | None:
    """Token counts as the provider reports them; None when it reports none that can be read."""
    return reported_usage(Operation.MESSAGES, usage)


def write_answer(answer: Answer, context: Context) -> bytes:
    """The answer as a message."""
    content = [
        block for part in answer.parts if (block := written_block(part, context)) is not None
    ]
    document = {
        **written_head(answer.answer_id, answer.model, context),
        "content": content,
        "stop_reason": STOP_REASON[answer.stop],
        "stop_sequence": answer.stop_sequence or None,
        "usage": written_usage(answer.usage or TokenUsage(0, 0)),
    }
    return orjson.dumps(document)


def written_head(answer_id: str, model: str, context: Context) -> Json:
    """What a message begins with."""
    name = answer_id or context.request_id
    return {
        "id": name if name.startswith("msg_") else f"msg_{name}",
        "type": "message",
        "role": "assistant",
        "model": model or context.asked_model,
    }


def written_block(part: Part, context: Context) -> Json | None:
    """A part as a block. What is not Claude's is marked (``wire.call_ids.FOREIGN``): Claude refuses
    others' thoughts, and to think on after calls that it did not think about."""
    if isinstance(part, Text):
        return {"type": "text", "text": part.text, "citations": None}
    if isinstance(part, Refused | Media):
        text = unshown(part) if isinstance(part, Media) else part.text
        return {"type": "text", "text": text, "citations": None}
    if isinstance(part, ToolCall):
        name, call_id = own_name(part.name, context), shown_id(part.call_id, context.vendor)
        block = {"type": "tool_use", "id": call_id, "name": name}
        return {**block, "input": shown_arguments(part.arguments, "_unparsed")}
    if isinstance(part, Thinking):
        signature = given_signature(part, Vendor.ANTHROPIC)
        if part.redacted:
            return {"type": "redacted_thinking", "data": signature}
        return {"type": "thinking", "thinking": part.text, "signature": signature}
    return None


def own_name(name: str, context: Context) -> str:
    """A tool's name as the caller declared it, which may be too long for others."""
    known = context.known_as.get(name)
    return name if known is None else known.name


def shown_id(call_id: str, vendor: Vendor) -> str:
    """A call's id as the caller is shown it."""
    return call_id if vendor is Vendor.ANTHROPIC else marked_call_id(call_id)


def written_usage(usage: TokenUsage) -> Json:
    """Token counts in Anthropic's words: cached and written input stand beside the rest."""
    plain = usage.input_tokens - usage.cached_input_tokens - usage.cache_write_tokens
    return {
        "input_tokens": plain,
        "cache_read_input_tokens": usage.cached_input_tokens,
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.cache_write_tokens - usage.cache_write_1h_tokens,
            "ephemeral_1h_input_tokens": usage.cache_write_1h_tokens,
        },
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
    }


def read_error(status: int, body: bytes, name: str = "") -> ProviderError:
    """Whatever came is some error; the provider's words are kept."""
    error = error_in(body)
    kind = kind_of_status(status)
    if not isinstance(error, dict):
        return in_plain_words(status, kind, error, body)
    message = str(error.get("message") or "")[:MAX_MESSAGE_CHARACTERS]
    code = str(error.get("type") or "")
    kind = _KIND.get(code, kind)
    if kind == "invalid_request" and "prompt is too long" in message:
        kind = "context_length"
    return ProviderError(status, kind, message, code=code)


def error_document(error: ProviderError, context: Context) -> Json:
    """An error in Anthropic's shape."""
    kind = _ERROR_TYPE.get(error.kind, "api_error")
    return {
        "type": "error",
        "error": {"type": kind, "message": error.message},
        "request_id": context.request_id,
    }


def write_error(error: ProviderError, context: Context) -> bytes:
    """An error body."""
    return orjson.dumps(error_document(error, context))
