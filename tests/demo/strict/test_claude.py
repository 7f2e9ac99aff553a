from __future__ import annotations

from typing import Any

import pytest

from extproc.demo.answer import BadRequestError
from extproc.demo.strict.claude import (
    Sampling,
    check_first_block,
    check_model,
    check_sampling,
    check_thinking,
)

ENABLED = {"type": "enabled", "budget_tokens": 2_000}


def test_what_goes_with_thinking() -> None:
    check_thinking(None, Sampling(10, temperature=0.5, top_k=3))
    check_thinking({"type": "disabled"}, Sampling(10, temperature=0.5))
    check_thinking(ENABLED, Sampling(2_001, temperature=1, top_p=0.95))
    check_thinking({"type": "adaptive"}, Sampling(10))


@pytest.mark.parametrize(
    ("thinking", "sampling", "words"),
    [
        ({**ENABLED, "budget_tokens": 1_023}, Sampling(4_000), "equal to 1024"),
        (ENABLED, Sampling(2_000), "`max_tokens` must be greater than"),
        (ENABLED, Sampling(4_000, temperature=0.5), "`temperature`"),
        (ENABLED, Sampling(4_000, top_k=3), "`top_k`"),
        (ENABLED, Sampling(4_000, top_p=0.5), "`top_p`"),
        (ENABLED, Sampling(4_000, forces_tools=True), "forces tool use"),
        ({"type": "adaptive"}, Sampling(4_000, temperature=0), "`temperature`"),
    ],
)
def test_what_does_not(thinking: Any, sampling: Sampling, words: str) -> None:
    with pytest.raises(BadRequestError, match=words):
        check_thinking(thinking, sampling)


def test_newer_models_take_one_kind_of_sampling() -> None:
    both = Sampling(10, temperature=0.5, top_p=0.5)
    check_sampling("claude-3-5-haiku-latest", both)
    check_sampling("claude-sonnet-4-5", Sampling(10, temperature=0.5))
    for model in ("claude-sonnet-4-5", "claude-opus-4-1", "eu.anthropic.claude-haiku-4-5-v1:0"):
        with pytest.raises(BadRequestError, match="cannot both be specified"):
            check_sampling(model, both)


def test_an_unfinished_tool_loop_begins_with_its_thought() -> None:
    check_first_block(ENABLED, 1, "thinking")
    check_first_block(None, 1, "tool_use")
    with pytest.raises(BadRequestError, match="must start with a thinking block"):
        check_first_block(ENABLED, 1, "tool_use")


def test_a_snapshot_of_the_first_opus_4_takes_both() -> None:
    check_sampling("claude-opus-4-20250514", Sampling(10, temperature=0.5, top_p=0.5))


@pytest.mark.parametrize(
    ("model", "thinking", "sampling", "words"),
    [
        ("claude-haiku-4-5-20251001", {"type": "adaptive"}, Sampling(10), "adaptive thinking"),
        ("claude-sonnet-4-20250514", {"type": "adaptive"}, Sampling(10), "adaptive thinking"),
        ("us.anthropic.claude-opus-4-7", ENABLED, Sampling(4_000), "thinking.type.enabled"),
        ("claude-sonnet-5", ENABLED, Sampling(4_000), "thinking.type.enabled"),
        ("claude-fable-5", {"type": "disabled"}, Sampling(10), "thinking.type.disabled"),
        ("claude-opus-4-8", None, Sampling(10, temperature=0.5), "`temperature` is deprecated"),
        ("claude-sonnet-5", None, Sampling(10, top_k=5), "`top_k` is deprecated"),
    ],
)
def test_each_generation_thinks_and_samples_its_own_way(
    model: str, thinking: Any, sampling: Sampling, words: str
) -> None:
    with pytest.raises(BadRequestError, match=words):
        check_model(model, thinking, sampling)


@pytest.mark.parametrize(
    ("model", "thinking", "sampling"),
    [
        ("claude-opus-4-6", {"type": "adaptive"}, Sampling(10)),
        ("claude-opus-4-6", ENABLED, Sampling(4_000, temperature=1)),
        ("claude-opus-4-7", {"type": "adaptive"}, Sampling(10, temperature=1)),
        ("claude-sonnet-5", {"type": "disabled"}, Sampling(10)),
        ("claude-haiku-4-5", ENABLED, Sampling(4_000)),
        ("gpt-4o", ENABLED, Sampling(4_000, temperature=0.5)),
    ],
)
def test_and_takes_what_is_its_own(model: str, thinking: Any, sampling: Sampling) -> None:
    check_model(model, thinking, sampling)
