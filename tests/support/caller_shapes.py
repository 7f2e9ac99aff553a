"""What callers are answered, held against the official SDKs' own types."""

from __future__ import annotations

import json
from typing import Any

from anthropic.types import Message, RawMessageStreamEvent
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from extproc.values.dialect import Operation

_WHOLE: dict[Operation, TypeAdapter[Any]] = {
    Operation.CHAT_COMPLETIONS: TypeAdapter(ChatCompletion),
    Operation.RESPONSES: TypeAdapter(Response),
    Operation.MESSAGES: TypeAdapter(Message),
}
_STREAMED: dict[Operation, TypeAdapter[Any]] = {
    Operation.CHAT_COMPLETIONS: TypeAdapter(ChatCompletionChunk),
    Operation.RESPONSES: TypeAdapter(ResponseStreamEvent),
    Operation.MESSAGES: TypeAdapter(RawMessageStreamEvent),
}


def check_answer(operation: Operation, body: bytes) -> None:
    """Raises for what is no whole answer."""
    _WHOLE[operation].validate_json(body)


def check_stream(operation: Operation, data: bytes) -> None:
    """Raises for a stream with an event that the SDK does not know: but for comments, ``[DONE]``,
    Anthropic's pings, and errors."""
    assert data == b"" or data.endswith(b"\n\n")
    for text in data.decode().split("\n\n")[:-1]:
        line = text.rpartition("\n")[2]
        if line.startswith(":"):
            continue
        assert line.startswith("data: "), line
        if line == "data: [DONE]":
            continue
        document = json.loads(line[6:])
        if document.get("type") in ("ping", "error") or "error" in document:
            continue
        if document.get("type") == "response.failed":
            # Codex knows more codes than the SDK's types.
            document["response"]["error"]["code"] = "server_error"
        _STREAMED[operation].validate_python(document)
