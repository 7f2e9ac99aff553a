"""Prices are exact, sourced, and never guessed from a similar name."""

from __future__ import annotations

import pytest

from extproc.policy.models import canonical_model, in_family
from extproc.policy.prices import find_price
from extproc.values.money import Price, PriceTier, Rates
from extproc.values.usage import TokenUsage


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("claude-haiku-4-5", "claude-haiku-4-5"),
        ("anthropic.claude-haiku-4-5", "claude-haiku-4-5"),
        ("us.anthropic.claude-haiku-4-5-20251001-v1:0", "claude-haiku-4-5"),
        ("claude-haiku-4-5@20251001", "claude-haiku-4-5"),
        ("gpt-4o-mini-2024-07-18", "gpt-4o-mini"),
        ("publishers/google/models/gemini-2.0-flash", "gemini-2.0-flash"),
    ],
)
def test_one_model_has_one_canonical_name(name: str, canonical: str) -> None:
    assert canonical_model(name) == canonical


def test_families_are_whole_words() -> None:
    assert in_family("anthropic.claude-haiku-4-5", "haiku")
    assert not in_family("claude-opus-4-7", "opus-4")
    assert in_family("gpt-4o-mini", "gpt-4o-mini")
    assert not in_family("gpt-4o-mini", "gpt-4o")


def test_known_models_have_a_price_with_its_source() -> None:
    price = find_price("bedrock", "anthropic.claude-haiku-4-5", {})
    assert price is not None
    assert (price.rates.input, price.rates.output) == (1_000_000, 5_000_000)
    assert price.source
    assert price.context_tokens == 200_000
    assert price.max_output_tokens == 64_000
    assert find_price("openai", "gpt-4", {}) != find_price("openai", "gpt-4o", {})
    assert find_price("openai", "gpt-4o-unheard-of", {}) is None


def test_a_declared_price_wins() -> None:
    mine = Price(Rates(1, 2, 3, 4))
    assert find_price("openai", "gpt-4o", {("openai", "gpt-4o"): mine}).rates == mine.rates


def test_costs_are_rounded_up_once_and_bounded_by_the_worst_case() -> None:
    price = Price(
        Rates(input=1_000_000, output=5_000_000, cached_input=100_000, cache_write=1_250_000),
        tiers=(PriceTier(200_000, Rates(2_000_000, 7_000_000, 200_000, 2_500_000)),),
    )
    assert price.cost_micro_usd(TokenUsage(1, 0)) == 1
    assert price.cost_micro_usd(TokenUsage(10, 1, cached_input_tokens=9)) == 7
    assert price.cost_micro_usd(TokenUsage(200_001, 0)) == 400_002
    assert price.worst_case_micro_usd(10, 1) == 32
    for usage in (TokenUsage(10, 1), TokenUsage(10, 1, 0, 10), TokenUsage(10, 1, 10)):
        assert price.cost_micro_usd(usage) <= price.worst_case_micro_usd(10, 1)
