"""A text that is certainly too long for a target does not go there; what may fit does."""

from __future__ import annotations

import json
from typing import Any

import pytest
from gateway import chat
from hypothesis import given
from hypothesis import strategies as st
from policies import snapshot
from world import World

from extproc.core.commands import Forward, Refuse
from extproc.core.context import without_narrow
from extproc.core.estimate import FIRST_BYTES_PER_TOKEN, MAX_BYTES_PER_TOKEN, Estimator
from extproc.core.routing import Chain
from extproc.values.dialect import Operation
from extproc.wire.inference_request import parse_inference_request

MODEL = """
name: narrow
type: gateway-load-balancing-config
rules:
  - {id: small, weight: 1, target: {provider: openai, model: small}}
fallbacks:
  - {id: large, provider: vertex, model: large}
---
name: prices
type: gateway-config
prices:
  - {provider: openai, model: small, input_usd_per_mtok: 1, output_usd_per_mtok: 1,
     context_tokens: 1000}
  - {provider: vertex, model: large, input_usd_per_mtok: 1, output_usd_per_mtok: 1,
     context_tokens: 2000}
"""
NARROW = snapshot(more=MODEL).virtual_models["narrow"]
CHAIN = Chain(Operation.CHAT_COMPLETIONS, NARROW.all_targets, NARROW.breaker)
LONG = "word " * 6_000
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 30_000}}


def left(operation: Operation, body: dict[str, Any]) -> list[str]:
    request = parse_inference_request(operation, json.dumps(body).encode())
    return [target.model for target in without_narrow(request, CHAIN, Estimator()).targets]


@given(st.integers(0, 6_000))
def test_a_target_is_left_out_when_the_text_cannot_fit_or_likely_fits_another(words: int) -> None:
    body = chat(messages=[{"role": "user", "content": "word " * words}])
    size = len(json.dumps(body))
    contexts = {"small": 1_000, "large": 2_000}
    possible = [name for name in contexts if size <= contexts[name] * MAX_BYTES_PER_TOKEN]
    likely = [n for n in possible if int(size / FIRST_BYTES_PER_TOKEN) + 1 <= contexts[n]]
    assert left(Operation.CHAT_COMPLETIONS, body) == (likely or possible)


def test_what_was_learned_of_a_model_decides_what_is_likely() -> None:
    body = chat(messages=[{"role": "user", "content": "word " * 1_000}])
    request = parse_inference_request(Operation.CHAT_COMPLETIONS, json.dumps(body).encode())
    estimator = Estimator()
    assert len(without_narrow(request, CHAIN, estimator).targets) == 1
    for _ in range(200):
        estimator.learn("small", 10_000, 1_000, 5)  # ten bytes per token
    assert without_narrow(request, CHAIN, estimator) is CHAIN


def test_a_chain_that_fits_whole_is_the_same_chain() -> None:
    request = parse_inference_request(Operation.CHAT_COMPLETIONS, json.dumps(chat()).encode())
    assert without_narrow(request, CHAIN, Estimator()) is CHAIN


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        (Operation.CHAT_COMPLETIONS, chat(messages=[{"role": "user", "content": [IMAGE]}])),
        (Operation.EMBEDDINGS, {"model": "narrow", "input": ["word " * 300] * 20}),
        (Operation.COMPLETIONS, {"model": "narrow", "prompt": ["word " * 300] * 20}),
        (Operation.RESPONSES, {"model": "narrow", "input": LONG, "truncation": "auto"}),
        (
            Operation.MESSAGES,
            chat(messages=[{"role": "user", "content": LONG}], context_management={"edits": []}),
        ),
    ],
)
def test_a_long_body_that_is_no_long_prompt_is_left_to_the_provider(
    operation: Operation, body: dict[str, Any]
) -> None:
    assert left(operation, body) == ["small", "large"]


LONG_PROMPT = [{"role": "user", "content": "word " * 50_000}]
"""250 KB: it may be longer than the 200,000 tokens that are reserved at most."""


@pytest.mark.parametrize(
    ("header", "messages", "budget", "refused"),
    [
        (b"context-1m-2025-08-07", LONG_PROMPT, True, True),
        (b"other, Context-1M-x", [{"role": "user", "content": [IMAGE]}], True, True),
        (b"context-1m-2025-08-07", LONG_PROMPT, False, False),
        (b"context-1m-2025-08-07", [{"role": "user", "content": "short"}], True, False),
        (b"interleaved-thinking-2025-05-14", LONG_PROMPT, True, False),
    ],
)
def test_a_context_longer_than_is_reserved_is_not_opened_under_a_strict_budget(
    header: bytes, messages: Any, budget: bool, refused: bool
) -> None:
    model = (
        "name: one\ntype: gateway-load-balancing-config\nrules:\n"
        "  - {id: r, target: {provider: anthropic, model: claude-sonnet-4-5}}\n"
    )
    money = "---\nname: b\ntype: gateway-budget-config\nbudgets:\n"
    money += "  - {id: all, ceiling_usd: 100, window: 1d}\n"
    world = World(model + (money if budget else ""))
    world.extra = [("anthropic-beta", header)]
    command = world.ask(chat(model="one", messages=messages))
    assert isinstance(command, Refuse) is refused
    if refused:
        assert "longer context" in command.refusal.message


def test_nor_for_a_caller_of_another_api_whose_header_goes_along() -> None:
    world = World(
        "name: n\ntype: gateway-config\nproviders:\n"
        '  claude: {dialect: anthropic, base_url: "https://c.invalid", credential: "env:NO", '
        "demo: native}\n---\n"
        "name: one\ntype: gateway-load-balancing-config\nrules:\n"
        "  - {id: r, target: {provider: claude, model: claude-sonnet-4-5}}\n---\n"
        "name: b\ntype: gateway-budget-config\nbudgets:\n"
        "  - {id: all, ceiling_usd: 100, window: 1d}\n"
    )
    body = chat(model="one", messages=LONG_PROMPT)
    assert isinstance(world.ask(body), Forward)
    world.extra = [("anthropic-beta", b"context-1m-2025-08-07")]
    command = world.ask(body)
    assert isinstance(command, Refuse)
    assert "longer context" in command.refusal.message


def test_nor_at_a_fallback_that_is_narrower_than_what_was_asked_for() -> None:
    world = World(
        "name: p\ntype: gateway-config\nprices:\n"
        "  - {provider: openai, model: wide, input_usd_per_mtok: 10, output_usd_per_mtok: 10,\n"
        "     context_tokens: 1000000}\n---\n"
        "name: wide\ntype: gateway-load-balancing-config\nrules:\n"
        "  - {id: w, target: {provider: openai, model: wide}}\n---\n"
        "name: narrower\ntype: gateway-load-balancing-config\nrules:\n"
        "  - {id: n, target: {provider: anthropic, model: claude-haiku-4-5}}\n---\n"
        "name: b\ntype: gateway-budget-config\nbudgets:\n"
        "  - {id: all, ceiling_usd: 1.5, window: 1d, on_exceed: fallback_to_narrower}\n"
    )
    body = chat(model="wide", messages=LONG_PROMPT)
    moved = world.ask(body)
    assert isinstance(moved, Forward)
    assert moved.chain.targets[0].provider.name == "anthropic"
    world.end()
    world.extra = [("anthropic-beta", b"context-1m-2025-08-07")]
    command = world.ask(body)
    assert isinstance(command, Refuse)
    assert "longer context" in command.refusal.message
