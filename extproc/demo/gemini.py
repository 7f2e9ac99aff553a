"""Google's generateContent, as Gemini's own API and Vertex AI have it."""

from __future__ import annotations

import re
from typing import Any

from extproc.demo.answer import (
    ERROR_MESSAGE,
    Answer,
    BadRequestError,
    Events,
    Step,
    allow,
    event,
    require,
)
from extproc.demo.asked import Asked, Json, ToolSpec
from extproc.demo.errors import error_document
from extproc.demo.parts import Part
from extproc.demo.signatures import call_text, sign

SIGNS_CALLS = re.compile(r"gemini-([3-9]|\d\d)")
"""Models that sign the first call of a turn, refuse it back without, and give their calls ids."""


def check(body: Json) -> None:
    """Raises BadRequestError where the real API answers 400."""
    require(body, "contents", list)
    if not body["contents"]:
        raise BadRequestError("* GenerateContentRequest.contents: contents is not specified")
    for place, content in enumerate(body["contents"]):
        if not isinstance(content, dict) or not isinstance(content.get("parts"), list):
            raise BadRequestError(
                f"* GenerateContentRequest.contents[{place}].parts: contents.parts must not be "
                "empty."
            )
    for name in ("generationConfig", "toolConfig", "systemInstruction"):
        allow(body, name, dict)
    maximum = (body.get("generationConfig") or {}).get("maxOutputTokens")
    if maximum is not None and (type(maximum) is not int or maximum < 1):
        raise BadRequestError("max_output_tokens must be positive.")


def check_count(body: Json) -> None:
    """As ``check``, for counting tokens: the contents, or the whole request that they are of."""
    request = body.get("generateContentRequest")
    check(request if isinstance(request, dict) else body)


def check_stream(query: str) -> None:
    """Raises BadRequestError for the other framing, a JSON array: every SDK asks for events."""
    if query != "sse":
        raise BadRequestError("The demo provider streams with alt=sse only.")


def asked(body: Json) -> Asked:
    """What a checked body asks for; the model and whether to stream are in the path."""
    config = body.get("generationConfig") or {}
    calling = (body.get("toolConfig") or {}).get("functionCallingConfig") or {}
    tools = [
        ToolSpec(tool["name"], tool.get("parametersJsonSchema") or tool.get("parameters") or {})
        for group in body.get("tools") or ()
        for tool in group.get("functionDeclarations") or ()
    ]
    allowed = calling.get("allowedFunctionNames") or ()
    return Asked(
        model="",
        max_tokens=config.get("maxOutputTokens"),
        choices=config.get("candidateCount") or 1,
        tools=() if calling.get("mode") == "NONE" else tuple(tools),
        only_tool=allowed[0] if allowed else "",
        schema=config.get("responseJsonSchema") or config.get("responseSchema"),
        stops=tuple(config.get("stopSequences") or ()),
    )


def document(answer: Answer) -> Json:
    """A whole answer."""
    parts = [_part(answer, place, part) for place, part in enumerate(answer.parts)]
    shown = [part for part in parts if part is not None]
    candidates = []
    for index in range(answer.choices):
        candidate: Json = {"finishReason": _FINISH[answer.finish], "index": index}
        if shown:
            candidate["content"] = {"parts": shown, "role": "model"}
        candidates.append(candidate)
    whole: Json = {"candidates": candidates, **_head(answer)}
    if not answer.omit_usage:
        whole["usageMetadata"] = usage(answer)
    return whole


def events(answer: Answer) -> Events:
    """A stream: each event holds more of the last part, or a whole call, and the usage so far."""
    sent = 0
    for step in answer.steps():
        for index in range(answer.choices):
            sent = step.before * answer.choices + (step.after - step.before) * (index + 1)
            part = _streamed(answer, step)
            if part is not None:
                content = {"parts": [part], "role": "model"}
                yield _chunk(answer, {"content": content, "index": index}, sent), sent
    sent = answer.output_tokens
    if answer.fails:
        yield event(error_document("gemini", 503, ERROR_MESSAGE)), answer.produced_before_error
        return
    if answer.no_done:
        return
    last: Json = {"finishReason": _FINISH[answer.finish]}
    if answer.finish != "refusal":
        last["content"] = {"parts": [_last_part(answer)], "role": "model"}
    for index in range(answer.choices):
        final = _chunk(answer, {**last, "index": index}, None)
        if answer.lie == "decreasing":
            yield _chunk(answer, {"index": index}, sent), sent
        yield final, sent
        if answer.lie == "twice":
            yield final, sent


def usage(answer: Answer) -> Json:
    """Usage as generateContent reports it: cached among the prompt, thoughts beside candidates."""
    prompt, completion = answer.reported()
    thoughts = answer.reasoning_tokens * answer.choices
    candidates = completion
    if type(completion) is int and completion >= thoughts:
        candidates = completion - thoughts
    counts: Json = {
        "promptTokenCount": prompt,
        "candidatesTokenCount": candidates,
        "totalTokenCount": answer.input_tokens + answer.output_tokens,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": prompt}],
    }
    if thoughts:
        counts["thoughtsTokenCount"] = thoughts
    if answer.cached_tokens:
        counts["cachedContentTokenCount"] = answer.cached_tokens
    if answer.lie == "missing_field":
        del counts["candidatesTokenCount"]
    return counts


def count_document(tokens: int) -> Json:
    """The answer to countTokens."""
    details = [{"modality": "TEXT", "tokenCount": tokens}]
    return {"totalTokens": tokens, "promptTokensDetails": details}


_FINISH = {
    "stop": "STOP",
    "length": "MAX_TOKENS",
    "tool_calls": "STOP",
    "refusal": "SAFETY",
    "stop_sequence": "STOP",
}


def _head(answer: Answer) -> Json:
    return {"modelVersion": answer.model, "responseId": "resp_" + answer.id}


def _chunk(answer: Answer, candidate: Json, sent: int | None) -> bytes:
    """One event; ``sent`` None is the last, with what the usage finally is."""
    whole: Json = {"candidates": [candidate], **_head(answer)}
    if answer.omit_usage:
        return event(whole)
    counts = usage(answer)
    if sent is not None:
        thoughts = counts.get("thoughtsTokenCount", 0)
        counts["candidatesTokenCount"] = max(0, sent - thoughts)
        counts["totalTokenCount"] = answer.input_tokens + max(sent, thoughts)
    return event({**whole, "usageMetadata": counts})


def _part(answer: Answer, place: int, part: Part) -> Json | None:
    """A whole part; None for what is not shown: a refusal has a reason and no words."""
    if part.kind in ("refusal", "redacted"):
        return None
    if part.kind == "thought":
        return {"text": part.text, "thought": True}
    if part.kind == "image":
        return {"inlineData": {"mimeType": "image/png", "data": part.text}}
    if part.kind == "call":
        return _call(answer, place, part)
    text: Json = {"text": part.text}
    if _thinks(answer):
        text["thoughtSignature"] = sign("google", part.text)
    return text


def _call(answer: Answer, place: int, part: Part) -> Json:
    call: Json = {"name": part.name, "args": part.arguments}
    signs = SIGNS_CALLS.match(answer.model) is not None
    if signs:
        call["id"] = f"fc_{answer.id}_{place}"
    made: Json = {"functionCall": call}
    first = all(earlier.kind != "call" for earlier in answer.parts[:place])
    if first and (signs or _thinks(answer)):
        # Parallel calls have one signature, at the first.
        made["thoughtSignature"] = sign("google", call_text(part.name, part.arguments))
    return made


def _thinks(answer: Answer) -> bool:
    return any(part.kind == "thought" for part in answer.parts)


def _streamed(answer: Answer, step: Step) -> Json | None:
    """What a piece is in the stream. Calls and images come whole, when all of them is there."""
    part = step.part
    if part.kind == "text":
        return {"text": step.piece}
    if part.kind == "thought":
        return {"text": step.piece, "thought": True}
    return _part(answer, step.place, part) if step.is_last else None


def _last_part(answer: Answer) -> dict[str, Any]:
    """An empty text, which is where the signature of streamed text comes."""
    last: Json = {"text": ""}
    if _thinks(answer) and answer.parts[-1].kind == "text":
        last["thoughtSignature"] = sign("google", answer.text)
    return last
