"""How many output tokens the remainder buys: exactly, and never more."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from gateway import chat
from hypothesis import given
from hypothesis import strategies as st
from world import compiled

from extproc.core.clamp import clamped, fits, floor_tokens
from extproc.core.estimate import (
    Estimator,
    estimate_amounts,
    input_bound_tokens,
    output_bound_tokens,
)
from extproc.ledger.port import Hold, Standing
from extproc.policy.snapshot import Target
from extproc.values.dialect import Operation
from extproc.values.limit import Amounts, Breach, BreachKind, Limit, Unit
from extproc.values.money import TOKENS_PER_PRICE, Price, PriceTier, Rates
from extproc.values.window import parse_window
from extproc.wire.inference_request import InferenceRequest, parse_inference_request

HAIKU = compiled().virtual_models["intent-fast"].targets[0]
DEFAULT_TOKENS = 4_096
WINDOW = parse_window("1h")


def priced(rates: Rates, **fields: Any) -> Target:
    return replace(HAIKU, price=Price(rates, **fields))


PLAIN = priced(Rates(1_000_000, 5_000_000, 100_000, 1_250_000))


def asked(operation: Operation = Operation.CHAT_COMPLETIONS, **fields: Any) -> InferenceRequest:
    body = {name: value for name, value in chat(**fields).items() if value is not None}
    return parse_inference_request(operation, json.dumps(body).encode())


def full(unit: Unit, ceiling: int, settled: int = 0, reserved: int = 0) -> Standing:
    limit = Limit("r", "r", unit, ceiling, WINDOW, (), Breach(BreachKind.HARD_BLOCK))
    return Standing(Hold(limit, "", ceiling), settled, reserved, None)


def estimating(target: Target, estimator: Estimator) -> Callable[[InferenceRequest], Amounts]:
    return lambda request: estimate_amounts(request, target, DEFAULT_TOKENS, estimator)


def cut(
    request: InferenceRequest,
    standings: Sequence[Standing],
    target: Target = PLAIN,
    floor: int = 256,
    estimator: Estimator | None = None,
) -> int | None:
    """The maximum after clamping; None if it was not clamped."""
    bound = output_bound_tokens(request, target, DEFAULT_TOKENS)
    estimate = estimating(target, estimator or Estimator())
    shorter = clamped(request, bound, floor, standings, estimate)
    if shorter is None:
        return None
    assert shorter._replace(max_output_tokens=request.max_output_tokens) == request
    return shorter.max_output_tokens


def money_for(request: InferenceRequest, tokens: int, target: Target = PLAIN) -> int:
    output_tokens = tokens * request.choices
    return target.price.worst_case_micro_usd(input_bound_tokens(request, target), output_tokens)


@pytest.mark.parametrize("unit", [Unit.MICRO_USD, Unit.LIKELY_MICRO_USD])
def test_the_remainder_of_a_budget_is_bought_to_the_last_token(unit: Unit) -> None:
    request = asked(max_tokens=4_000)
    exact = money_for(request, 777)
    assert cut(request, [full(unit, exact)]) == 777
    assert cut(request, [full(unit, exact - 1)]) == 776
    assert cut(request, [full(unit, 9_000 + exact, 4_000, 5_000)]) == 777


def test_choices_multiply_what_is_bought() -> None:
    request = asked(max_tokens=4_000, n=3)
    assert cut(request, [full(Unit.MICRO_USD, money_for(request, 500))]) == 500
    prompts = {"messages": None, "prompt": ["a", "b"], "n": 2, "best_of": 3, "max_tokens": 900}
    request = asked(Operation.COMPLETIONS, **prompts)
    assert request.choices == 6
    assert cut(request, [full(Unit.MICRO_USD, money_for(request, 300))]) == 300


def test_the_tightest_of_all_full_limits_decides() -> None:
    request = asked(max_tokens=1_000)
    money = full(Unit.MICRO_USD, money_for(request, 600))
    tokens = full(Unit.OUTPUT_TOKENS, 10_000, 9_000, 500)
    assert cut(request, [money, tokens]) == 500
    assert cut(request, [tokens, money, full(Unit.OUTPUT_TOKENS, 300)]) == 300


def test_token_limits_are_cut_to_what_is_likely() -> None:
    request, estimator = asked(max_tokens=4_000), Estimator()
    input_tokens, output_tokens = estimator.likely_tokens("m", request.body_bytes, 4_000)
    assert output_tokens == 1_024
    assert cut(request, [full(Unit.TOKENS, input_tokens + 900)]) == 900
    assert cut(request, [full(Unit.TOKENS, input_tokens + 255)]) is None


@pytest.mark.parametrize("unit", [Unit.REQUESTS, Unit.INPUT_TOKENS])
def test_what_a_shorter_answer_does_not_help_is_not_clamped(unit: Unit) -> None:
    assert cut(asked(max_tokens=4_000), [full(unit, 5, 5)]) is None


def test_below_the_floor_nothing_is_cut_and_nothing_is_ever_raised() -> None:
    request = asked(max_tokens=4_000)
    enough = full(Unit.MICRO_USD, money_for(request, 256))
    assert cut(request, [enough]) == 256
    assert cut(request, [full(Unit.MICRO_USD, money_for(request, 256) - 1)]) is None
    for asked_for in (16, 256):
        small = asked(max_tokens=asked_for)
        assert cut(small, [full(Unit.MICRO_USD, money_for(small, asked_for) - 1)]) is None
    # The counter may have emptied in between: what was asked for stays the most.
    assert cut(request, [full(Unit.MICRO_USD, 10**9)]) == 3_999


def test_embeddings_have_nothing_to_cut() -> None:
    request = asked(Operation.EMBEDDINGS, messages=None, max_tokens=None, input="x")
    assert cut(request, [full(Unit.MICRO_USD, 1)]) is None


def test_a_request_that_names_no_maximum_gets_one() -> None:
    request = asked(max_tokens=None)
    assert cut(request, [full(Unit.MICRO_USD, money_for(request, 700))]) == 700


def test_a_thinking_budget_stays_whole_with_room_for_an_answer() -> None:
    thinking = {"type": "enabled", "budget_tokens": 1_500}
    request = asked(Operation.MESSAGES, max_tokens=4_000, thinking=thinking)
    floor = floor_tokens(request, 256)
    assert floor == 1_756
    assert cut(request, [full(Unit.MICRO_USD, money_for(request, 1_756))], floor=floor) == 1_756
    short = full(Unit.MICRO_USD, money_for(request, 1_755))
    assert cut(request, [short], floor=floor) is None
    assert floor_tokens(request, 256, 1_024) == 1_280
    for other in ({"type": "adaptive"}, {"type": "disabled"}, None):
        assert floor_tokens(asked(Operation.MESSAGES, thinking=other), 256) == 256


RATE = st.integers(0, 100_000_000)
RATES = st.builds(Rates, RATE, RATE, RATE, RATE, RATE)
UNITS = st.sampled_from([unit for unit in Unit if unit is not Unit.REQUESTS])
COUNTERS = st.tuples(UNITS, st.integers(0, 10**7), st.integers(0, 10**5), st.integers(0, 10**5))


@given(
    RATES,
    RATES,
    st.lists(COUNTERS, min_size=1, max_size=4),
    st.integers(1, 20_000),
    st.integers(1, 8),
    st.integers(1, 2_000),
    st.integers(0, 5_000),
)
def test_the_clamped_estimate_fits_what_was_left_and_one_token_more_would_not(
    rates: Rates,
    dearer: Rates,
    counters: list[tuple[Unit, int, int, int]],
    maximum: int,
    choices: int,
    floor: int,
    learned: int,
) -> None:
    target = priced(rates, tiers=(PriceTier(600, dearer),), per_request_micro_usd=7)
    estimator = Estimator()
    estimator.learn(target.canonical_model, 4_000, 1_000, learned)
    request = asked(max_tokens=maximum, n=choices)
    estimate = estimating(target, estimator)
    standings = [
        full(unit, settled + reserved + left, settled, reserved)
        for unit, left, settled, reserved in counters
    ]
    found = cut(request, standings, target, floor, estimator)

    def affordable(tokens: int) -> bool:
        return fits(standings, estimate(request._replace(max_output_tokens=tokens)))

    if found is None:
        assert maximum <= floor or not affordable(floor)
        return
    assert floor <= found < maximum
    assert affordable(found)
    assert found == maximum - 1 or not affordable(found + 1)


@given(RATE, RATE, st.integers(0, 10**9), st.integers(1, 8), st.integers(1, 10_000_000))
def test_the_search_finds_what_division_would(
    input_rate: int, output_rate: int, left: int, choices: int, maximum: int
) -> None:
    target = priced(Rates(input_rate, output_rate, 0, 0))
    request = asked(max_tokens=maximum, n=choices)
    millionths = left * TOKENS_PER_PRICE - input_bound_tokens(request, target) * input_rate
    bought = maximum - 1
    if output_rate:
        bought = min(bought, millionths // (choices * output_rate))
    expected = bought if bought >= 1 and millionths >= 0 else None
    assert cut(request, [full(Unit.MICRO_USD, left)], target, 1) == expected
