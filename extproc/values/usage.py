"""What a provider says a request used."""

from __future__ import annotations

from typing import NamedTuple


class TokenUsage(NamedTuple):
    """Token counts of one attempt, normalised over dialects.

    ``input_tokens`` is the whole prompt: cached and cache-write tokens are parts of it (Anthropic
    reports them beside it, and they are added when parsed). ``output_tokens`` includes
    ``reasoning_tokens``.
    """

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    """All cache writes, whatever their lifetime."""
    reasoning_tokens: int = 0
    cache_write_1h_tokens: int = 0
    """Those cache writes that are kept for an hour, at a higher price."""

    @property
    def total_tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens
