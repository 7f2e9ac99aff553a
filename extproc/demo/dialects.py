"""Answers in the shapes of the real APIs, as JSON documents and as server-sent events."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

WORDS = ("Tokens", "buy", "outcomes", "only", "when", "somebody", "counts", "both", "of", "them")


@dataclass(slots=True)
class Answer:
    """One answer to be given: what it says and what it counts."""

    id: str
    model: str
    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    include_usage: bool = False
    omit_usage: bool = False
    falsify: str = ""

    def words(self) -> list[str]:
        """One word per output token."""
        return [WORDS[place % len(WORDS)] + " " for place in range(self.output_tokens)]

    def counts(self) -> tuple[Any, Any]:
        """Input and output tokens as reported: the truth, unless told to lie."""
        lies: dict[str, tuple[Any, Any]] = {
            "negative": (-5, -7),
            "huge": (10**18, 10**18),
            "string": ("12", "34"),
            "float": (1.5, 2.5),
            "missing_field": (None, None),
            "zero": (0, 0),
        }
        return lies.get(self.falsify, (self.input_tokens, self.output_tokens))


def chat_usage(answer: Answer) -> Json | None:
    """Usage of OpenAI's chat completions."""
    if answer.omit_usage:
        return None
    prompt, completion = answer.counts()
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": answer.input_tokens + answer.output_tokens,
        "prompt_tokens_details": {"cached_tokens": answer.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
    if answer.falsify == "missing_field":
        del usage["completion_tokens"]
    return usage


def responses_usage(answer: Answer) -> Json | None:
    """Usage of OpenAI's responses."""
    if answer.omit_usage:
        return None
    prompt, completion = answer.counts()
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": answer.cached_tokens},
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": answer.input_tokens + answer.output_tokens,
    }


def messages_usage(answer: Answer) -> Json | None:
    """Usage of Anthropic's messages: cached tokens are beside the input, not in it."""
    if answer.omit_usage:
        return None
    prompt, completion = answer.counts()
    if isinstance(prompt, int) and prompt >= answer.cached_tokens:
        prompt -= answer.cached_tokens
    return {
        "input_tokens": prompt,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": answer.cached_tokens,
        "output_tokens": completion,
    }


def chat_json(answer: Answer) -> Json:
    """A chat completion."""
    document = {
        "id": "chatcmpl-" + answer.id,
        "object": "chat.completion",
        "created": 1_790_000_000,
        "model": answer.model,
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "".join(answer.words()),
                    "refusal": None,
                },
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": chat_usage(answer),
        "service_tier": "default",
        "system_fingerprint": "fp_demo",
    }
    if document["usage"] is None:
        del document["usage"]
    return document


def responses_json(answer: Answer, status: str = "completed") -> Json:
    """A response."""
    text = "".join(answer.words())
    done = status == "completed"
    return {
        "id": "resp_" + answer.id,
        "object": "response",
        "created_at": 1_790_000_000,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "model": answer.model,
        "output": [
            {
                "type": "message",
                "id": "msg_" + answer.id,
                "status": "completed",
                "role": "assistant",
                "content": [{"type": "output_text", "text": text, "annotations": []}],
            }
        ]
        if done
        else [],
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": responses_usage(answer) if done else None,
        "metadata": {},
    }


def messages_json(answer: Answer) -> Json:
    """A message."""
    document = {
        "id": "msg_" + answer.id,
        "type": "message",
        "role": "assistant",
        "model": answer.model,
        "content": [{"type": "text", "text": "".join(answer.words())}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": messages_usage(answer),
    }
    if document["usage"] is None:
        del document["usage"]
    return document


def completion_json(answer: Answer) -> Json:
    """A legacy completion."""
    return {
        "id": "cmpl-" + answer.id,
        "object": "text_completion",
        "created": 1_790_000_000,
        "model": answer.model,
        "choices": [
            {
                "index": 0,
                "text": "".join(answer.words()),
                "finish_reason": "stop",
                "logprobs": None,
            }
        ],
        "usage": chat_usage(answer),
    }


def embeddings_json(answer: Answer, inputs: int) -> Json:
    """Embeddings of eight dimensions."""
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": place, "embedding": [0.125] * 8}
            for place in range(inputs)
        ],
        "model": answer.model,
        "usage": None
        if answer.omit_usage
        else {"prompt_tokens": answer.counts()[0], "total_tokens": answer.input_tokens},
    }


def chat_events(answer: Answer) -> Iterator[tuple[bytes, int]]:
    """(event, output tokens sent so far) of a chat completion stream."""
    base = {
        "id": "chatcmpl-" + answer.id,
        "object": "chat.completion.chunk",
        "created": 1_790_000_000,
        "model": answer.model,
        "service_tier": "default",
        "system_fingerprint": "fp_demo",
    }

    def chunk(delta: Json, finish: str | None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        document: Json = {**base, "choices": [choice]}
        if answer.include_usage:
            document["usage"] = None
        return _event(document)

    yield chunk({"role": "assistant", "content": "", "refusal": None}, None), 0
    for number, word in enumerate(answer.words(), 1):
        yield chunk({"content": word}, None), number
    yield chunk({}, "stop"), answer.output_tokens
    if answer.include_usage and not answer.omit_usage:
        final = {**base, "choices": [], "usage": chat_usage(answer)}
        yield _event(final), answer.output_tokens
    yield b"data: [DONE]\n\n", answer.output_tokens


def responses_events(answer: Answer) -> Iterator[tuple[bytes, int]]:
    """A responses stream."""
    number = 0

    def event(kind: str, **fields: Any) -> bytes:
        nonlocal number
        document = {"type": kind, "sequence_number": number, **fields}
        number += 1
        return f"event: {kind}\n".encode() + _event(document)

    where: Json = {"item_id": "msg_" + answer.id, "output_index": 0, "content_index": 0}
    item: Json = {
        "id": "msg_" + answer.id,
        "type": "message",
        "status": "in_progress",
        "role": "assistant",
        "content": [],
    }
    started = responses_json(answer, "in_progress")
    yield event("response.created", response=started), 0
    yield event("response.in_progress", response=started), 0
    yield event("response.output_item.added", output_index=0, item=item), 0
    part: Json = {"type": "output_text", "text": "", "annotations": []}
    yield event("response.content_part.added", **where, part=part), 0
    for sent, word in enumerate(answer.words(), 1):
        yield event("response.output_text.delta", **where, delta=word, logprobs=[]), sent
    text = "".join(answer.words())
    sent = answer.output_tokens
    yield event("response.output_text.done", **where, text=text, logprobs=[]), sent
    part = {"type": "output_text", "text": text, "annotations": []}
    yield event("response.content_part.done", **where, part=part), sent
    item = {**item, "status": "completed", "content": [part]}
    yield event("response.output_item.done", output_index=0, item=item), sent
    yield event("response.completed", response=responses_json(answer)), sent


def messages_events(answer: Answer) -> Iterator[tuple[bytes, int]]:
    """A messages stream."""

    def event(kind: str, **fields: Any) -> bytes:
        return f"event: {kind}\n".encode() + _event({"type": kind, **fields})

    message = messages_json(answer)
    usage = messages_usage(answer)
    message |= {"content": [], "stop_reason": None}
    if usage is not None:
        message["usage"] = {**usage, "output_tokens": 1}
    yield event("message_start", message=message), 0
    block = {"type": "text", "text": ""}
    yield event("content_block_start", index=0, content_block=block), 0
    yield event("ping"), 0
    for number, word in enumerate(answer.words(), 1):
        delta = {"type": "text_delta", "text": word}
        yield event("content_block_delta", index=0, delta=delta), number
    yield event("content_block_stop", index=0), answer.output_tokens
    stop = {"stop_reason": "end_turn", "stop_sequence": None}
    fields: Json = {"delta": stop}
    if usage is not None:
        fields["usage"] = {"output_tokens": usage["output_tokens"]}
    yield event("message_delta", **fields), answer.output_tokens
    yield event("message_stop"), answer.output_tokens


def _event(document: Json) -> bytes:
    return b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"
