"""Whole responses: to the shared answer and back. Errors are those of chat completions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from extproc.dialects.answer import Answer, ProviderError, Stop
from extproc.dialects.codec import Context
from extproc.dialects.conversation import (
    Json,
    KnownAs,
    Media,
    Part,
    Refused,
    Text,
    Thinking,
    ToolCall,
    Vendor,
)
from extproc.dialects.openai_responses.tools import written_call
from extproc.dialects.thinking import given_signature, returned_thinking
from extproc.dialects.unsayable import unshown
from extproc.dialects.usage import reported_usage
from extproc.values.dialect import Operation
from extproc.values.usage import TokenUsage
from extproc.wire.errors import WireError

_INCOMPLETE = {
    Stop.MAX_TOKENS: "max_output_tokens",
    Stop.CONTEXT_FULL: "max_output_tokens",
    Stop.REFUSAL: "content_filter",
}
"""Reasons that leave a response incomplete; every other completes it."""
_FAILED_CODE = {
    "rate_limit": "rate_limit_exceeded",
    "context_length": "context_length_exceeded",
}
"""Codes of a failed response that clients branch on: Codex waits, or compacts. It tries again after
``server_error``, but not where OpenAI calls itself overloaded: another provider may be well."""


def read_answer(body: bytes, context: Context) -> Answer:
    """Raises ``WireError`` for what is no response."""
    try:
        document = orjson.loads(body)
        return answer_of(document, context)
    except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
        raise WireError("The provider's answer is no response.") from None


def answer_of(document: Json, context: Context) -> Answer:
    """A response object as an answer. Raises ``LookupError``, ``TypeError`` for what is none."""
    parts: list[Part] = []
    for item in document["output"]:
        parts += item_parts(item)
    created = document.get("created_at")
    return Answer(
        str(document.get("id") or context.request_id),
        str(document.get("model") or ""),
        parts,
        stop_of(document, parts),
        usage_of(document.get("usage")),
        created_s=int(created) if isinstance(created, int | float) else 0,
    )


def item_parts(item: Json) -> list[Part]:
    """The parts of an output item; none for what only OpenAI's own tools make."""
    kind = item["type"]
    if kind == "message":
        return [_content(part) for part in item["content"]]
    if kind == "function_call":
        return [ToolCall(item["call_id"], item["name"], item.get("arguments") or "{}")]
    if kind == "reasoning":
        texts = [part["text"] for key in ("summary", "content") for part in item.get(key) or ()]
        encrypted = item.get("encrypted_content") or ""
        if texts or encrypted:
            thinking = returned_thinking("\n\n".join(texts), encrypted, Vendor.OPENAI)
            if thinking.vendor is Vendor.OPENAI:
                thinking.item_id = item.get("id") or ""
            return [thinking]
    return []


def _content(part: Json) -> Part:
    if part["type"] == "refusal":
        return Refused(part["refusal"])
    return Text(part["text"])


def stop_of(document: Json, parts: list[Part]) -> Stop:
    """Why a response ended, from its status and what it holds."""
    if document.get("status") == "incomplete":
        reason = (document.get("incomplete_details") or {}).get("reason")
        return Stop.REFUSAL if reason == "content_filter" else Stop.MAX_TOKENS
    if any(isinstance(part, ToolCall) for part in parts):
        return Stop.TOOL_CALLS
    return Stop.REFUSAL if any(isinstance(part, Refused) for part in parts) else Stop.END


def usage_of(usage: object) -> TokenUsage | None:
    """Token counts as the provider reports them; None when it reports none that can be read."""
    return reported_usage(Operation.RESPONSES, usage)


def write_answer(answer: Answer, context: Context) -> bytes:
    """The answer as a response."""
    response_id = written_id(answer.answer_id, context)
    output = [
        item
        for number, part in enumerate(answer.parts)
        if (item := written_item(part, response_id, number, context.known_as)) is not None
    ]
    said = [part for item in output for part in item.get("content") or ()]
    for part in said[:1]:
        if "logprobs" in part:
            part["logprobs"] = written_logprobs(answer.logprobs)
    document = written_head(response_id, answer.model, answer.created_s, context)
    return orjson.dumps({**document, **written_end(answer.stop, output, answer.usage)})


def written_id(answer_id: str, context: Context) -> str:
    """The provider's id, as OpenAI's clients know ids."""
    name = answer_id or context.request_id
    return name if name.startswith("resp_") else f"resp_{name}"


def written_head(response_id: str, model: str, created_s: int, context: Context) -> Json:
    """What a response says from its beginning."""
    return {
        "id": response_id,
        "object": "response",
        "created_at": created_s or context.now_s,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "model": model or context.asked_model,
        "output": [],
        "parallel_tool_calls": True,
        "temperature": None,
        "tool_choice": "auto",
        "tools": [],
        "top_p": None,
        "usage": None,
    }


def written_end(stop: Stop, output: list[Json], usage: TokenUsage | None) -> Json:
    """What a response says at its end."""
    refused = any(
        part["type"] == "refusal"
        for item in output
        if item["type"] == "message"
        for part in item["content"]
    )
    reason = None if refused else _INCOMPLETE.get(stop)
    return {
        "status": "completed" if reason is None else "incomplete",
        "incomplete_details": None if reason is None else {"reason": reason},
        "output": output,
        "usage": None if usage is None else written_usage(usage),
    }


def written_item(
    part: Part, response_id: str, number: int, known_as: Mapping[str, KnownAs]
) -> Json | None:
    """A part as an output item. ``number`` makes its id."""
    name = f"{response_id.removeprefix('resp_')}_{number}"
    if isinstance(part, Text | Refused):
        head = {"id": f"msg_{name}", "type": "message", "role": "assistant"}
        return {**head, "status": "completed", "content": [written_content(part)]}
    if isinstance(part, ToolCall):
        return written_call(part, name, known_as)
    if isinstance(part, Media):
        if part.kind != "image":
            return written_item(Text(unshown(part)), response_id, number, known_as)
        image = {"type": "image_generation_call", "status": "completed", "result": part.data}
        return {"id": f"ig_{name}", **image}
    if isinstance(part, Thinking):
        summary = [{"type": "summary_text", "text": part.text}] if part.text else []
        item: Json = {"id": part.item_id or f"rs_{name}", "type": "reasoning", "summary": summary}
        encrypted = given_signature(part, Vendor.OPENAI)
        return {**item, "encrypted_content": encrypted} if encrypted else item
    return None


def written_content(part: Text | Refused) -> Json:
    """Said text as a content part."""
    if isinstance(part, Refused):
        return {"type": "refusal", "refusal": part.text}
    return {"type": "output_text", "text": part.text, "annotations": [], "logprobs": []}


def written_logprobs(entries: Iterable[Json]) -> list[Json]:
    """Entries of chat completions, where bytes and other candidates may be left out."""
    return [
        {**_logprob(entry), "top_logprobs": list(map(_logprob, entry.get("top_logprobs") or ()))}
        for entry in entries
    ]


def _logprob(entry: Json) -> Json:
    token = entry["token"]
    units = entry.get("bytes") or list(token.encode())
    return {"token": token, "logprob": entry["logprob"], "bytes": units}


def written_usage(usage: TokenUsage) -> Json:
    """Token counts in OpenAI's words."""
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_input_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.total_tokens,
    }


def failed_error(error: ProviderError) -> dict[str, Any]:
    """An error as a failed response tells it."""
    code = _FAILED_CODE.get(error.kind, "server_error")
    return {"code": code, "message": error.message}
