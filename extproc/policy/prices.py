"""Prices: policy first, then the package ``genai-prices``, then our own catalogue. Never a guess.

A model is looked up by its exact canonical name at its provider; no prefix or substring match: that
has billed models at three times their price elsewhere. No price is an error at load.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import ROUND_UP, Decimal
from functools import lru_cache
from typing import Any

from genai_prices import data as catalogue_package

from extproc.policy.catalogue import MAPPED, MAX_OUTPUT_TOKENS
from extproc.policy.models import canonical_model
from extproc.values.money import MICRO_USD_PER_USD, Price, PriceTier, Rates

_PACKAGE_PROVIDER = {
    "anthropic": "anthropic",
    "openai": "openai",
    "vertex": "google",
    "gemini": "google",
    "bedrock": "aws",
    "azure": "azure",
}


def find_price(
    provider: str, model: str, declared: Mapping[tuple[str, str], Price]
) -> Price | None:
    """The price of a model at a provider; None when nobody knows it."""
    canonical = canonical_model(model)
    price = (
        declared.get((provider, model))
        or declared.get((provider, canonical))
        or _package_price(_PACKAGE_PROVIDER.get(provider, provider), model)
        or _package_price(_PACKAGE_PROVIDER.get(provider, provider), canonical)
    )
    mapped = MAPPED.get(canonical)
    if price is None and mapped is not None:
        price = _package_price(*mapped)
    if price is None or price.max_output_tokens is not None:
        return price
    return replace(price, max_output_tokens=MAX_OUTPUT_TOKENS.get(canonical))


def micro_usd_per_mtok(usd_per_mtok: Decimal) -> int:
    """A price in dollars per million tokens, in our unit; what is finer is rounded up."""
    scaled = usd_per_mtok * MICRO_USD_PER_USD
    return int(scaled.to_integral_value(rounding=ROUND_UP))


@lru_cache(maxsize=4_096)
def _package_price(provider: str, model: str) -> Price | None:
    for entry in catalogue_package.providers:
        if entry.id != provider:
            continue
        for info in entry.models:
            if info.id == model or canonical_model(info.id) == model:
                return _convert(info, entry)
    return None


def _convert(info: Any, provider: Any) -> Price | None:
    prices = info.prices
    if isinstance(prices, list):
        # Conditional prices (dates, regions): the last unconditional one is the current one.
        plain = [p.prices for p in prices if p.constraint is None] or [p.prices for p in prices]
        prices = plain[-1]
    if prices.input_mtok is None:
        return None
    thresholds = {0}
    fields = {
        "input": prices.input_mtok,
        "output": prices.output_mtok,
        "cached_input": prices.cache_read_mtok,
        "cache_write": prices.cache_write_mtok,
    }
    for value in fields.values():
        thresholds.update(tier.start for tier in getattr(value, "tiers", ()))

    def rates(threshold: int) -> Rates:
        at = {name: _at(value, threshold) for name, value in fields.items()}
        plain = at["input"] or 0
        cached = at["cached_input"]
        written = at["cache_write"]
        return Rates(
            input=plain,
            output=at["output"] or 0,
            cached_input=plain if cached is None else cached,
            cache_write=plain if written is None else written,
            # Anthropic lists a write that is kept for an hour at twice the input price; the
            # package has the five-minute price only.
            cache_write_1h=2 * plain if canonical_model(info.id).startswith("claude-") else 0,
        )

    tiers = tuple(PriceTier(start, rates(start)) for start in sorted(thresholds - {0}))
    per_request = getattr(prices, "requests_kcount", None)
    return Price(
        rates=rates(0),
        tiers=tiers,
        per_request_micro_usd=micro_usd_per_mtok(Decimal(per_request) / 1000) if per_request else 0,
        context_tokens=info.context_window,
        source=f"genai-prices, {provider.name}: {info.id}",
        as_of=str(getattr(info, "prices_checked", None) or ""),
    )


def _at(value: Any, threshold: int) -> int | None:
    if value is None:
        return None
    tiers = getattr(value, "tiers", None)
    if tiers is None:
        return micro_usd_per_mtok(Decimal(value))
    price = value.base
    for tier in tiers:
        if threshold >= tier.start:
            price = tier.price
    return micro_usd_per_mtok(Decimal(price))
