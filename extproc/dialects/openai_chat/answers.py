"""Whole chat completions and errors: to the shared answer and back."""

from __future__ import annotations

import orjson

from extproc.dialects.answer import Answer, ProviderError, Stop
from extproc.dialects.codec import Context
from extproc.dialects.conversation import Json, Media, Part, Refused, Text, Thinking, ToolCall
from extproc.dialects.openai_requests import data_url
from extproc.dialects.provider_error import (
    MAX_MESSAGE_CHARACTERS,
    error_in,
    in_plain_words,
    kind_of_status,
)
from extproc.dialects.unsayable import unshown
from extproc.dialects.usage import reported_usage
from extproc.values.dialect import Operation
from extproc.values.usage import TokenUsage
from extproc.wire.errors import WireError

FINISH_REASON = {
    Stop.END: "stop",
    Stop.STOP_SEQUENCE: "stop",
    Stop.MAX_TOKENS: "length",
    Stop.CONTEXT_FULL: "length",
    Stop.TOOL_CALLS: "tool_calls",
    Stop.REFUSAL: "content_filter",
    Stop.PAUSE: "stop",
}
_STOP = {
    "stop": Stop.END,
    "length": Stop.MAX_TOKENS,
    "tool_calls": Stop.TOOL_CALLS,
    "function_call": Stop.TOOL_CALLS,
    "content_filter": Stop.REFUSAL,
}
_ERROR_TYPE = {
    "authentication": "invalid_request_error",
    "permission": "invalid_request_error",
    "rate_limit": "rate_limit_error",
    "overloaded": "server_error",
    "timeout": "server_error",
    "api": "server_error",
}


def stop_of(finish_reason: object) -> Stop:
    """What a finish reason means; unknown ones end the answer."""
    return _STOP.get(finish_reason, Stop.END) if isinstance(finish_reason, str) else Stop.END


def read_answer(body: bytes, context: Context) -> Answer:
    """Raises ``WireError`` for what is no chat completion."""
    try:
        document = orjson.loads(body)
        choices = [_choice(choice) for choice in document["choices"]]
        first = choices[0]
    except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
        raise WireError("The provider's answer is no chat completion.") from None
    parts, stop, logprobs = first
    return Answer(
        str(document.get("id") or context.request_id),
        str(document.get("model") or ""),
        parts,
        stop,
        usage_of(document.get("usage")),
        logprobs=logprobs,
        created_s=_whole(document.get("created")),
        others=[Answer("", "", parts, stop, None) for parts, stop, _ in choices[1:]],
    )


def _choice(choice: Json) -> tuple[list[Part], Stop, list[Json]]:
    message = choice["message"]
    parts: list[Part] = []
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    if isinstance(reasoning, str):
        parts.append(Thinking(reasoning))
    if message.get("content"):
        parts.append(Text(message["content"]))
    if message.get("refusal"):
        parts.append(Refused(message["refusal"]))
    for call in message.get("tool_calls") or ():
        function = call["function"]
        parts.append(ToolCall(call["id"], function["name"], function.get("arguments") or "{}"))
    stop = stop_of(choice.get("finish_reason"))
    if stop is Stop.END and any(isinstance(part, Refused) for part in parts):
        stop = Stop.REFUSAL
    return parts, stop, list((choice.get("logprobs") or {}).get("content") or ())


def usage_of(usage: object) -> TokenUsage | None:
    """Token counts as the provider reports them; None when it reports none that can be read."""
    return reported_usage(Operation.CHAT_COMPLETIONS, usage)


def write_answer(answer: Answer, context: Context) -> bytes:
    """The answer as a chat completion."""
    choices = [_written_choice(place, one) for place, one in enumerate([answer, *answer.others])]
    document: Json = {
        "id": completion_id(answer.answer_id, context),
        "object": "chat.completion",
        "created": answer.created_s or context.now_s,
        "model": answer.model or context.asked_model,
        "choices": choices,
    }
    if answer.usage is not None:
        document["usage"] = written_usage(answer.usage)
    return orjson.dumps(document)


def completion_id(answer_id: str, context: Context) -> str:
    """The provider's id, as OpenAI's clients know ids."""
    name = answer_id or context.request_id
    return name if name.startswith("chatcmpl-") else f"chatcmpl-{name}"


def _written_choice(place: int, answer: Answer) -> Json:
    message: Json = {"role": "assistant", "content": None, "refusal": None}
    media = [part for part in answer.parts if isinstance(part, Media)]
    texts = [part.text for part in answer.parts if isinstance(part, Text)]
    texts += [unshown(one) for one in media if one.kind != "image"]
    images = [one for one in media if one.kind == "image"]
    thoughts = [part.text for part in answer.parts if isinstance(part, Thinking)]
    refusals = [part.text for part in answer.parts if isinstance(part, Refused)]
    calls = [part for part in answer.parts if isinstance(part, ToolCall)]
    if texts:
        message["content"] = "".join(texts)
    if refusals:
        message["refusal"] = "".join(refusals)
    if any(thoughts):
        message["reasoning_content"] = "".join(thoughts)
    if images:
        message["images"] = [written_image(one, number) for number, one in enumerate(images)]
    if calls:
        message["tool_calls"] = [
            {
                "id": call.call_id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in calls
        ]
    reason = FINISH_REASON[answer.stop]
    if refusals and answer.stop is Stop.REFUSAL:
        reason = "stop"  # in words: OpenAI ends such an answer like any other
    logprobs = {"content": answer.logprobs, "refusal": None} if answer.logprobs else None
    return {"index": place, "message": message, "logprobs": logprobs, "finish_reason": reason}


def written_image(image: Media, number: int) -> Json:
    """A generated image. OpenAI's own chat answers hold none; this is what others (OpenRouter,
    LiteLLM) have made of it, in whole answers and in deltas."""
    return {"index": number, "type": "image_url", "image_url": {"url": data_url(image)}}


def written_usage(usage: TokenUsage) -> Json:
    """Token counts in OpenAI's words."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cached_input_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
            "audio_tokens": 0,
        },
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def read_error(status: int, body: bytes, name: str = "") -> ProviderError:
    """Whatever came is some error; the provider's words are kept."""
    error = error_in(body)
    kind = kind_of_status(status)
    if not isinstance(error, dict):
        return in_plain_words(status, kind, error, body)
    code = str(error.get("code") or "")
    if code == "context_length_exceeded":
        kind = "context_length"
    elif code == "content_filter":
        kind = "content_filter"
    return ProviderError(
        status,
        kind,
        str(error.get("message") or "")[:MAX_MESSAGE_CHARACTERS],
        str(error.get("param") or ""),
        code or str(error.get("type") or ""),
    )


def error_document(error: ProviderError) -> Json:
    """An error in OpenAI's shape."""
    code = error.code or None
    if error.kind == "context_length":
        code = "context_length_exceeded"
    return {
        "error": {
            "message": error.message,
            "type": _ERROR_TYPE.get(error.kind, "invalid_request_error"),
            "param": error.param or None,
            "code": code,
        }
    }


def write_error(error: ProviderError, context: Context) -> bytes:
    """An error body."""
    return orjson.dumps(error_document(error))


def _whole(value: object) -> int:
    return value if type(value) is int else 0
