"""Usage as providers report it, to ``TokenUsage``.

Envoy ships short pieces of the response, never the response: for JSON the body from its last
``"usage":`` key on, for SSE the first and last event that carried usage. A provider's numbers are
claims: what is not a plain count marks the report as suspect, and a suspect report never lowers a
charge below its reservation.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson

from extproc.values.dialect import Operation
from extproc.values.usage import TokenUsage

MAX_PLAUSIBLE_TOKENS = 100_000_000
"""No context window or output is near this; more is a falsified or broken count."""


class Reported(NamedTuple):
    """A provider's report, normalised."""

    usage: TokenUsage
    final: bool
    """The report is the provider's last word, not an interim count of a cut stream."""
    suspect: bool
    """Some count was missing, no integer, negative or absurd; it was read as 0."""


def usage_from_json_tail(operation: Operation, tail: bytes) -> Reported | None:
    """Reads the end of a JSON body, beginning at its last ``"usage":`` key.

    The key is the document's own, not one inside a model's answer, exactly when the tail with one
    opening brace is a whole JSON object: a nested key would leave brackets over.
    """
    document = _object(b"{" + tail)
    if document is None:
        return None
    return _report(operation, document.get("usage"), final=True)


def usage_from_events(operation: Operation, first: bytes, last: bytes) -> Reported | None:
    """Reads the first and the last event of a stream that carried usage. Either may be empty."""
    if operation is Operation.MESSAGES:
        return _anthropic_events(first, last)
    if operation is Operation.RESPONSES:
        # Shipped from the "usage" key on: one level down, inside "response".
        document = _object(b'{"response":{' + last)
        response = document.get("response") if document else None
        return _report(operation, response.get("usage"), final=True) if response else None
    document = _object(last)
    if document is None:
        return None
    # The final chunk has no choices; interim counts (vLLM's continuous usage) come with some.
    return _report(operation, document.get("usage"), final=not document.get("choices"))


def _anthropic_events(first: bytes, last: bytes) -> Reported | None:
    start = _object(first)
    delta = _object(last)
    message = start.get("message") if start else None
    usage = dict(message.get("usage") or {}) if isinstance(message, dict) else {}
    final = False
    if delta is not None and delta.get("type") == "message_delta":
        if isinstance(delta.get("usage"), dict):
            usage.update({k: v for k, v in delta["usage"].items() if v is not None})
        stop = delta.get("delta")
        final = isinstance(stop, dict) and stop.get("stop_reason") is not None
    return _report(Operation.MESSAGES, usage, final=final) if usage else None


def _report(operation: Operation, usage: object, *, final: bool) -> Reported | None:
    if not isinstance(usage, dict):
        return None
    count = _Counts(usage)
    if operation is Operation.MESSAGES:
        cached = count("cache_read_input_tokens", optional=True)
        written = count("cache_creation_input_tokens", optional=True)
        tokens = TokenUsage(
            count("input_tokens") + cached + written, count("output_tokens"), cached, written
        )
    elif operation is Operation.RESPONSES:
        tokens = TokenUsage(
            count("input_tokens"),
            count("output_tokens"),
            count.detail("input_tokens_details", "cached_tokens"),
            0,
            count.detail("output_tokens_details", "reasoning_tokens"),
        )
    else:
        embeddings = operation is Operation.EMBEDDINGS
        tokens = TokenUsage(
            count("prompt_tokens"),
            count("completion_tokens", optional=embeddings),
            count.detail("prompt_tokens_details", "cached_tokens"),
            0,
            count.detail("completion_tokens_details", "reasoning_tokens"),
        )
    if tokens.cached_input_tokens + tokens.cache_write_tokens > tokens.input_tokens:
        tokens = tokens._replace(cached_input_tokens=0, cache_write_tokens=0)
        count.suspect = True
    if tokens.reasoning_tokens > tokens.output_tokens:
        count.suspect = True
    return Reported(tokens, final, count.suspect)


class _Counts:
    """Reads counts out of a usage object, remembering whether all of them were plain."""

    def __init__(self, usage: dict[str, Any]) -> None:
        self._usage = usage
        self.suspect = False

    def __call__(self, key: str, *, optional: bool = False) -> int:
        return self._plain(self._usage.get(key), optional)

    def detail(self, parent: str, key: str) -> int:
        details = self._usage.get(parent)
        return self._plain(details.get(key), True) if isinstance(details, dict) else 0

    def _plain(self, value: object, optional: bool) -> int:
        if value is None and optional:
            return 0
        if type(value) is int and 0 <= value <= MAX_PLAUSIBLE_TOKENS:
            return value
        self.suspect = True
        return 0


def _object(text: bytes) -> dict[str, Any] | None:
    if not text:
        return None
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None
