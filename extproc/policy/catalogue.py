"""What the price package does not say: models it lacks, and output maxima. Each with its source."""

from __future__ import annotations

MAPPED: dict[str, tuple[str, str]] = {
    # Bedrock and Vertex list Anthropic's and Google's models at the vendor's own price (their
    # public price pages, read 2026-11); the package does not know every such name.
    "claude-haiku-4-5": ("anthropic", "claude-haiku-4-5"),
    "claude-sonnet-4-5": ("anthropic", "claude-sonnet-4-5"),
    "claude-opus-4-5": ("anthropic", "claude-opus-4-5"),
    "gemini-2.0-flash": ("google", "gemini-2.0-flash"),
    "gemini-2.5-flash": ("google", "gemini-2.5-flash"),
}
"""Canonical model to (provider, model) of the package, for providers that resell it."""

MAX_OUTPUT_TOKENS: dict[str, int] = {
    # The vendors' model pages, read 2026-11.
    "claude-haiku-4-5": 64_000,
    "claude-sonnet-4-5": 64_000,
    "claude-opus-4-5": 64_000,
    "gpt-4o": 16_384,
    "gpt-4o-mini": 16_384,
    "gpt-4.1": 32_768,
    "gpt-4.1-mini": 32_768,
    "gemini-2.0-flash": 8_192,
    "gemini-2.5-flash": 65_536,
}
"""The most that a model puts out in one answer: bounds a call that names no maximum."""
