"""Whole Converse answers and errors, to the shared answer."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any

import orjson

from extproc.dialects.answer import Answer, ProviderError, Stop
from extproc.dialects.codec import Context
from extproc.dialects.conversation import Json, Media, Part, Text, Thinking, ToolCall, Vendor
from extproc.dialects.provider_error import (
    MAX_MESSAGE_CHARACTERS,
    in_plain_words,
    kind_of_status,
)
from extproc.dialects.usage import token_count
from extproc.values.usage import TokenUsage
from extproc.wire.errors import WireError

_STOP = {
    "end_turn": Stop.END,
    "tool_use": Stop.TOOL_CALLS,
    "max_tokens": Stop.MAX_TOKENS,
    "stop_sequence": Stop.STOP_SEQUENCE,
    "guardrail_intervened": Stop.REFUSAL,
    "content_filtered": Stop.REFUSAL,
    "model_context_window_exceeded": Stop.CONTEXT_FULL,
}
_EXCEPTIONS = {
    "validationexception": (400, "invalid_request"),
    "unrecognizedclientexception": (401, "authentication"),
    "invalidsignatureexception": (401, "authentication"),
    "expiredtokenexception": (401, "authentication"),
    "accessdeniedexception": (403, "permission"),
    "resourcenotfoundexception": (404, "not_found"),
    "modeltimeoutexception": (408, "timeout"),
    "throttlingexception": (429, "rate_limit"),
    "servicequotaexceededexception": (429, "rate_limit"),
    "modelnotreadyexception": (429, "overloaded"),
    "serviceunavailableexception": (503, "overloaded"),
    "internalserverexception": (500, "api"),
    "modelerrorexception": (424, "api"),
    "modelstreamerrorexception": (424, "api"),
}
"""By the exception's name in lower case: what it means, and its status where a stream has none."""


def stop_of(reason: object) -> Stop:
    """What a stop reason means; unknown ones end the answer."""
    return _STOP.get(reason, Stop.END) if isinstance(reason, str) else Stop.END


def read_answer(body: bytes, context: Context) -> Answer:
    """Raises ``WireError`` for what is no answer of Converse."""
    try:
        document = orjson.loads(body)
        blocks = document["output"]["message"]["content"]
        parts = [part for block in blocks if (part := _part(block)) is not None]
    except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
        raise WireError("The provider's answer is none of Converse.") from None
    stop = stop_of(document.get("stopReason"))
    return Answer(context.request_id, "", parts, stop, usage_of(document.get("usage")))


def _part(block: Json) -> Part | None:
    if "text" in block:
        return Text(block["text"])
    if "toolUse" in block:
        call = block["toolUse"]
        return ToolCall(call["toolUseId"], call["name"], orjson.dumps(call["input"]).decode())
    if "image" in block:
        image = block["image"]
        return Media("image", f"image/{image['format']}", data=image["source"]["bytes"])
    if "reasoningContent" in block:
        reasoning = block["reasoningContent"]
        if "redactedContent" in reasoning:
            return Thinking("", reasoning["redactedContent"], Vendor.ANTHROPIC, redacted=True)
        text = reasoning["reasoningText"]
        signature = text.get("signature") or ""
        vendor = Vendor.ANTHROPIC if signature else Vendor.OTHER
        return Thinking(text["text"], signature, vendor)
    return None


def usage_of(usage: object) -> TokenUsage | None:
    """Token counts; what was read from and written to the cache stands beside the input. None where
    a count is no count."""
    if not isinstance(usage, dict):
        return None
    count = partial(token_count, usage)
    try:
        cached, written = (
            count("cacheReadInputTokens"),
            count("cacheWriteInputTokens"),
        )
        prompt = count("inputTokens", required=True) + cached + written
        return TokenUsage(
            prompt,
            count("outputTokens", required=True),
            cached,
            written,
            0,
            _written_1h(usage, written),
        )
    except ValueError:
        return None


def _written_1h(usage: Json, written: int) -> int:
    hour = 0
    details = usage.get("cacheDetails")
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, dict) and detail.get("ttl") == "1h":
            tokens = detail.get("inputTokens")
            hour += tokens if type(tokens) is int else 0
    return min(written, max(0, hour))


def read_error(status: int, body: bytes, name: str = "") -> ProviderError:
    """Whatever came is some error; the provider's words are kept. ``name`` is what the headers call
    it, with a namespace behind it; a proxy in between may have left it in the body only."""
    document: Any = None
    with suppress(orjson.JSONDecodeError):
        document = orjson.loads(body)
    kind = kind_of_status(status)
    code = name.partition(":")[0].strip()
    if not isinstance(document, dict):
        _, kind = _EXCEPTIONS.get(code.lower(), (status, kind))
        return in_plain_words(status, kind, None, body)._replace(code=code)
    message = str(document.get("message") or document.get("Message") or "")
    code = (code or str(document.get("__type") or "")).rpartition("#")[2]
    _, kind = _EXCEPTIONS.get(code.lower(), (status, kind))
    if kind == "invalid_request" and "too long" in message:
        kind = "context_length"
    return ProviderError(status, kind, message[:MAX_MESSAGE_CHARACTERS], code=code)


def stream_error(exception: str, payload: bytes) -> ProviderError:
    """An exception that comes as a message of the stream."""
    status, kind = _EXCEPTIONS.get(exception.lower(), (502, "api"))
    read = read_error(status, payload)
    return read._replace(kind=kind, code=exception)
