"""Prices and amounts. Money is integer micro-USD; a price is integer micro-USD per million tokens.

A price of $0.80 per million tokens is ``800_000``. One million such units times one token is one
micro-USD, so a sum of ``tokens * price`` over all kinds of token is divided once, rounding up.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from extproc.values.usage import TokenUsage

TOKENS_PER_PRICE = 1_000_000
MICRO_USD_PER_USD = 1_000_000

MAX_AMOUNT = 2**53 - 1
"""No single amount or counter may exceed this: Redis scripts keep numbers as doubles, which are
exact only up to here, and nine billion dollars is more than any budget."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Micro-USD per million tokens, by kind of token. Reasoning tokens cost what output costs."""

    input: int
    output: int
    cached_input: int
    cache_write: int
    cache_write_1h: int = 0
    """Of a write that is kept for an hour; 0: the same as ``cache_write``."""

    @property
    def dearest_input(self) -> int:
        """What an input token costs at worst: a cache write may cost more than a plain read."""
        return max(self.input, self.cached_input, self.cache_write, self.cache_write_1h)


@dataclass(frozen=True, slots=True)
class PriceTier:
    """The rates of a request whose input is longer than ``above_input_tokens``."""

    above_input_tokens: int
    rates: Rates


@dataclass(frozen=True, slots=True)
class Price:
    """What one model costs at one provider, where the figure is from, and the model's limits."""

    rates: Rates
    tiers: tuple[PriceTier, ...] = ()
    """Ascending by threshold. A long-context tier reprices the whole request."""
    per_request_micro_usd: int = 0
    context_tokens: int | None = None
    max_output_tokens: int | None = None
    as_of: str = ""
    source: str = ""
    dearest: Rates = field(init=False)
    """Each rate at its maximum over the tiers: the proof must hold whichever tier applies."""

    worst: tuple[int, int] = field(init=False)
    """What an input and an output token cost at worst."""

    def __post_init__(self) -> None:
        every = (self.rates, *(tier.rates for tier in self.tiers))
        object.__setattr__(
            self,
            "dearest",
            Rates(
                input=max(r.input for r in every),
                output=max(r.output for r in every),
                cached_input=max(r.cached_input for r in every),
                cache_write=max(r.cache_write for r in every),
                cache_write_1h=max(r.cache_write_1h for r in every),
            ),
        )
        object.__setattr__(self, "worst", (self.dearest.dearest_input, self.dearest.output))

    def worst_case_micro_usd(self, input_tokens: int, output_tokens: int) -> int:
        """The most that a request of at most these token counts can cost, rounded up."""
        dearest_input, dearest_output = self.worst
        millionths = input_tokens * dearest_input + output_tokens * dearest_output
        return -(-millionths // TOKENS_PER_PRICE) + self.per_request_micro_usd

    def cost_micro_usd(self, usage: TokenUsage) -> int:
        """What a request of this usage costs, rounded up once."""
        rates = self.rates
        for tier in self.tiers:
            if usage.input_tokens > tier.above_input_tokens:
                rates = tier.rates
        plain = usage.input_tokens - usage.cached_input_tokens - usage.cache_write_tokens
        millionths = (
            plain * rates.input
            + usage.cached_input_tokens * rates.cached_input
            + usage.cache_write_tokens * rates.cache_write
            + usage.cache_write_1h_tokens * max(0, rates.cache_write_1h - rates.cache_write)
            + usage.output_tokens * rates.output
        )
        return -(-millionths // TOKENS_PER_PRICE) + self.per_request_micro_usd
