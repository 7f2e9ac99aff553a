"""OpenAI's responses."""

from __future__ import annotations

from typing import Any

from extproc.demo.answer import (
    CREATED,
    Answer,
    Events,
    Json,
    allow,
    allow_maximum,
    event,
    require,
)

MAXIMA = ("max_output_tokens",)


def check(body: Json) -> None:
    """Raises BadRequestError where the real API answers 400."""
    require(body, "model", str)
    require(body, "input", (str, list))
    allow_maximum(body, "max_output_tokens")
    allow(body, "stream", (bool, type(None)))


def document(answer: Answer) -> Json:
    """A finished response; one that its maximum ended is ``incomplete``."""
    short = answer.finish == "length"
    response = _response(answer, "incomplete" if short else "completed")
    response["output"] = [_item(answer, "".join(answer.words()))]
    if short:
        response["incomplete_details"] = {"reason": "max_output_tokens"}
    if not answer.omit_usage:
        response["usage"] = usage(answer)
    return response


def events(answer: Answer) -> Events:
    """A responses stream."""
    number = 0

    def named(kind: str, **fields: Any) -> bytes:
        nonlocal number
        made = event({"type": kind, "sequence_number": number, **fields}, kind)
        number += 1
        return made

    where: Json = {"item_id": "msg_" + answer.id, "output_index": 0, "content_index": 0}
    started = _response(answer, "in_progress")
    yield named("response.created", response=started), 0
    yield named("response.in_progress", response=started), 0
    item = {**_item(answer, ""), "status": "in_progress", "content": []}
    yield named("response.output_item.added", output_index=0, item=item), 0
    yield named("response.content_part.added", **where, part=_part("")), 0
    words = answer.words()
    for sent, word in enumerate(words, 1 + answer.reasoning_tokens):
        yield named("response.output_text.delta", **where, delta=word, logprobs=[]), sent
    text, sent = "".join(words), answer.output_tokens
    yield named("response.output_text.done", **where, text=text, logprobs=[]), sent
    yield named("response.content_part.done", **where, part=_part(text)), sent
    yield named("response.output_item.done", output_index=0, item=_item(answer, text)), sent
    if answer.no_done:
        return
    final = document(answer)
    kind = "response." + final["status"]
    if answer.lie == "decreasing" and not answer.omit_usage:
        higher = {**final["usage"], "output_tokens": answer.output_tokens}
        yield named(kind, response={**final, "usage": higher}), sent
    yield named(kind, response=final), sent
    if answer.lie == "twice":
        yield named(kind, response=final), sent


def usage(answer: Answer) -> Json:
    """Usage as responses report it."""
    prompt, completion = answer.reported()
    counts: Json = {
        "input_tokens": prompt,
        "input_tokens_details": {
            "cached_tokens": answer.cached_tokens,
            "cache_write_tokens": answer.cache_write_tokens,
        },
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": answer.reasoning_tokens},
        "total_tokens": answer.input_tokens + answer.output_tokens,
    }
    if answer.lie == "missing_field":
        del counts["output_tokens"]
    return counts


def _response(answer: Answer, status: str) -> Json:
    return {
        "id": "resp_" + answer.id,
        "object": "response",
        "created_at": CREATED,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": answer.max_tokens,
        "model": answer.model,
        "output": [],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": True,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": None,
        "user": None,
        "metadata": {},
    }


def _item(answer: Answer, text: str) -> Json:
    return {
        "type": "message",
        "id": "msg_" + answer.id,
        "status": "completed",
        "role": "assistant",
        "content": [_part(text)],
    }


def _part(text: str) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
