"""What the price package does not say: models it lacks, output maxima, capabilities. Each with its
source."""

from __future__ import annotations

from extproc.wire.capabilities import Capability

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

_TEXT_ONLY = frozenset((Capability.VISION, Capability.JSON_SCHEMA, Capability.THINKING))
_NO_THINKING = frozenset((Capability.THINKING,))

LACKS: dict[str, frozenset[Capability]] = {
    # The vendors' model pages and what their APIs answer ("unrecognized argument"), read 2026-11.
    "gpt-3.5-turbo": _TEXT_ONLY,
    "gpt-4": _TEXT_ONLY,
    "gpt-4-turbo": frozenset((Capability.JSON_SCHEMA, Capability.THINKING)),
    "gpt-4o": _NO_THINKING,
    "gpt-4o-mini": _NO_THINKING,
    "gpt-4.1": _NO_THINKING,
    "gpt-4.1-mini": _NO_THINKING,
    "gpt-4.1-nano": _NO_THINKING,
    "o1-mini": frozenset((Capability.TOOLS, Capability.VISION, Capability.JSON_SCHEMA)),
    "o3-mini": frozenset((Capability.VISION,)),
    "claude-3-haiku": frozenset((Capability.JSON_SCHEMA, Capability.THINKING)),
    "claude-3-5-haiku": frozenset((Capability.JSON_SCHEMA, Capability.THINKING)),
    "claude-3-5-sonnet": frozenset((Capability.JSON_SCHEMA, Capability.THINKING)),
    "gemini-2.0-flash": _NO_THINKING,
}
"""What models cannot do, by canonical name. One that is not here is taken to do everything: a
target's own ``lacks`` says more."""
