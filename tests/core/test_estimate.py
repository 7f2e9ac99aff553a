"""Estimates: money is a bound that no true usage exceeds, tokens are likely and learned."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from gateway import chat
from hypothesis import given
from hypothesis import strategies as st
from world import compiled

from extproc.core import estimate
from extproc.core.estimate import (
    FIRST_OUTPUT_TOKENS,
    HIDDEN_TEMPLATE_TOKENS,
    MAX_BYTES_PER_TOKEN,
    UNKNOWN_CONTEXT_TOKENS,
    Estimator,
    estimate_amounts,
    input_bound_tokens,
    output_bound_tokens,
)
from extproc.policy.snapshot import Target
from extproc.values.dialect import Operation
from extproc.values.money import Price, PriceTier, Rates
from extproc.values.usage import TokenUsage
from extproc.wire.inference_request import InferenceRequest, parse_inference_request

HAIKU = compiled().virtual_models["intent-fast"].targets[0]
IMAGE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y"}}]}]


def priced(**fields: Any) -> Target:
    return replace(HAIKU, price=Price(Rates(1_000_000, 5_000_000, 100_000, 1_250_000), **fields))


def asked(operation: Operation = Operation.CHAT_COMPLETIONS, **fields: Any) -> InferenceRequest:
    body = {name: value for name, value in chat(**fields).items() if value is not None}
    return parse_inference_request(operation, json.dumps(body).encode())


# -- what is likely -------------------------------------------------------------------------------


def test_before_anything_is_learned_prose_is_assumed() -> None:
    estimator = Estimator()
    assert estimator.likely_tokens("m", 3_600, 99_999) == (1_001, FIRST_OUTPUT_TOKENS)
    assert estimator.likely_tokens("m", 0, 99_999)[0] == 1
    assert estimator.likely_tokens("m", 3_600, 16) == (1_001, 16)


def test_some_sixty_requests_teach_a_model_and_only_that_model() -> None:
    estimator = Estimator()
    for _ in range(100):
        estimator.learn("m", 6_000, 1_000, 50)
    tokens, output = estimator.likely_tokens("m", 600_000, 99_999)
    assert tokens == pytest.approx(100_000, rel=0.01)
    assert output == pytest.approx(50, abs=10)
    assert estimator.likely_tokens("other", 3_600, 99_999) == (1_001, FIRST_OUTPUT_TOKENS)


def test_one_request_moves_an_estimate_by_a_twentieth() -> None:
    estimator = Estimator()
    estimator.learn("m", 5_600, 1_000, 2_024)
    tokens, output = estimator.likely_tokens("m", 370_000, 99_999)
    assert tokens == 100_001  # 3.6 and a twentieth of the two bytes to 5.6
    assert output == 1_074


COUNTS = st.integers(0, 10**9)


@given(st.lists(st.tuples(COUNTS, COUNTS, COUNTS), max_size=80), COUNTS, st.integers(1, 10**6))
def test_no_report_teaches_anything_absurd(
    reports: list[tuple[int, int, int]], body_bytes: int, maximum: int
) -> None:
    estimator = Estimator()
    for report in reports:
        estimator.learn("m", *report)
    tokens, output = estimator.likely_tokens("m", body_bytes, maximum)
    assert body_bytes / MAX_BYTES_PER_TOKEN <= tokens <= body_bytes + 1
    assert 0 <= output <= maximum


def test_the_models_that_are_learned_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "MAX_LEARNED_MODELS", 2)
    estimator = Estimator()
    for model in ("a", "b", "c", "a"):
        estimator.learn(model, 9_000, 1_000, 0)
    once = Estimator()
    once.learn("b", 9_000, 1_000, 0)
    ask = (90_000, 99_999)
    assert estimator.likely_tokens("c", *ask) == Estimator().likely_tokens("c", *ask)
    assert estimator.likely_tokens("b", *ask) == once.likely_tokens("b", *ask)
    assert estimator.likely_tokens("a", *ask) < estimator.likely_tokens("b", *ask)


# -- what is the most -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("named", "model_maximum", "bound"),
    [(16, 8, 16), (None, None, 4_096), (None, 100, 100), (None, 64_000, 4_096)],
)
def test_output_is_bounded_by_the_caller_else_by_the_default_or_the_model(
    named: int | None, model_maximum: int | None, bound: int
) -> None:
    target = priced(max_output_tokens=model_maximum)
    assert output_bound_tokens(asked(max_tokens=named), target, 4_096) == bound


def test_embeddings_have_no_output() -> None:
    request = asked(Operation.EMBEDDINGS, input="x")
    assert output_bound_tokens(request, priced(), 4_096) == 0
    amounts = estimate_amounts(request, priced(), 4_096, Estimator())
    assert amounts[3] == 0
    assert amounts[1] == amounts[2]


@pytest.mark.parametrize(
    ("context", "messages", "bound"),
    [
        (None, None, None),
        (200_000, None, None),
        (50, None, 50),
        (200_000, IMAGE, 200_000),
        (None, IMAGE, UNKNOWN_CONTEXT_TOKENS),
    ],
)
def test_input_is_bounded_by_bytes_or_the_context_whichever_is_proven(
    context: int | None, messages: Any, bound: int | None
) -> None:
    request = asked(messages=messages) if messages else asked()
    expected = request.body_bytes + HIDDEN_TEMPLATE_TOKENS if bound is None else bound
    assert input_bound_tokens(request, priced(context_tokens=context)) == expected


def test_every_choice_is_paid_for_but_the_prompt_once() -> None:
    one = estimate_amounts(asked(max_tokens=100, n=1), priced(), 1, Estimator())
    four = estimate_amounts(asked(max_tokens=100, n=4), priced(), 1, Estimator())
    assert four[4] - one[4] == 3 * 100 * 5
    assert (one[3], four[3]) == (100, 400)
    assert four[2] == one[2]
    assert four[:2] == (1, four[2] + four[3])


RATES = st.builds(Rates, *[st.integers(0, 100_000_000)] * 5)


@given(st.data(), RATES, RATES, st.integers(1, 4), st.integers(1, 10_000))
def test_no_usage_within_the_bounds_costs_more_than_was_reserved(
    data: st.DataObject, rates: Rates, dearer: Rates, choices: int, maximum: int
) -> None:
    price = Price(rates, (PriceTier(600, dearer),), per_request_micro_usd=7, context_tokens=900)
    target = replace(HAIKU, price=price)
    request = asked(max_tokens=maximum, n=choices)
    reserved = estimate_amounts(request, target, 4_096, Estimator())[4]
    tokens = data.draw(st.integers(0, input_bound_tokens(request, target)))
    cached = data.draw(st.integers(0, tokens))
    written = data.draw(st.integers(0, tokens - cached))
    usage = TokenUsage(
        tokens,
        data.draw(st.integers(0, maximum * choices)),
        cached,
        written,
        cache_write_1h_tokens=data.draw(st.integers(0, written)),
    )
    assert price.cost_micro_usd(usage) <= reserved
