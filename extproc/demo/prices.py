"""List prices of the demo provider, kept apart from the gateway's so that one can check the other.

Public list prices of 2026-11, written out by hand. All are integer micro-USD per million tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class Price:
    """Micro-USD per million tokens of one model."""

    input: int
    cached_input: int
    cache_write: int
    output: int


def _usd(input_: float, cached_input: float, cache_write: float, output: float) -> Price:
    """A price from USD per million tokens."""
    return Price(*(round(usd * 1_000_000) for usd in (input_, cached_input, cache_write, output)))


_HAIKU = _usd(1.00, 0.10, 1.25, 5.00)
_SONNET = _usd(3.00, 0.30, 3.75, 15.00)
_OPUS = _usd(5.00, 0.50, 6.25, 25.00)

PRICES: dict[str, Price] = {
    "claude-haiku-4-5": _HAIKU,
    "anthropic.claude-haiku-4-5": _HAIKU,
    "claude-sonnet-4-5": _SONNET,
    "claude-sonnet-4-6": _SONNET,
    "anthropic.claude-sonnet-4-5": _SONNET,
    "claude-opus-4-5": _OPUS,
    "claude-opus-4-6": _OPUS,
    "claude-opus-4-1": _usd(15.00, 1.50, 18.75, 75.00),
    "gpt-4o-mini": _usd(0.15, 0.075, 0.15, 0.60),
    "gpt-4o": _usd(2.50, 1.25, 2.50, 10.00),
    "gemini-2.0-flash": _usd(0.10, 0.025, 0.10, 0.40),
    "text-embedding-3-small": _usd(0.02, 0.02, 0.02, 0.00),
}

DEAREST = _usd(15.00, 1.50, 18.75, 75.00)
"""What a model without a price is billed at."""

LONG_CONTEXT_TOKENS = 200_000
"""Above this much input, the models below bill the whole request at their second price."""

LONG_CONTEXT_PRICES: dict[str, Price] = {
    model: _usd(6.00, 0.60, 7.50, 22.50)
    for model in ("claude-sonnet-4-5", "claude-sonnet-4-6", "anthropic.claude-sonnet-4-5")
}


def price_from_json(document: Any) -> Price:
    """A price from ``{"input", "cached_input", "cache_write", "output"}``, micro-USD per Mtok.

    Raises ValueError unless exactly these four are there as integers that are not negative.
    """
    names = {field.name for field in fields(Price)}
    if not isinstance(document, dict) or set(document) != names:
        raise ValueError(f"a price has the fields {sorted(names)}")
    if any(type(value) is not int or value < 0 for value in document.values()):
        raise ValueError("a price is integers of micro-USD per million tokens")
    return Price(**document)


def cost_micro_usd(price: Price, tokens: Price) -> int:
    """The cost of a request, rounded up once; ``tokens`` counts each kind by its price's name."""
    millionths = (
        tokens.input * price.input
        + tokens.cached_input * price.cached_input
        + tokens.cache_write * price.cache_write
        + tokens.output * price.output
    )
    return -(-millionths // 1_000_000)
