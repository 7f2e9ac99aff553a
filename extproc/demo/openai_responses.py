"""OpenAI's responses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

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
)
from extproc.demo.asked import Asked, Json, ToolSpec
from extproc.demo.parts import Part
from extproc.demo.signatures import sealed

MAXIMA = ("max_output_tokens",)


def check(body: Json) -> None:
    """Raises BadRequestError where the real API answers 400."""
    require(body, "model", str)
    require(body, "input", (str, list))
    allow_maximum(body, "max_output_tokens")
    allow(body, "stream", (bool, type(None)))


def asked(body: Json) -> Asked:
    """What a checked body asks for."""
    choice = body.get("tool_choice")
    tools = [tool for tool in body.get("tools") or () if tool.get("type") == "function"]
    text = (body.get("text") or {}).get("format") or {}
    return Asked(
        model=body["model"],
        stream=bool(body.get("stream")),
        max_tokens=body.get("max_output_tokens"),
        tools=()
        if choice == "none"
        else tuple(ToolSpec(tool.get("name", ""), tool.get("parameters") or {}) for tool in tools),
        only_tool=choice.get("name", "") if isinstance(choice, dict) else "",
        parallel=body.get("parallel_tool_calls") is not False,
        schema=text.get("schema"),
        encrypted_reasoning="reasoning.encrypted_content" in (body.get("include") or ()),
    )


def document(answer: Answer) -> Json:
    """A finished response; one that its maximum ended is ``incomplete``."""
    short = answer.finish == "length"
    response = _response(answer, "incomplete" if short else "completed")
    response["output"] = [_item(answer, place, part) for place, part in enumerate(answer.parts)]
    if short:
        response["incomplete_details"] = {"reason": "max_output_tokens"}
    if not answer.omit_usage:
        response["usage"] = usage(answer)
    return response


class _Numbered:
    """Events with the numbers that this stream gives them."""

    def __init__(self) -> None:
        self._next = 0

    def __call__(self, kind: str, **fields: Any) -> bytes:
        made = event({"type": kind, "sequence_number": self._next, **fields}, kind)
        self._next += 1
        return made


def events(answer: Answer) -> Events:
    """A responses stream."""
    named = _Numbered()
    started = _response(answer, "in_progress")
    yield named("response.created", response=started), 0
    yield named("response.in_progress", response=started), 0
    for step in answer.steps():
        if step.number == 0:
            for made in _opening(named, answer, step):
                yield made, step.before
        for made in _delta(named, answer, step):
            yield made, step.after
        if step.is_last:
            for made in _closing(named, answer, step):
                yield made, step.after
    sent = answer.output_tokens
    if answer.fails:
        failed = _response(answer, "failed")
        failed["error"] = {"code": "server_error", "message": ERROR_MESSAGE}
        yield named("response.failed", response=failed), answer.produced_before_error
        return
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


def _opening(named: _Numbered, answer: Answer, step: Step) -> Iterator[bytes]:
    item = _item(answer, step.place, step.part)
    for unfinished, empty in (("arguments", ""), ("result", None)):
        if unfinished in item:
            item[unfinished] = empty
    if "content" in item:
        item["content"] = []
    if "summary" in item:
        item["summary"] = []
    if "status" in item:
        item["status"] = "in_progress"
    yield named("response.output_item.added", output_index=step.place, item=item)
    where = _where(answer, step)
    if step.part.kind == "thought":
        summary = {"type": "summary_text", "text": ""}
        yield named("response.reasoning_summary_part.added", **where, part=summary)
    elif step.part.kind in ("text", "refusal"):
        yield named("response.content_part.added", **where, part=_part(step.part, ""))


def _delta(named: _Numbered, answer: Answer, step: Step) -> Iterator[bytes]:
    where = _where(answer, step)
    if step.part.kind == "text":
        yield named("response.output_text.delta", **where, delta=step.piece, logprobs=[])
    elif step.part.kind in _DELTAS:
        yield named(_DELTAS[step.part.kind] + ".delta", **where, delta=step.piece)


_DELTAS = {
    "refusal": "response.refusal",
    "thought": "response.reasoning_summary_text",
    "call": "response.function_call_arguments",
}


def _closing(named: _Numbered, answer: Answer, step: Step) -> Iterator[bytes]:
    where, part, text = _where(answer, step), step.part, step.part.text
    if part.kind == "text":
        yield named("response.output_text.done", **where, text=text, logprobs=[])
    elif part.kind == "refusal":
        yield named("response.refusal.done", **where, refusal=text)
    elif part.kind == "thought":
        yield named("response.reasoning_summary_text.done", **where, text=text)
        summary = {"type": "summary_text", "text": text}
        yield named("response.reasoning_summary_part.done", **where, part=summary)
    elif part.kind == "call":
        kind = "response.function_call_arguments.done"
        yield named(kind, **where, name=part.name, arguments=text)
    if part.kind in ("text", "refusal"):
        yield named("response.content_part.done", **where, part=_part(part, text))
    item = _item(answer, step.place, part)
    yield named("response.output_item.done", output_index=step.place, item=item)


def _where(answer: Answer, step: Step) -> Json:
    place: Json = {"item_id": _item_id(answer, step.place, step.part), "output_index": step.place}
    if step.part.kind in ("text", "refusal"):
        place["content_index"] = 0
    elif step.part.kind == "thought":
        place["summary_index"] = 0
    return place


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


_PREFIXES = {"thought": "rs", "redacted": "rs", "call": "fc", "image": "ig"}


def _item_id(answer: Answer, place: int, part: Part) -> str:
    return f"{_PREFIXES.get(part.kind, 'msg')}_{answer.id}_{place}"


def _item(answer: Answer, place: int, part: Part) -> Json:
    item: Json = {"id": _item_id(answer, place, part), "status": "completed"}
    if part.kind in ("thought", "redacted"):
        del item["status"]
        summary = [{"type": "summary_text", "text": part.text}] if part.kind == "thought" else []
        item |= {"type": "reasoning", "summary": summary}
        if answer.encrypted_reasoning:
            item["encrypted_content"] = sealed("openai", part.text)
        return item
    if part.kind == "call":
        call = {"call_id": f"call_{answer.id}_{place}", "name": part.name, "arguments": part.text}
        return {**item, "type": "function_call", **call}
    if part.kind == "image":
        return {**item, "type": "image_generation_call", "result": part.text}
    content = [_part(part, part.text)]
    return {**item, "type": "message", "role": "assistant", "content": content}


def _part(part: Part, text: str) -> Json:
    if part.kind == "refusal":
        return {"type": "refusal", "refusal": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
