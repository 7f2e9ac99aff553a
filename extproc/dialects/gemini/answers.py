"""Whole generateContent answers and errors, to the shared answer."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any

import orjson

from extproc.dialects.answer import Answer, ProviderError, Stop
from extproc.dialects.codec import Context
from extproc.dialects.conversation import (
    Json,
    Media,
    Part,
    Text,
    Thinking,
    ToolCall,
    Vendor,
)
from extproc.dialects.provider_error import (
    MAX_MESSAGE_CHARACTERS,
    in_plain_words,
    kind_of_status,
)
from extproc.dialects.usage import token_count
from extproc.values.usage import TokenUsage
from extproc.wire.call_ids import signed_call_id
from extproc.wire.errors import WireError

_STOP = {
    "STOP": Stop.END,
    "MAX_TOKENS": Stop.MAX_TOKENS,
    "SAFETY": Stop.REFUSAL,
    "RECITATION": Stop.REFUSAL,
    "LANGUAGE": Stop.REFUSAL,
    "BLOCKLIST": Stop.REFUSAL,
    "PROHIBITED_CONTENT": Stop.REFUSAL,
    "SPII": Stop.REFUSAL,
    "IMAGE_SAFETY": Stop.REFUSAL,
}
_KIND = {
    "INVALID_ARGUMENT": "invalid_request",
    "FAILED_PRECONDITION": "invalid_request",
    "OUT_OF_RANGE": "invalid_request",
    "UNAUTHENTICATED": "authentication",
    "PERMISSION_DENIED": "permission",
    "NOT_FOUND": "not_found",
    "RESOURCE_EXHAUSTED": "rate_limit",
    "UNAVAILABLE": "overloaded",
    "DEADLINE_EXCEEDED": "timeout",
}


def read_answer(body: bytes, context: Context) -> Answer:
    """Raises ``WireError`` for what is no answer of Gemini's."""
    try:
        document = orjson.loads(body)
        candidates = document.get("candidates") or []
        read = [_candidate(candidate, context) for candidate in candidates]
        logprobs = logprobs_of(candidates[0]) if candidates else []
        blocked = (document.get("promptFeedback") or {}).get("blockReason")
    except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
        raise WireError("The provider's answer is none of Gemini's.") from None
    if not read:
        if not blocked:
            raise WireError("The provider's answer has no candidate.")
        read = [([], Stop.REFUSAL)]
    parts, stop = read[0]
    return Answer(
        str(document.get("responseId") or context.request_id),
        str(document.get("modelVersion") or ""),
        parts,
        stop,
        usage_of(document.get("usageMetadata")),
        logprobs=logprobs,
        others=[Answer("", "", parts, stop, None) for parts, stop in read[1:]],
    )


def _candidate(candidate: Json, context: Context) -> tuple[list[Part], Stop]:
    parts: list[Part] = []
    for raw in (candidate.get("content") or {}).get("parts") or ():
        part = part_of(raw, len(parts), context)
        last = parts[-1] if parts else None
        if isinstance(part, Text) and isinstance(last, Text):
            last.text += part.text
        elif part is not None:
            parts.append(part)
    called = any(isinstance(part, ToolCall) for part in parts)
    return parts, stop_of(candidate.get("finishReason"), called=called)


def logprobs_of(candidate: Json) -> list[Json]:
    """What Google says of each token that it chose, as OpenAI says it."""
    result = candidate.get("logprobsResult") or {}
    chosen, top = result.get("chosenCandidates") or [], result.get("topCandidates") or []
    others = [place.get("candidates") or [] for place in top]
    others += [[]] * (len(chosen) - len(others))
    return [
        {**_logprob(one), "top_logprobs": [_logprob(other) for other in beside]}
        for one, beside in zip(chosen, others, strict=False)
    ]


def _logprob(one: Json) -> Json:
    token = str(one["token"])
    return {
        "token": token,
        "logprob": one.get("logProbability", 0.0),
        "bytes": list(token.encode()),
    }


def part_of(raw: Json, number: int, context: Context) -> Part | None:
    """A part of an answer; None for an empty one."""
    signature = raw.get("thoughtSignature") or ""
    if "functionCall" in raw:
        call = raw["functionCall"]
        call_id = call.get("id") or f"call_{context.request_id}_{number}"
        arguments = orjson.dumps(call.get("args") or {}).decode()
        return ToolCall(signed_call_id(call_id, signature), call["name"], arguments)
    if "inlineData" in raw:
        data = raw["inlineData"]
        media_type = data.get("mimeType") or ""
        kind = "audio" if media_type.startswith("audio/") else "image"
        return Media(kind, media_type, data=data["data"])
    text = raw.get("text")
    if not isinstance(text, str) or not text:
        return None
    if raw.get("thought"):
        return Thinking(text, signature, Vendor.GOOGLE)
    return Text(text)


def stop_of(reason: object, *, called: bool) -> Stop:
    """What a finish reason means: Google says STOP for tool calls too."""
    stop = _STOP.get(reason, Stop.END) if isinstance(reason, str) else Stop.END
    return Stop.TOOL_CALLS if called and stop is Stop.END else stop


def usage_of(usage: object) -> TokenUsage | None:
    """Token counts; thoughts are output, and billed as output. None where a count is no count."""
    if not isinstance(usage, dict):
        return None
    count = partial(token_count, usage)
    try:
        thoughts = count("thoughtsTokenCount")
        prompt = count("promptTokenCount") + token_count(usage, "toolUsePromptTokenCount")
        # No candidate, no count of it; whatever it leaves out is in the total.
        output = count("candidatesTokenCount") + thoughts
        output = max(output, count("totalTokenCount") - prompt)
        cached = min(count("cachedContentTokenCount"), prompt)
    except ValueError:
        return None
    return TokenUsage(prompt, output, cached, 0, thoughts)


def read_error(status: int, body: bytes, name: str = "") -> ProviderError:
    """Whatever came is some error; the provider's words are kept."""
    error: Any = None
    with suppress(orjson.JSONDecodeError, AttributeError, LookupError):
        document = orjson.loads(body)
        # A stream that fails at once is a list with one error in it.
        error = (document[0] if isinstance(document, list) else document).get("error")
    kind = kind_of_status(status)
    if not isinstance(error, dict):
        return in_plain_words(status, kind, error, body)
    message = str(error.get("message") or "")[:MAX_MESSAGE_CHARACTERS]
    code = str(error.get("status") or "")
    kind = _KIND.get(code, kind)
    if kind == "invalid_request" and "exceeds the maximum number of tokens" in message:
        kind = "context_length"
    return ProviderError(status, kind, message, code=code)
