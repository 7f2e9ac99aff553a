"""OpenAI's chat completions, and the legacy completions beside them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from extproc.demo.answer import (
    CREATED,
    ERROR_MESSAGE,
    Answer,
    Events,
    Step,
    allow,
    allow_maximum,
    event,
    require,
    require_messages,
)
from extproc.demo.asked import Asked, Json, ToolSpec
from extproc.demo.errors import error_document

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


def asked(body: Json) -> Asked:
    """What a checked body of either kind asks for."""
    choice = body.get("tool_choice")
    tools = [tool["function"] for tool in body.get("tools") or () if "function" in tool]
    schema = ((body.get("response_format") or {}).get("json_schema") or {}).get("schema")
    stops = body.get("stop") or ()
    return Asked(
        model=body["model"],
        stream=bool(body.get("stream")),
        max_tokens=next((body[name] for name in MAXIMA if body.get(name)), None),
        choices=body.get("n") or 1,
        include_usage=bool((body.get("stream_options") or {}).get("include_usage")),
        tools=()
        if choice == "none"
        else tuple(ToolSpec(tool.get("name", ""), tool.get("parameters") or {}) for tool in tools),
        only_tool=choice["function"]["name"] if isinstance(choice, dict) else "",
        parallel=body.get("parallel_tool_calls") is not False,
        schema=schema,
        stops=(stops,) if isinstance(stops, str) else tuple(stops),
        logprobs=body.get("logprobs") is True,
    )


def chat_json(answer: Answer) -> Json:
    """A chat completion."""
    choices: list[Json] = [
        {
            "index": index,
            "message": _message(answer, index),
            "logprobs": _logprobs([p for part in answer.parts for p in part.pieces])
            if answer.logprobs
            else None,
            "finish_reason": _finish(answer),
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


_HIDES_THOUGHTS = re.compile(r"(?:o\d|gpt-)")
"""OpenAI shows no thoughts here; compatible servers (DeepSeek, vLLM) do, as reasoning_content."""


def _message(answer: Answer, index: int) -> Json:
    refusal = "".join(part.text for part in answer.parts if part.kind == "refusal")
    calls = [
        _call(answer, index, place, part.name, part.text)
        for place, part in enumerate(answer.parts)
        if part.kind == "call"
    ]
    message: Json = {
        "role": "assistant",
        "content": None if refusal or (calls and not answer.text) else answer.text,
        "refusal": refusal or None,
        "annotations": [],
    }
    if calls:
        message["tool_calls"] = calls
    thoughts = "".join(part.text for part in answer.parts if part.kind == "thought")
    if thoughts and not _HIDES_THOUGHTS.match(answer.model):
        message["reasoning_content"] = thoughts
    return message


def _call(answer: Answer, index: int, place: int, name: str, arguments: str) -> Json:
    call_id = f"call_{answer.id}_{index}_{place}"
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _finish(answer: Answer) -> str:
    """A refusal and a stop sequence have no word of their own."""
    return answer.finish if answer.finish in ("length", "tool_calls") else "stop"


def _logprobs(pieces: list[str]) -> Json:
    """As if the model had been sure of each piece."""
    content = [
        {"token": piece, "logprob": -0.125, "bytes": list(piece.encode()), "top_logprobs": []}
        for piece in pieces
    ]
    return {"content": content, "refusal": None}


def completion_json(answer: Answer) -> Json:
    """A legacy completion."""
    choices = [
        {
            "index": index,
            "text": answer.text,
            "logprobs": None,
            "finish_reason": _finish(answer),
        }
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
        logprobs = None
        if answer.logprobs and delta.get("content"):
            logprobs = _logprobs([delta["content"]])
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return event({**head, "choices": [choice], **null_usage})

    for index in range(answer.choices):
        yield chunk(index, {"role": "assistant", "content": "", "refusal": None}), 0
    for step in answer.steps():
        for index in range(answer.choices):
            for delta in _deltas(answer, index, step):
                yield chunk(index, delta), _sent(answer, index, step)
    if answer.fails:
        yield event(error_document("openai", 500, ERROR_MESSAGE)), answer.produced_before_error
        return
    for index in range(answer.choices):
        yield chunk(index, {}, _finish(answer)), answer.output_tokens
    yield from _closing(answer, head)


def _sent(answer: Answer, index: int, step: Step) -> int:
    """Output tokens of all choices, once this choice has the piece."""
    return step.before * answer.choices + (step.after - step.before) * (index + 1)


def _deltas(answer: Answer, index: int, step: Step) -> Iterator[Json]:
    """What a piece is in the stream: nothing for what the API does not show."""
    part = step.part
    if part.kind == "text":
        yield {"content": step.piece}
    elif part.kind == "refusal":
        yield {"refusal": step.piece}
    elif part.kind == "thought" and not _HIDES_THOUGHTS.match(answer.model):
        yield {"reasoning_content": step.piece}
    elif part.kind == "call":
        number = sum(earlier.kind == "call" for earlier in answer.parts[: step.place])
        if step.number == 0:
            whole = _call(answer, index, step.place, part.name, "")
            yield {"tool_calls": [{"index": number, **whole}]}
        function = {"arguments": step.piece}
        yield {"tool_calls": [{"index": number, "function": function}]}


def completion_events(answer: Answer) -> Events:
    """A legacy completion stream."""
    head = _head(answer, "cmpl-", "text_completion")
    null_usage: Json = {"usage": None} if answer.include_usage else {}

    def chunk(index: int, text: str, finish: str | None) -> bytes:
        choice = {"index": index, "text": text, "logprobs": None, "finish_reason": finish}
        return event({**head, "choices": [choice], **null_usage})

    for step in answer.steps():
        for index in range(answer.choices):
            if step.part.kind == "text":
                yield chunk(index, step.piece, None), _sent(answer, index, step)
    for index in range(answer.choices):
        yield chunk(index, "", _finish(answer)), answer.output_tokens
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
