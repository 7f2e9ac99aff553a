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
    """The counts cannot all be true: one was missing, no integer, negative or absurd (and was read
    as 0), or they contradict each other, or they leave out something billed."""


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
        response = (_object(b'{"response":{' + last) or {}).get("response")
        usage = response.get("usage") if isinstance(response, dict) else None
        return _report(operation, usage, final=True)
    document = _object(last) or {}
    final = _is_last_chunk(document.get("choices"))
    return _report(operation, document.get("usage"), final=final)


def usage_from_object(operation: Operation, usage: object) -> Reported | None:
    """Reads a usage object that stands alone, as final; None for what is no object."""
    return _report(operation, usage, final=True)


def _is_last_chunk(choices: object) -> bool:
    """OpenAI's usage chunk has no choices, others put usage on the chunk that finishes. Interim
    counts (vLLM's continuous usage) come with choices that go on."""
    return isinstance(choices, list) and all(
        isinstance(choice, dict) and choice.get("finish_reason") is not None for choice in choices
    )


def _anthropic_events(first: bytes, last: bytes) -> Reported | None:
    """The start event tells the input, the last delta the output, both as totals so far."""
    message = (_object(first) or {}).get("message")
    start = message.get("usage") if isinstance(message, dict) else None
    usage: dict[str, Any] = dict(start) if isinstance(start, dict) else {}
    delta = _object(last) or {}
    final = shrunk = False
    if delta.get("type") == "message_delta":
        later = delta.get("usage")
        for key, value in later.items() if isinstance(later, dict) else ():
            before = usage.get(key)
            if type(value) is int and type(before) is int and value < before:
                shrunk = True  # totals only grow: the larger one counts
            elif value is not None:
                usage[key] = value
        if not isinstance(later, dict) or later.get("output_tokens") is None:
            usage.pop("output_tokens", None)  # what the start said of it was a beginning
        stop = delta.get("delta")
        final = isinstance(stop, dict) and stop.get("stop_reason") is not None
    reported = _report(Operation.MESSAGES, usage, final=final) if usage else None
    return reported._replace(suspect=True) if reported and shrunk else reported


def _report(operation: Operation, usage: object, *, final: bool) -> Reported | None:
    if not isinstance(usage, dict):
        return None
    count = _Counts(usage)
    if operation is Operation.MESSAGES:
        tokens = _anthropic_tokens(count)
    elif operation is Operation.RESPONSES:
        tokens = _openai_tokens(count, "input_tokens", "output_tokens")
    else:
        tokens = _openai_tokens(
            count,
            "prompt_tokens",
            "completion_tokens",
            has_output=operation is not Operation.EMBEDDINGS,
        )
    if tokens.cached_input_tokens + tokens.cache_write_tokens > tokens.input_tokens:
        tokens = tokens._replace(
            cached_input_tokens=0, cache_write_tokens=0, cache_write_1h_tokens=0
        )
        count.suspect = True
    # No request is without a prompt: a report of nothing is a report that failed.
    suspect = count.suspect or tokens.input_tokens == 0
    return Reported(tokens, final, suspect)


def _anthropic_tokens(count: _Counts) -> TokenUsage:
    cached = count("cache_read_input_tokens", optional=True)
    written = count("cache_creation_input_tokens", optional=True)
    if count.has("server_tool_use") or count.has("iterations"):
        # Searches are billed beside the tokens, and the totals leave out inner generations.
        count.suspect = True
    output_tokens = count("output_tokens")
    # Anthropic's own decomposition, to look at: the output is what is billed.
    thought = count.detail("output_tokens_details", "thinking_tokens")
    hour = count.detail("cache_creation", "ephemeral_1h_input_tokens")
    return TokenUsage(
        count("input_tokens") + cached + written,
        output_tokens,
        cached,
        written,
        min(thought, output_tokens),
        min(written, hour),
    )


def _openai_tokens(
    count: _Counts, input_key: str, output_key: str, *, has_output: bool = True
) -> TokenUsage:
    input_tokens = count(input_key)
    output_tokens = count(output_key, optional=not has_output)
    reasoning = count.detail(output_key + "_details", "reasoning_tokens")
    # Some servers (xAI) leave reasoning out of the output, but not out of the total.
    total = count("total_tokens", optional=True)
    output_tokens = max(output_tokens, total - input_tokens)
    if reasoning > output_tokens:
        count.suspect = True
    cached = count.detail(input_key + "_details", "cached_tokens")
    # "Unadjusted", OpenAI says of it: what was read from the cache may be counted in it again.
    written = count.detail(input_key + "_details", "cache_write_tokens")
    written = min(written, max(0, input_tokens - cached))
    return TokenUsage(input_tokens, output_tokens, cached, written, reasoning)


class _Counts:
    """Reads counts out of a usage object, remembering whether all of them were plain."""

    def __init__(self, usage: dict[str, Any]) -> None:
        self._usage = usage
        self.suspect = False

    def __call__(self, key: str, *, optional: bool = False) -> int:
        return self._plain(self._usage.get(key), optional)

    def detail(self, parent: str, key: str) -> int:
        """A count in a nested object, which may be absent or null."""
        details = self._usage.get(parent)
        if isinstance(details, dict):
            return self._plain(details.get(key), True)
        return self._plain(details, True)

    def has(self, key: str) -> bool:
        """Whether a nested object or list says anything but zero."""
        value = self._usage.get(key)
        return any(value.values()) if isinstance(value, dict) else bool(value)

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
