"""What a decision reads of a request body, and the few bytes of it that are rewritten."""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

import msgspec
import orjson

from extproc.values.dialect import Operation
from extproc.wire.errors import WireError
from extproc.wire.json_object import JsonObject, split_object

MAX_MODEL_CHARACTERS = 256
MAX_TOKENS = 10_000_000
"""Above any model's output; keeps worst cases far below 2^53 micro-USD."""
MAX_CHOICES = 128
"""OpenAI's own bound on ``n``."""
MAX_TOOLS_BYTES = 4 * 1024 * 1024
"""Tool definitions parsed to look for server-side tools; longer ones count as such."""

_MAXIMUM_KEYS: dict[Operation, tuple[str, ...]] = {
    Operation.CHAT_COMPLETIONS: ("max_completion_tokens", "max_tokens"),
    Operation.COMPLETIONS: ("max_tokens",),
    Operation.RESPONSES: ("max_output_tokens",),
    Operation.MESSAGES: ("max_tokens",),
}
_INJECTED_KEY = {
    Operation.CHAT_COMPLETIONS: "max_tokens",
    Operation.COMPLETIONS: "max_tokens",
    Operation.RESPONSES: "max_output_tokens",
    Operation.MESSAGES: "max_tokens",
}
_STREAM_USAGE = (Operation.CHAT_COMPLETIONS, Operation.COMPLETIONS)

_REFERENCES = tuple(
    b'"%s"' % word
    for word in (
        b"image_url",
        b"file_id",
        b"file_url",
        b"input_image",
        b"input_file",
        b"input_audio",
        b"image",
        b"document",
        b"file",
        b"previous_response_id",
        b"conversation",
        b"container",
    )
)
"""Input that the body's bytes do not bound: it is elsewhere, or billed by tile or second. Looked for
as plain text in the whole body: a prompt that merely talks of it reserves more, never less."""
_ESCAPED_LETTER = re.compile(rb"\\u00[4-7]")
"""No ordinary serialiser escapes ASCII letters; one that does could hide the words above."""

_CLIENT_TOOL_TYPES = ("function", "custom")
"""OpenAI tools that the caller runs. Every other type runs at the provider, billed per call."""
_decode_raw_list = msgspec.json.Decoder(list[msgspec.Raw]).decode


class InferenceRequest(NamedTuple):
    """One parsed request."""

    operation: Operation
    body: JsonObject
    model: str
    stream: bool
    max_output_tokens: int | None
    """What the caller named; None when it named nothing."""
    choices: int
    """``n`` or ``best_of``: how many outputs are paid for."""
    input_by_reference: bool
    server_tools: bool
    priority_tier: bool
    asks_usage: bool
    """The caller wants the usage chunk of an OpenAI stream."""

    @property
    def body_bytes(self) -> int:
        """Length of the body."""
        return len(self.body.body)

    @property
    def generates(self) -> bool:
        """Whether there is output to bound: embeddings have none."""
        return self.operation in _MAXIMUM_KEYS


def parse_inference_request(operation: Operation, body: bytes) -> InferenceRequest:
    """Reads a body. Raises ``WireError``."""
    split = split_object(body)
    places = split.places
    named = [
        _integer(split, key, MAX_TOKENS)
        for key in _MAXIMUM_KEYS.get(operation, ())
        if key in places
    ]
    named_tokens = [tokens for tokens in named if tokens is not None]
    if operation is Operation.MESSAGES and not named_tokens:
        raise WireError("max_tokens is required.", param="max_tokens")
    stream = _boolean(split, "stream")
    choices = 1
    if "n" in places or "best_of" in places:
        choices = max(_integer(split, key, MAX_CHOICES) or 1 for key in ("n", "best_of"))
    return InferenceRequest(
        operation,
        split,
        _model(split),
        stream,
        # Both fields at once is a caller's slip; the larger one bounds whichever the provider uses.
        max(named_tokens) if named_tokens else None,
        choices,
        _by_reference(body),
        "tools" in places and _has_server_tools(operation, split),
        "service_tier" in places and split.raw("service_tier") == b'"priority"',
        stream and "stream_options" in places and _asks_usage(split),
    )


def rewrite(
    request: InferenceRequest, model: str, injected_max_tokens: int | None, inject_usage: bool
) -> bytes:
    """The body for a target: its model name, and what had to be added. All else byte for byte."""
    values = {"model": orjson.dumps(model)}
    if injected_max_tokens is not None:
        values[_INJECTED_KEY[request.operation]] = b"%d" % injected_max_tokens
    if inject_usage:
        options = request.body.raw("stream_options")
        if options is None or options == b"null":
            values["stream_options"] = b'{"include_usage":true}'
        else:
            values["stream_options"] = split_object(options).patched({"include_usage": b"true"})
    return request.body.patched(values)


def needs_usage_injected(request: InferenceRequest) -> bool:
    """Whether a stream would carry no usage unless we ask for it."""
    return request.stream and request.operation in _STREAM_USAGE and not request.asks_usage


def conversation_root(request: InferenceRequest) -> str:
    """A digest of how the conversation began, the same on every later turn of it.

    Made of the system prompt and the first messages up to the first of the user, which agents
    repeat unchanged. Other callers of the same prompt share it: it groups, it does not identify.
    """
    digest = hashlib.blake2b(digest_size=12)
    split = request.body
    for key in ("system", "instructions"):
        digest.update(split.raw(key) or b"")
    raw = split.raw("messages") or split.raw("input") or split.raw("prompt") or b""
    if raw[:1] == b"[":
        try:
            for message in _decode_raw_list(raw):
                part = bytes(message)
                digest.update(part)
                if b'"user"' in part:
                    break
        except msgspec.DecodeError:
            digest.update(raw)
    else:
        digest.update(raw)
    return digest.hexdigest()


def _model(split: JsonObject) -> str:
    raw = split.raw("model")
    model = _decode(raw) if raw is not None else None
    if not isinstance(model, str) or not 0 < len(model) <= MAX_MODEL_CHARACTERS:
        raise WireError("model must be the name of a model.", param="model")
    return model


def _integer(split: JsonObject, key: str, maximum: int) -> int | None:
    """A JSON integer in 1..maximum; None when absent or null."""
    raw = split.raw(key)
    if raw is None or raw == b"null":
        return None
    if raw.isdigit() and len(raw) <= 9:
        value = int(raw)
        if 1 <= value <= maximum:
            return value
    raise WireError(f"{key} must be an integer from 1 to {maximum}.", param=key)


def _boolean(split: JsonObject, key: str) -> bool:
    raw = split.raw(key)
    if raw is None or raw in (b"false", b"null"):
        return False
    if raw == b"true":
        return True
    raise WireError(f"{key} must be true or false.", param=key)


def _by_reference(body: bytes) -> bool:
    if b"\\u00" in body and _ESCAPED_LETTER.search(body):
        return True
    return any(word in body for word in _REFERENCES)


def _has_server_tools(operation: Operation, split: JsonObject) -> bool:
    raw = split.raw("tools") or b"[]"
    if raw == b"null":
        return False
    tools = None if len(raw) > MAX_TOOLS_BYTES else _decode(raw)
    if not isinstance(tools, list):
        return True
    for tool in tools:
        kind = tool.get("type") if isinstance(tool, dict) else ""
        if operation is Operation.MESSAGES:
            # Anthropic's own tools carry a dated type; a caller's tool has none, or "custom".
            client = kind in (None, "custom") or str(kind).startswith(("bash_", "text_editor_"))
        else:
            client = kind in _CLIENT_TOOL_TYPES
        if not client:
            return True
    return False


def _asks_usage(split: JsonObject) -> bool:
    raw = split.raw("stream_options")
    if raw is None or raw == b"null":
        return False
    return split_object(raw).raw("include_usage") == b"true"


def _decode(raw: bytes) -> object:
    try:
        value: object = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    return value
