"""What a rule or a fallback sets otherwise in the requests to its target, as written.

Reservations are made for the request as the caller sent it, so no override may touch what they are
made of: such fields are refused here, by name, and because the reader of requests sees a change.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal

import orjson

from extproc.policy.drafts import TargetDraft
from extproc.policy.reading import Section
from extproc.policy.yaml_text import Node
from extproc.values.dialect import Dialect, Operation
from extproc.values.money import Price
from extproc.values.wire_names import INTERNAL_PREFIX
from extproc.wire.capabilities import LONG_CONTEXT, LONG_CONTEXT_TOKENS
from extproc.wire.errors import WireError
from extproc.wire.headers import (
    CREDENTIAL_HEADERS,
    DEARER_PREFIXES,
    PRIVATE_PREFIXES,
    SESSION_HEADERS,
)
from extproc.wire.inference_request import InferenceRequest, parse_inference_request
from extproc.wire.overrides import Overrides, Params, overridden

MAX_PARAMS = 32
MAX_PARAM_BYTES = 16 * 1024
"""Of one field as JSON: a schema of some length. It is sent with every request."""
MAX_HEADERS = 32
MAX_HEADER_CHARACTERS = 1_024

HOLDERS = ("generationConfig", "inferenceConfig", "additionalModelRequestFields")
"""Gemini's and Bedrock's objects that hold the fields which other APIs have at the top: each of
their fields is set by itself."""

_BOUND = frozenset(
    (
        "model", "models", "modelId", "stream", "stream_options",
        "max_tokens", "max_completion_tokens", "max_output_tokens", "max_tokens_to_sample",
        "maxTokens", "maxOutputTokens", "maxTokenCount", "max_gen_len", "max_new_tokens",
        "n", "best_of", "candidateCount", "num_generations",
    )
)  # fmt: skip
"""Which model, how many answers, how long: set by the target itself and by limits."""
_PROMPT = frozenset(
    (
        "messages", "input", "prompt", "system", "instructions", "contents", "systemInstruction",
        "system_instruction", "cachedContent", "tools", "toolConfig", "functions", "documents",
        "previous_response_id", "conversation", "container", "context_management", "prefill",
    )
)  # fmt: skip
"""What the model reads."""
_BILLED = frozenset(
    (
        "audio", "modalities", "responseModalities", "speechConfig", "mcp_servers", "plugins",
        "prediction", "web_search_options", "search_parameters", "enable_search", "provider",
        "route", "speed", "inference_geo", "performanceConfig", "guardrailConfig", "background",
        "serviceTier",
    )
)  # fmt: skip
"""What has a price of its own, or makes the provider choose one."""
_PLAIN_TIERS = ("auto", "default", "flex", "standard", "standard_only")
_HARMLESS_THINKING = ("disabled", "adaptive")
"""A thinking budget decides how short an answer can be cut, so it stays the caller's."""

_HARMLESS = frozenset(
    (
        "temperature", "top_p", "top_k", "min_p", "seed", "stop", "stop_sequences", "logprobs",
        "top_logprobs", "frequency_penalty", "presence_penalty", "repetition_penalty",
        "logit_bias", "reasoning_effort", "reasoning", "verbosity", "thinking", "output_config",
        "output_format", "response_format", "service_tier", "tool_choice", "parallel_tool_calls",
        "metadata", "user", "store", "safety_identifier", "prompt_cache_key", "include",
        "prompt_cache_retention", "truncation", "chat_template_kwargs", "topP", "topK",
        "stopSequences", "responseMimeType", "responseSchema",
        "responseJsonSchema", "responseLogprobs", "presencePenalty", "frequencyPenalty",
        "thinkingConfig", "mediaResolution", "safetySettings", "anthropic_beta", "requestMetadata",
    )
)  # fmt: skip
"""Known to change no price and no length."""


def _spelled(name: str) -> str:
    """Google reads every field as ``candidateCount`` and as ``candidate_count``."""
    return name.replace("_", "").casefold()


_WHY = {
    **dict.fromkeys(
        map(_spelled, _BOUND), "decides what is reserved; a target's own model and limits set it"
    ),
    **dict.fromkeys(map(_spelled, _PROMPT), "is the prompt, which is the caller's"),
    **dict.fromkeys(map(_spelled, _BILLED), "is billed apart, and no reservation would hold it"),
    **{_spelled(name): f"is written {name}" for name in HOLDERS},
}
_HEADER = re.compile(r"[a-z0-9!#$%&'*+.^`|~-]+")
_VALUE = re.compile(r"[ -~\t]*")
_OWN_HEADERS = frozenset(
    (
        *CREDENTIAL_HEADERS, *SESSION_HEADERS,
        "accept-encoding", "connection", "content-encoding", "content-length", "content-type",
        "expect", "forwarded", "host", "keep-alive", "proxy-connection", "te", "trailer",
        "transfer-encoding", "upgrade", "via", "x-real-ip", "x-request-id",
    )
)  # fmt: skip
"""Of the connection, of the caller's identity, or of how usage is read."""
_OWN_PREFIXES = (INTERNAL_PREFIX, "x-envoy-", "x-forwarded-", "x-tfy-", "x-b3-", *PRIVATE_PREFIXES)

_PROBE = {"model": "m", "max_tokens": 1_000, "messages": []}
_OPERATIONS = (Operation.CHAT_COMPLETIONS, Operation.MESSAGES, Operation.RESPONSES)


def read_overrides(section: Section, prefix: str) -> Overrides | None:
    """``override_params`` and ``headers_override``; None where neither is written. ``prefix`` is
    that of identity headers."""
    params = _params(section)
    set_headers, removed = _headers(section, prefix)
    if params is None and not (set_headers or removed):
        return None
    return Overrides(params or Params(), tuple(set_headers.items()), removed)


def sets_params(overrides: Overrides | None) -> bool:
    """Whether fields of the body are set otherwise."""
    return overrides is not None and overrides.params != Params()


def check_overrides(draft: TargetDraft, price: Price, api: Dialect | None) -> None:
    """Reports what cannot be judged before the target's price and API are known. ``api`` is the
    dialect whose fields are set; None where a stand-in speaks others."""
    overrides, section = draft.overrides, draft.section
    if overrides is None:
        return
    if api is None and sets_params(overrides):
        section.warning(
            "", "override_not_applied", f"{draft.id}: the demo provider does not know these fields"
        )
    context = price.context_tokens or 0
    texts = [value for _, value in overrides.set_headers] + _texts(overrides.params)
    if context < LONG_CONTEXT_TOKENS and any(map(LONG_CONTEXT.search, texts)):
        section.error(
            "",
            "override_of_context",
            f"{draft.id} opens a longer context than the {context} tokens that are reserved for "
            f"it; say context_tokens: {LONG_CONTEXT_TOKENS} in the price of {draft.model}",
        )


def _params(section: Section) -> Params | None:
    written = section.section("override_params")
    if written is None:
        return None
    errors = len(section.findings.errors)
    inside: dict[str, Params] = {}
    fields: dict[str, bytes | None] = {}
    for key, node in written.items():
        if key in HOLDERS:
            # Only field by field: with the rest of it the maximum would go.
            inside[key] = Params(_fields(Section(node, section.file, section.findings, key)))
        else:
            fields[key] = _field(written, key, node)
    params = Params(fields, inside)
    count = len(fields) + sum(len(each.fields) for each in inside.values())
    if not count:
        section.error("override_params", "missing_key", "override_params sets nothing")
    if count > MAX_PARAMS:
        section.error("override_params", "out_of_range", f"more than {MAX_PARAMS} fields")
    elif len(section.findings.errors) == errors and _moves_bound(params):
        section.error(
            "override_params", "override_of_bound", "these fields change what is to be reserved"
        )
    return params


def _fields(holder: Section) -> dict[str, bytes | None]:
    return {key: _field(holder, key, node) for key, node in holder.items()}


def _field(section: Section, key: str, node: Node) -> bytes | None:
    """The JSON text of one field."""
    why = None if key in _HARMLESS else _WHY.get(_spelled(key))
    if why is not None:
        section.error(key, "override_of_bound", f"{key[:80]} {why}")
    plain = _plain(node)
    if plain is not None and key not in _HARMLESS and why is None:
        section.warning(
            key, "unknown_param", f"{key[:80]}: what it costs, if anything, is outside the proof"
        )
    if key == "service_tier" and plain is not None and plain not in _PLAIN_TIERS:
        section.error(key, "override_of_bound", f"service_tier may be {', '.join(_PLAIN_TIERS)}")
    if key == "thinking" and plain is not None and not _is_harmless_thinking(plain):
        kinds = " or ".join(_HARMLESS_THINKING)
        section.error(key, "override_of_bound", f"thinking may be of type {kinds}, no more")
    if plain is None:
        return None
    text = _json(plain)
    if len(text) > MAX_PARAM_BYTES:
        section.error(key, "out_of_range", f"{key} is longer than {MAX_PARAM_BYTES} bytes")
    return text


def _is_harmless_thinking(plain: object) -> bool:
    return isinstance(plain, dict) and list(plain) == ["type"] and (
        plain["type"] in _HARMLESS_THINKING
    )  # fmt: skip


def _moves_bound(params: Params) -> bool:
    """Whether the reader of requests would reserve otherwise for the changed body."""
    for operation in _OPERATIONS:
        body = orjson.dumps(_PROBE | {"max_output_tokens": 1_000})
        try:
            before = parse_inference_request(operation, body)
            after = parse_inference_request(operation, overridden(body, params))
        except WireError:
            return True
        if _reserved_by(before) != _reserved_by(after):
            return True
    return False


def _reserved_by(request: InferenceRequest) -> tuple[object, ...]:
    return request._replace(body=None)  # type: ignore[arg-type]


def _headers(section: Section, prefix: str) -> tuple[dict[str, str], tuple[str, ...]]:
    written = section.section("headers_override")
    if written is None:
        return {}, ()
    set_headers: dict[str, str] = {}
    chosen = written.section("set")
    if chosen is not None:
        for name, _ in chosen.items():
            value = chosen.text(name)
            if not _VALUE.fullmatch(value) or not 0 < len(value) <= MAX_HEADER_CHARACTERS:
                chosen.error(name, "bad_value", f"{name[:80]} has no usable value for a header")
            _check_name(chosen, name, name, prefix)
            set_headers[name.lower()] = value
    removed = tuple(name.lower() for name in written.texts("remove"))
    for name in removed:
        _check_name(written, "remove", name, prefix)
        if name in set_headers:
            written.error("remove", "bad_value", f"{name[:80]} is set too")
    written.done()
    if len(set_headers) + len(removed) > MAX_HEADERS:
        section.error("headers_override", "out_of_range", f"more than {MAX_HEADERS} headers")
    if not (set_headers or removed):
        section.error("headers_override", "missing_key", "headers_override needs set or remove")
    return set_headers, removed


def _check_name(section: Section, key: str, name: str, prefix: str) -> None:
    lower = name.lower()
    if not _HEADER.fullmatch(lower):
        section.error(key, "bad_value", f"{name[:80]!r} is no name of a header")
    elif lower in _OWN_HEADERS or lower.startswith((prefix, *_OWN_PREFIXES)):
        section.error(
            key,
            "forbidden_header",
            f"{lower[:80]} is the gateway's: identity, credentials and the connection are not set "
            "per target",
        )
    elif lower.startswith(DEARER_PREFIXES):
        section.error(
            key, "override_of_bound", f"{lower[:80]} chooses a price that no reservation is made at"
        )


def _texts(params: Params) -> list[str]:
    texts = [text.decode() for text in params.fields.values() if text]
    for inner in params.inside.values():
        texts += _texts(inner)
    return texts


def _plain(node: Node) -> object:
    """The value without its lines."""
    value = node.value
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value


def _json(plain: object) -> bytes:
    """JSON text; decimals as they are written."""
    if isinstance(plain, Decimal):
        return str(plain).encode()
    if isinstance(plain, dict):
        pairs = [orjson.dumps(key) + b":" + _json(value) for key, value in plain.items()]
        return b"{" + b",".join(pairs) + b"}"
    if isinstance(plain, list):
        return b"[" + b",".join(map(_json, plain)) + b"]"
    return orjson.dumps(plain)
