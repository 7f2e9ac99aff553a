"""Amazon Bedrock's Converse and ConverseStream."""

from __future__ import annotations

import json

from extproc.demo.answer import ERROR_MESSAGE, Answer, BadRequestError, Events, Step, allow, require
from extproc.demo.asked import Asked, Json, ToolSpec
from extproc.demo.event_stream import event_message, exception_message
from extproc.demo.parts import Part
from extproc.demo.signatures import sealed, sign

LATENCY_MS = 7
"""What every answer says it took."""

_PADDING = "abcdefghijklmnopqrstuvwxyz"
"""Bedrock pads each event against eavesdroppers who read lengths."""


def check(body: Json) -> None:
    """Raises BadRequestError where the real API answers 400."""
    require(body, "messages", list)
    for place, message in enumerate(body["messages"]):
        if not isinstance(message, dict) or not isinstance(message.get("content"), list):
            raise BadRequestError(
                f"1 validation error detected: Value at 'messages.{place + 1}.member.content' "
                "failed to satisfy constraint: Member must not be null"
            )
    for name in ("inferenceConfig", "toolConfig", "outputConfig", "additionalModelRequestFields"):
        allow(body, name, dict)
    maximum = (body.get("inferenceConfig") or {}).get("maxTokens")
    if maximum is not None and (type(maximum) is not int or maximum < 1):
        raise BadRequestError(
            f"1 validation error detected: Value '{maximum}' at 'inferenceConfig.maxTokens' failed "
            "to satisfy constraint: Member must have value greater than or equal to 1"
        )


def asked(body: Json) -> Asked:
    """What a checked body asks for; the model and whether to stream are in the path."""
    config = body.get("inferenceConfig") or {}
    tools = body.get("toolConfig") or {}
    specs = [tool["toolSpec"] for tool in tools.get("tools") or () if "toolSpec" in tool]
    choice = tools.get("toolChoice") or {}
    structure = ((body.get("outputConfig") or {}).get("textFormat") or {}).get("structure") or {}
    return Asked(
        model="",
        max_tokens=config.get("maxTokens"),
        tools=tuple(ToolSpec(spec["name"], spec["inputSchema"]["json"]) for spec in specs),
        only_tool=(choice.get("tool") or {}).get("name", ""),
        schema=_schema(structure.get("jsonSchema")),
        stops=tuple(config.get("stopSequences") or ()),
    )


def _schema(wanted: Json | None) -> Json | None:
    """Bedrock takes a schema as text."""
    if not wanted:
        return None
    try:
        schema = json.loads(wanted["schema"])
    except (ValueError, TypeError, LookupError) as error:
        raise BadRequestError("The JSON schema of outputConfig is no JSON.") from error
    return schema if isinstance(schema, dict) else None


def document(answer: Answer) -> Json:
    """A whole answer."""
    content = [_block(answer, place, part) for place, part in enumerate(answer.parts)]
    whole: Json = {
        "output": {"message": {"role": "assistant", "content": content}},
        "stopReason": _STOP_REASON[answer.finish],
        "metrics": {"latencyMs": LATENCY_MS},
    }
    if not answer.omit_usage:
        whole["usage"] = usage(answer)
    return whole


def events(answer: Answer) -> Events:
    """A stream: only calls and images are opened, and the usage comes after the stop."""
    yield _padded("messageStart", {"role": "assistant"}), 0
    for step in answer.steps():
        index = {"contentBlockIndex": step.place}
        opened = _opened(answer, step)
        if step.number == 0 and opened:
            yield _padded("contentBlockStart", {**index, "start": opened}), step.before
        yield _padded("contentBlockDelta", {**index, "delta": _delta(step)}), step.after
        if step.is_last:
            if step.part.kind == "thought":
                signed = {"reasoningContent": {"signature": sign("anthropic", step.part.text)}}
                yield _padded("contentBlockDelta", {**index, "delta": signed}), step.after
            yield _padded("contentBlockStop", index), step.after
    sent = answer.output_tokens
    if answer.fails:
        failed = {"message": ERROR_MESSAGE, "originalStatusCode": 500}
        yield exception_message("modelStreamErrorException", failed), answer.produced_before_error
        return
    if answer.no_done:
        return
    yield _padded("messageStop", {"stopReason": _STOP_REASON[answer.finish]}), sent
    last: Json = {"metrics": {"latencyMs": LATENCY_MS}}
    if answer.lie == "decreasing":
        higher = {**usage(answer), "outputTokens": answer.output_tokens}
        yield _padded("metadata", {**last, "usage": higher}), sent
    if not answer.omit_usage:
        last["usage"] = usage(answer)
    yield _padded("metadata", last), sent
    if answer.lie == "twice":
        yield _padded("metadata", last), sent


def usage(answer: Answer) -> Json:
    """Usage as Converse reports it: cached and written tokens are beside the input, not in it."""
    prompt, completion = answer.reported()
    if prompt == answer.input_tokens:
        prompt -= answer.cached_tokens + answer.cache_write_tokens
    counts: Json = {
        "inputTokens": prompt,
        "outputTokens": completion,
        "totalTokens": answer.input_tokens + answer.output_tokens,
    }
    if answer.cached_tokens or answer.cache_write_tokens:
        counts["cacheReadInputTokens"] = answer.cached_tokens
        counts["cacheWriteInputTokens"] = answer.cache_write_tokens
        if answer.cache_write_tokens:
            counts["cacheDetails"] = [{"ttl": "5m", "inputTokens": answer.cache_write_tokens}]
    if answer.lie == "missing_field":
        del counts["outputTokens"]
    return counts


_STOP_REASON = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "refusal": "content_filtered",
    "stop_sequence": "stop_sequence",
}


def _padded(name: str, payload: Json) -> bytes:
    return event_message(name, {**payload, "p": _PADDING[: 1 + len(name) % len(_PADDING)]})


def _block(answer: Answer, place: int, part: Part) -> Json:
    if part.kind == "thought":
        text = {"text": part.text, "signature": sign("anthropic", part.text)}
        return {"reasoningContent": {"reasoningText": text}}
    if part.kind == "redacted":
        return {"reasoningContent": {"redactedContent": sealed("anthropic", part.text)}}
    if part.kind == "call":
        return {"toolUse": {**_tool_use(answer, place, part), "input": part.arguments}}
    if part.kind == "image":
        return {"image": {"format": "png", "source": {"bytes": part.text}}}
    return {"text": part.text}


def _tool_use(answer: Answer, place: int, part: Part) -> Json:
    return {"toolUseId": f"tooluse_{answer.id}_{place}", "name": part.name}


def _opened(answer: Answer, step: Step) -> Json | None:
    if step.part.kind == "call":
        return {"toolUse": _tool_use(answer, step.place, step.part)}
    return {"image": {"format": "png"}} if step.part.kind == "image" else None


def _delta(step: Step) -> Json:
    if step.part.kind == "thought":
        return {"reasoningContent": {"text": step.piece}}
    if step.part.kind == "redacted":
        return {"reasoningContent": {"redactedContent": sealed("anthropic", step.piece)}}
    if step.part.kind == "call":
        return {"toolUse": {"input": step.piece}}
    if step.part.kind == "image":
        return {"image": {"source": {"bytes": step.piece}}}
    return {"text": step.piece}
