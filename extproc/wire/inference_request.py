"""What a decision reads of a request body, and the few bytes of it that are rewritten."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
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
MAX_PROMPTS = 2_048
"""OpenAI's own bound on the prompts of one legacy completions call."""
MAX_TOOL_OBJECTS = 20_000
"""JSON objects in the tool definitions, schemas included; more count as server-side tools, unread.
Each may cost the parser 150 ns. The largest agent set-ups send some thousands."""
MAX_SEARCHED_BYTES = 1_000_000
"""A longer prompt is not searched for references (8 ns per byte at worst) but taken to have some:
it has more bytes than almost every context window has tokens, so the window bounds it anyway."""

_MAXIMUM_KEYS: dict[Operation, tuple[str, ...]] = {
    Operation.CHAT_COMPLETIONS: ("max_completion_tokens", "max_tokens"),
    Operation.COMPLETIONS: ("max_tokens",),
    Operation.RESPONSES: ("max_output_tokens",),
    Operation.MESSAGES: ("max_tokens",),
}
_STREAM_USAGE = (Operation.CHAT_COMPLETIONS, Operation.COMPLETIONS)
_NEWER_FIELD = re.compile(r"(?:.*[/.])?(?:o[1-9]|gpt-[5-9])", re.IGNORECASE)
"""OpenAI models that refuse ``max_tokens``. Other servers may know only that one."""

_PROMPT_KEY = {Operation.MESSAGES: "messages", Operation.CHAT_COMPLETIONS: "messages"}
_REFERENCES = {
    Operation.MESSAGES: re.compile(rb'"(?:image|document|container_upload)"'),
    Operation.CHAT_COMPLETIONS: re.compile(
        rb'"(?:image_url|video_url|audio_url|file|input_audio|audio)"'
    ),
    Operation.RESPONSES: re.compile(rb'"(?:image_url|file_url|file_id|input_file|input_audio|id)"'),
}
"""Input that the body's bytes do not bound: it is elsewhere, or billed by tile or second. Looked
for as plain text in the prompt: one that merely talks of it reserves more, never less. An ``id`` in
a Responses item makes OpenAI load what it stored under it."""
_ESCAPED_LETTER = re.compile(rb"\\u00[4-7]")
"""No ordinary serialiser escapes ASCII letters; one that does could hide the words above."""
_REFERENCE_KEYS = ("previous_response_id", "conversation", "container")

_UNPRICED_KEYS = frozenset(
    {
        "audio",  # spoken output has a price of its own
        "mcp_servers",  # Anthropic calls them, as often as it likes
        "models",  # OpenRouter: the provider may pick another model than the one priced
        "plugins",  # OpenRouter: billed per use
        "prediction",  # rejected predictions are billed as output
        "web_search_options",  # billed per search
    }
)
_PLAIN_TIERS = frozenset((b'"auto"', b'"default"', b'"flex"', b'"standard"', b'"standard_only"'))
_DEARER_KEYS = {
    "service_tier": _PLAIN_TIERS,
    "speed": frozenset((b'"standard"',)),
    "inference_geo": frozenset((b'"global"',)),
}
"""Fields that choose a dearer variant, with the values that do not. Compared as raw text, so that
an escaped spelling of a plain value counts as dear, never the other way round."""

_OWN_TOOLS = (None, "function", "custom")
"""Tools that the caller defines and runs: their whole schema is in the body."""
_PROVIDER_SCHEMA_TOOLS = re.compile(
    r"(?:local_shell|apply_patch|(?:bash|text_editor|computer|memory)_[0-9]{8})"
)
"""Tools that the caller runs, with a schema that the provider adds to the prompt by itself. Every
other type runs at the provider and is billed per call or loops there."""


class _Tool(msgspec.Struct):
    type: str | None = None


class _DeclaredTool(msgspec.Struct):
    type: str | None = None
    execution: str | None = None
    tools: list[_Tool] | None = None


class _Special(NamedTuple):
    choices: int = 1
    input_by_reference: bool = False
    server_tools: bool = False
    priority_tier: bool = False
    asks_usage: bool = False


_PLAIN = _Special()
_SPECIAL_KEYS = _UNPRICED_KEYS.union(
    _REFERENCE_KEYS,
    _DEARER_KEYS,
    ("n", "best_of", "prompt", "tools", "stream_options", "context_management"),
)
"""A body with none of these is plain, which most are."""

_decode_tools = msgspec.json.Decoder(list[_DeclaredTool]).decode
_decode_raw_list = msgspec.json.Decoder(list[msgspec.Raw]).decode


class InferenceRequest(NamedTuple):
    """One parsed request."""

    operation: Operation
    body: JsonObject
    model: str
    stream: bool
    max_output_tokens: int | None
    """What the caller named for one output; None when it named nothing."""
    choices: int
    """How many outputs are paid for: ``n`` or ``best_of``, times the prompts of the call."""
    input_by_reference: bool
    """Some input is not bounded by the body's bytes."""
    server_tools: bool
    """Something is billed that is not a token of the bounded kinds, above all tools that run at the
    provider: outside the proof."""
    priority_tier: bool
    """A variant above the standard price was asked for: priority, fast mode, a region."""
    asks_usage: bool
    """The caller wants the usage chunk of an OpenAI stream."""
    written_bytes: int = 0
    """The longest body that it becomes in other APIs, of those that were tried; 0 where none is
    longer than its own. A tool of a few words is a schema elsewhere."""
    longer_context: bool = False
    """A header asks for a longer context than is reserved, whatever API the target is asked in."""

    def unpriced_at(self, translated: Container[Operation]) -> bool:
        """Whether token prices do not bound what it may cost at a target. ``translated`` are the
        operations that the target is asked for in another API: that leaves such things behind."""
        if self.longer_context:
            return True
        return (self.server_tools or self.priority_tier) and self.operation not in translated

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
    model = _model(split)
    maximum = _maximum(operation, split)
    if operation is Operation.MESSAGES and maximum is None:
        raise WireError("max_tokens is required.", param="max_tokens")
    stream = _boolean(split, "stream")
    plain = _SPECIAL_KEYS.isdisjoint(split.values)
    special = _PLAIN if plain else _special(operation, split)
    return InferenceRequest(
        operation,
        split,
        model,
        stream,
        maximum,
        special.choices,
        special.input_by_reference or _refers(operation, split),
        special.server_tools,
        special.priority_tier,
        stream and special.asks_usage,
    )


def rewrite(
    request: InferenceRequest,
    model: str,
    maximum: int | None,
    inject_usage: bool,
    edits: Mapping[str, bytes] | None = None,
) -> bytes:
    """The body for a target: its model name, and what had to be added. All else byte for byte.

    ``maximum`` is the output maximum that must hold: fields of the caller that are above it are
    lowered (never raised), and where the caller named none it is added. ``edits`` are new JSON
    texts of other fields.
    """
    if maximum is None and not inject_usage and not edits:
        return request.body.replaced("model", orjson.dumps(model))
    values = {"model": orjson.dumps(model)}
    if edits:
        values.update(edits)
    if maximum is not None:
        values.update(_bounded(request, model, maximum))
    if inject_usage:
        options = _present(request.body, "stream_options")
        if options is None:
            values["stream_options"] = b'{"include_usage":true}'
        else:
            asked = split_object(options, "stream_options")
            values["stream_options"] = asked.patched({"include_usage": b"true"})
    return request.body.patched(values)


def needs_usage_injected(request: InferenceRequest) -> bool:
    """Whether a stream would carry no usage unless we ask for it."""
    return request.stream and request.operation in _STREAM_USAGE and not request.asks_usage


def renamed_maximum(request: InferenceRequest, model: str) -> bytes:
    """The body with the maximum that was injected for an earlier target in the field that this
    model knows. A maximum that the caller wrote stays where the caller wrote it."""
    split = request.body
    if request.operation is Operation.CHAT_COMPLETIONS:
        wanted = _injected_key(request.operation, model)
        for key in _MAXIMUM_KEYS[request.operation]:
            value = _present(split, key)
            if key == wanted or value is None:
                continue
            if wanted in split.values:  # null, so far
                return split.patched({wanted: value, key: b"null"})
            return split.renamed(key, wanted)
    return split.body


def _bounded(request: InferenceRequest, model: str, maximum: int) -> dict[str, bytes]:
    """The fields that must change so that no output is longer than the maximum."""
    keys = _MAXIMUM_KEYS[request.operation]
    named = {key: _integer(request.body, key, MAX_TOKENS) for key in keys}
    text = b"%d" % maximum
    if not any(named.values()):
        return {_injected_key(request.operation, model): text}
    return {key: text for key, tokens in named.items() if tokens is not None and tokens > maximum}


def _injected_key(operation: Operation, model: str) -> str:
    if operation is Operation.CHAT_COMPLETIONS and not _NEWER_FIELD.match(model):
        return "max_tokens"
    return _MAXIMUM_KEYS[operation][0]


def _present(split: JsonObject, key: str) -> bytes | None:
    """The raw value; None when absent or null, which SDKs mean to be the same."""
    value = split.values.get(key)
    if value is None:
        return None
    raw = bytes(value)
    return None if raw == b"null" else raw


def _model(split: JsonObject) -> str:
    raw = split.raw("model")
    model = None if raw is None else orjson.loads(raw)
    if not isinstance(model, str) or not 0 < len(model) <= MAX_MODEL_CHARACTERS:
        raise WireError("model must be the name of a model.", param="model")
    return model


def _maximum(operation: Operation, split: JsonObject) -> int | None:
    named = None
    for key in _MAXIMUM_KEYS.get(operation, ()):
        tokens = _integer(split, key, MAX_TOKENS)
        # Both fields at once is a slip: the larger bounds whichever one the provider uses.
        if tokens is not None and (named is None or tokens > named):
            named = tokens
    return named


def _special(operation: Operation, split: JsonObject) -> _Special:
    own_schema, server_tools = _tools(split)
    return _Special(
        _choices(operation, split),
        not own_schema or _names_reference(operation, split),
        server_tools or _has_unpriced(split),
        any(_is_dear(split, key, plain) for key, plain in _DEARER_KEYS.items()),
        _asks_usage(split),
    )


def _choices(operation: Operation, split: JsonObject) -> int:
    choices = 1
    for key in ("n", "best_of"):
        choices = max(choices, _integer(split, key, MAX_CHOICES) or 1)
    if operation is Operation.COMPLETIONS:
        choices *= _prompts(split)
    return choices


def _prompts(split: JsonObject) -> int:
    """How many prompts a legacy completions call carries. A list of numbers is one, in tokens."""
    raw = split.raw("prompt") or b""
    if not raw.startswith(b"[") or raw[1:].lstrip()[:1] not in (b'"', b"["):
        return 1
    prompts = len(_decode_raw_list(raw))
    if prompts > MAX_PROMPTS:
        raise WireError(f"prompt may hold at most {MAX_PROMPTS} prompts.", param="prompt")
    return prompts


def _integer(split: JsonObject, key: str, maximum: int) -> int | None:
    """A JSON integer in 1..maximum; None when absent or null."""
    raw = _present(split, key)
    if raw is None:
        return None
    if raw.isdigit() and len(raw) <= 9 and 1 <= int(raw) <= maximum:
        return int(raw)
    raise WireError(f"{key} must be an integer from 1 to {maximum}.", param=key)


def _boolean(split: JsonObject, key: str) -> bool:
    raw = _present(split, key)
    if raw is None or raw == b"false":
        return False
    if raw == b"true":
        return True
    raise WireError(f"{key} must be true or false.", param=key)


def _names_reference(operation: Operation, split: JsonObject) -> bool:
    if operation is Operation.RESPONSES and _present(split, "prompt") is not None:
        return True  # a template that OpenAI stores
    return any(_present(split, key) is not None for key in _REFERENCE_KEYS)


def _refers(operation: Operation, split: JsonObject) -> bool:
    value = split.values.get(_PROMPT_KEY.get(operation, "input"))
    references = _REFERENCES.get(operation)
    if value is None or references is None:
        return False
    prompt = memoryview(value)
    if len(prompt) > MAX_SEARCHED_BYTES or references.search(prompt):
        return True
    # Looking for the plain text first is many times faster, and most bodies have no such escape.
    return split.body.find(b"\\u00") >= 0 and _ESCAPED_LETTER.search(prompt) is not None


def _tools(split: JsonObject) -> tuple[bool, bool]:
    """Whether every tool's schema is in the body, and whether some tool runs at the provider."""
    raw = _present(split, "tools")
    if raw is None:
        return True, False
    if raw.count(b"{") > MAX_TOOL_OBJECTS:
        return False, True
    try:
        tools = _decode_tools(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False, True  # nothing that is known to be harmless
    foreign = [tool for tool in tools if not _is_own(tool)]
    return not foreign, any(_runs_at_provider(tool) for tool in foreign)


def _is_own(tool: _DeclaredTool) -> bool:
    """Codex declares the tools of one MCP server as a namespace: each is the caller's own."""
    if tool.type == "namespace" and tool.tools:
        return all(inner.type in _OWN_TOOLS for inner in tool.tools)
    return tool.type in _OWN_TOOLS


def _runs_at_provider(tool: _DeclaredTool) -> bool:
    if tool.type == "tool_search":
        return tool.execution != "client"
    return not _PROVIDER_SCHEMA_TOOLS.fullmatch(tool.type or "")


def _has_unpriced(split: JsonObject) -> bool:
    for key in _UNPRICED_KEYS.intersection(split.values):
        if _present(split, key) is not None:
            return True
    # Anthropic's compaction is a second generation inside the call, billed apart. (Clearing old
    # tool results, what most callers use, is not.)
    edits = split.raw("context_management")
    return edits is not None and (b"compact" in edits or b"\\u" in edits)


def _is_dear(split: JsonObject, key: str, plain: frozenset[bytes]) -> bool:
    raw = _present(split, key)
    return raw is not None and raw not in plain


def _asks_usage(split: JsonObject) -> bool:
    raw = _present(split, "stream_options")
    if raw is None:
        return False
    return split_object(raw, "stream_options").raw("include_usage") == b"true"
