"""What a request needs of a model beyond text: read only when another model may have to serve."""

from __future__ import annotations

import re
from enum import StrEnum

from extproc.values.dialect import Operation
from extproc.wire.inference_request import MAX_SEARCHED_BYTES, InferenceRequest


class Capability(StrEnum):
    """What a model may lack."""

    TOOLS = "tools"
    """Calling tools that the request defines."""
    VISION = "vision"
    """Reading images and pages."""
    JSON_SCHEMA = "json_schema"
    """Answering within a given schema."""
    THINKING = "thinking"
    """Taking a thinking budget or a reasoning effort; others refuse the field."""


LONG_CONTEXT = re.compile(r"context-[0-9]+m", re.IGNORECASE)
"""Anthropic's beta for a longer context than a model usually has."""
LONG_CONTEXT_TOKENS = 1_000_000
"""What it opens."""

_PROMPT_KEYS = ("messages", "input")
_IMAGE = re.compile(rb'"(?:image|image_url|input_image|document|input_file|file)"')
"""The types of content that need eyes, in all dialects."""
_SCHEMA_KEYS = ("response_format", "text", "output_format", "output_config")
_REASONING_KEYS = ("thinking", "reasoning_effort", "reasoning")
_TELLING_KEYS = frozenset(("tools", "functions", *_SCHEMA_KEYS, *_REASONING_KEYS))
"""A request with none of these and no references needs nothing, which most do not."""
_NOTHING: frozenset[Capability] = frozenset()
_NO_REASONING = re.compile(rb'"(?:none|disabled)"')


def needed_capabilities(request: InferenceRequest) -> frozenset[Capability]:
    """What a model must be able to do to serve the request. In doubt a capability is needed: the
    wrong model would answer with an error, or not see half of the prompt."""
    if request.operation is Operation.EMBEDDINGS:
        return _NOTHING
    if not request.input_by_reference and _TELLING_KEYS.isdisjoint(request.body.values):
        return _NOTHING
    needed = {
        Capability.TOOLS: any(_says_something(request, key) for key in ("tools", "functions")),
        Capability.VISION: _shows_images(request),
        Capability.JSON_SCHEMA: any(_names_schema(request, key) for key in _SCHEMA_KEYS),
        Capability.THINKING: any(_asks_reasoning(request, key) for key in _REASONING_KEYS),
    }
    return frozenset(capability for capability, is_needed in needed.items() if is_needed)


def _says_something(request: InferenceRequest, key: str) -> bool:
    return (request.body.raw(key) or b"null") not in (b"null", b"[]", b"{}")


def _shows_images(request: InferenceRequest) -> bool:
    # Whatever is not text is input by reference; the other way round it need not be an image.
    if not request.input_by_reference:
        return False
    for key in _PROMPT_KEYS:
        value = request.body.values.get(key)
        if value is None:
            continue
        prompt = memoryview(value)
        if len(prompt) > MAX_SEARCHED_BYTES or _IMAGE.search(prompt):
            return True
        if b"\\u00" in bytes(prompt):
            return True  # the words may be hidden by escapes
    return False


def _names_schema(request: InferenceRequest, key: str) -> bool:
    raw = request.body.raw(key)
    return raw is not None and (b"json_schema" in raw or b"\\u" in raw)


def _asks_reasoning(request: InferenceRequest, key: str) -> bool:
    raw = request.body.raw(key)
    return _says_something(request, key) and not _NO_REASONING.search(raw or b"")
