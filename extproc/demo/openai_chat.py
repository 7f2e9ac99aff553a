"""OpenAI's chat completions, and the legacy completions beside them."""

from __future__ import annotations

from extproc.demo.answer import (
    CREATED,
    Answer,
    Events,
    Json,
    allow,
    allow_maximum,
    event,
    require,
    require_messages,
)

MAXIMA = ("max_completion_tokens", "max_tokens")
DONE = b"data: [DONE]\n\n"


def check_chat(body: Json) -> None:
    """Raises BadRequestError where the real API answers 400."""
    require(body, "model", str)
    require_messages(body)
    _check_common(body)


def check_completion(body: Json) -> None:
    """Raises BadRequestError where the real API answers 400."""
    require(body, "model", str)
    require(body, "prompt", (str, list))
    _check_common(body)


def _check_common(body: Json) -> None:
    for name in MAXIMA:
        allow_maximum(body, name)
    allow_maximum(body, "n")
    allow(body, "stream", (bool, type(None)))
    allow(body, "stream_options", (dict, type(None)))


def chat_json(answer: Answer) -> Json:
    """A chat completion."""
    text = "".join(answer.words())
    choices: list[Json] = [
        {
            "index": index,
            "message": {
                "role": "assistant",
                "content": text,
                "refusal": None,
                "annotations": [],
            },
            "logprobs": None,
            "finish_reason": answer.finish,
        }
        for index in range(answer.choices)
    ]
    return {
        **_head(answer, "chatcmpl-", "chat.completion"),
        "choices": choices,
        **_usage_field(answer),
        "service_tier": "default",
        "system_fingerprint": "fp_demo",
    }


def completion_json(answer: Answer) -> Json:
    """A legacy completion."""
    text = "".join(answer.words())
    choices = [
        {"index": index, "text": text, "logprobs": None, "finish_reason": answer.finish}
        for index in range(answer.choices)
    ]
    head = _head(answer, "cmpl-", "text_completion")
    return {**head, "choices": choices, **_usage_field(answer)}


def chat_events(answer: Answer) -> Events:
    """A chat completion stream. Where usage was asked for, the other chunks say ``usage: null``."""
    head = _head(answer, "chatcmpl-", "chat.completion.chunk")
    head |= {"service_tier": "default", "system_fingerprint": "fp_demo"}
    null_usage: Json = {"usage": None} if answer.include_usage else {}

    def chunk(index: int, delta: Json, finish: str | None = None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
        return event({**head, "choices": [choice], **null_usage})

    sent = 0
    for index in range(answer.choices):
        yield chunk(index, {"role": "assistant", "content": "", "refusal": None}), sent
    # Reasoning is produced, and billed, before the first visible word.
    sent = answer.choices * answer.reasoning_tokens
    for word in answer.words():
        for index in range(answer.choices):
            sent += 1
            yield chunk(index, {"content": word}), sent
    for index in range(answer.choices):
        yield chunk(index, {}, answer.finish), answer.output_tokens
    yield from _closing(answer, head)


def completion_events(answer: Answer) -> Events:
    """A legacy completion stream."""
    head = _head(answer, "cmpl-", "text_completion")
    null_usage: Json = {"usage": None} if answer.include_usage else {}

    def chunk(index: int, text: str, finish: str | None) -> bytes:
        choice = {"index": index, "text": text, "logprobs": None, "finish_reason": finish}
        return event({**head, "choices": [choice], **null_usage})

    sent = answer.choices * answer.reasoning_tokens
    for word in answer.words():
        for index in range(answer.choices):
            sent += 1
            yield chunk(index, word, None), sent
    for index in range(answer.choices):
        yield chunk(index, "", answer.finish), answer.output_tokens
    yield from _closing(answer, head)


def _closing(answer: Answer, head: Json) -> Events:
    """The usage chunk, if asked for, and the end marker."""
    if answer.include_usage and not answer.omit_usage:
        final = {**head, "choices": [], "usage": usage(answer)}
        if answer.lie == "decreasing":
            higher = {**usage(answer), "completion_tokens": answer.output_tokens}
            yield event({**final, "usage": higher}), answer.output_tokens
        yield event(final), answer.output_tokens
        if answer.lie == "twice":
            yield event(final), answer.output_tokens
    if not answer.no_done:
        yield DONE, answer.output_tokens


def usage(answer: Answer) -> Json:
    """Usage as chat completions report it: cached among prompt, reasoning among completion."""
    prompt, completion = answer.reported()
    counts: Json = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": answer.input_tokens + answer.output_tokens,
        "prompt_tokens_details": {"cached_tokens": answer.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": answer.reasoning_tokens * answer.choices,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
    if answer.lie == "missing_field":
        del counts["completion_tokens"]
    return counts


def _usage_field(answer: Answer) -> Json:
    return {} if answer.omit_usage else {"usage": usage(answer)}


def _head(answer: Answer, prefix: str, kind: str) -> Json:
    return {
        "id": prefix + answer.id,
        "object": kind,
        "created": CREATED,
        "model": answer.model,
    }
