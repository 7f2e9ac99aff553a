"""The official SDKs as callers: each asks in its own way, and what it was told is read alike."""

from __future__ import annotations

import json
from typing import Any, NamedTuple, Protocol

import anthropic
import openai

from extproc.values.dialect import Operation

Json = dict[str, Any]


class Told(NamedTuple):
    """One answer, as its caller's SDK gave it."""

    text: str
    calls: list[tuple[str, Any]]
    """Tools by name, with their arguments."""
    call_ids: list[str]
    thoughts: str
    end: str
    """The reason to stop, in the SDK's word."""
    refused: bool
    """As the SDK shows it: by its reason to stop, or by a refusal in words."""
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int


class Caller(Protocol):
    """An official SDK."""

    operation: Operation
    status_error: type[Exception]
    """What it raises for a status."""

    def ask(self, request: Json, *, stream: bool) -> Told:
        """The answer, a streamed one as the SDK puts it together."""
        ...

    def send(self, request: Json) -> Any:
        """The raw answer to a body that the SDK may not know."""
        ...


class ChatCaller:
    """OpenAI's SDK, chat completions."""

    operation = Operation.CHAT_COMPLETIONS
    status_error = openai.APIStatusError

    def __init__(self, url: str, key: str) -> None:
        self.sdk = openai.OpenAI(base_url=url + "/v1", api_key=key, max_retries=0)

    def ask(self, request: Json, *, stream: bool) -> Told:
        """See ``Caller``."""
        if not stream:
            return _of_chat(self.sdk.chat.completions.create(**request))
        options = {"include_usage": True}
        chunks = self.sdk.chat.completions.create(**request, stream=True, stream_options=options)
        return _of_chat(_put_together(chunks))

    def send(self, request: Json) -> Any:
        """See ``Caller``."""
        named = {key: request[key] for key in ("model", "messages")}
        return self.sdk.chat.completions.with_raw_response.create(**named, extra_body=request)


def _put_together(chunks: Any) -> Any:
    """By the SDK's own means; its helper for streams raises where an answer was refused."""
    message: Json = {"content": None, "refusal": None, "tool_calls": []}
    document: Json = {}
    reason = None
    for chunk in chunks:
        document |= chunk.model_dump(include={"id", "created", "model", "usage"})
        for choice in chunk.choices:
            reason = choice.finish_reason or reason
            _add(message, choice.delta.model_dump(exclude_none=True))
    assert reason is not None
    choices = [{"index": 0, "message": {**message, "role": "assistant"}, "finish_reason": reason}]
    document |= {"object": "chat.completion", "choices": choices}
    return openai.types.chat.ChatCompletion.model_validate(document)


def _add(message: Json, delta: Json) -> None:
    for key in ("content", "refusal", "reasoning_content"):
        if key in delta:
            message[key] = (message.get(key) or "") + delta[key]
    for piece in delta.get("tool_calls", ()):
        calls = message["tool_calls"]
        if piece["index"] == len(calls):
            calls.append({**piece, "function": {"arguments": "", **piece["function"]}})
        else:
            calls[piece["index"]]["function"]["arguments"] += piece["function"]["arguments"]


def _of_chat(completion: Any) -> Told:
    (choice,) = completion.choices
    message, usage = choice.message, completion.usage
    calls = message.tool_calls or []
    inside, outside = usage.prompt_tokens_details, usage.completion_tokens_details
    return Told(
        (message.content or "") + (message.refusal or ""),
        [(call.function.name, json.loads(call.function.arguments)) for call in calls],
        [call.id for call in calls],
        getattr(message, "reasoning_content", None) or "",
        choice.finish_reason,
        choice.finish_reason == "content_filter" or bool(message.refusal),
        usage.prompt_tokens,
        usage.completion_tokens,
        inside.cached_tokens or 0,
        inside.cache_write_tokens or 0,
        outside.reasoning_tokens or 0,
    )


class ResponsesCaller:
    """OpenAI's SDK, responses."""

    operation = Operation.RESPONSES
    status_error = openai.APIStatusError

    def __init__(self, url: str, key: str) -> None:
        self.sdk = openai.OpenAI(base_url=url + "/v1", api_key=key, max_retries=0)

    def ask(self, request: Json, *, stream: bool) -> Told:
        """See ``Caller``."""
        if not stream:
            return _of_response(self.sdk.responses.create(**request))
        *_, last = self.sdk.responses.create(**request, stream=True)
        if last.type == "response.failed":
            raise openai.APIError(last.response.error.message, request=Any, body=None)  # type: ignore[arg-type]
        assert last.type in ("response.completed", "response.incomplete")
        return _of_response(last.response)

    def send(self, request: Json) -> Any:
        """See ``Caller``."""
        return self.sdk.responses.with_raw_response.create(
            model=request["model"], extra_body=request
        )


def _of_response(response: Any) -> Told:
    calls = [item for item in response.output if item.type == "function_call"]
    thoughts = [item for item in response.output if item.type == "reasoning"]
    refusals = [
        part.refusal
        for item in response.output
        if item.type == "message"
        for part in item.content
        if part.type == "refusal"
    ]
    cut = response.incomplete_details
    usage = response.usage
    return Told(
        response.output_text + "".join(refusals),
        [(call.name, json.loads(call.arguments)) for call in calls],
        [call.call_id for call in calls],
        "".join(part.text for item in thoughts for part in item.summary),
        cut.reason if cut else response.status,
        bool(refusals) or (cut is not None and cut.reason == "content_filter"),
        usage.input_tokens,
        usage.output_tokens,
        usage.input_tokens_details.cached_tokens,
        usage.input_tokens_details.cache_write_tokens,
        usage.output_tokens_details.reasoning_tokens,
    )


class MessagesCaller:
    """Anthropic's SDK."""

    operation = Operation.MESSAGES
    status_error = anthropic.APIStatusError

    def __init__(self, url: str, key: str) -> None:
        self.sdk = anthropic.Anthropic(base_url=url, api_key=key, max_retries=0)

    def ask(self, request: Json, *, stream: bool) -> Told:
        """See ``Caller``."""
        if not stream:
            return _of_message(self.sdk.messages.create(**request))
        with self.sdk.messages.stream(**request) as events:
            return _of_message(events.get_final_message())

    def send(self, request: Json) -> Any:
        """See ``Caller``."""
        named = {key: request[key] for key in ("model", "max_tokens", "messages")}
        return self.sdk.messages.with_raw_response.create(**named, extra_body=request)


def _of_message(message: Any) -> Told:
    calls = [block for block in message.content if block.type == "tool_use"]
    usage = message.usage
    cached, written = usage.cache_read_input_tokens or 0, usage.cache_creation_input_tokens or 0
    details = usage.output_tokens_details
    return Told(
        "".join(block.text for block in message.content if block.type == "text"),
        [(call.name, call.input) for call in calls],
        [call.id for call in calls],
        "".join(block.thinking for block in message.content if block.type == "thinking"),
        message.stop_reason,
        message.stop_reason == "refusal",
        usage.input_tokens + cached + written,
        usage.output_tokens,
        cached,
        written,
        details.thinking_tokens if details else 0,
    )
