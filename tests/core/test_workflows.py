"""What is held for a workflow: its own 95th percentile, or the worst case until that is known."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import compiled

from extproc.core import workflows as module
from extproc.core.workflows import FIRST_STREAM_BYTES_PER_TOKEN, MIN_SAMPLES, Workflows
from extproc.values.dialect import Operation
from extproc.values.limit import Amounts
from extproc.values.money import Price, Rates
from extproc.values.usage import TokenUsage

HAIKU = compiled().virtual_models["intent-fast"].targets[0]
TARGET = replace(HAIKU, price=Price(Rates(1_000_000, 5_000_000, 100_000, 1_250_000)))
WORST: Amounts = (1, 65_000, 1_000, 64_000, 400_000, 400_000)
CHAT = Operation.CHAT_COMPLETIONS


def taught(output_tokens: list[int], tag: str = "t") -> Workflows:
    workflows = Workflows()
    for tokens in output_tokens:
        workflows.learn(tag, TARGET, 4_000, TokenUsage(1_000, tokens))
    return workflows


def likely(workflows: Workflows, tag: str = "t", body_bytes: int = 4_000) -> int:
    return workflows.likely(tag, TARGET, body_bytes, WORST)[5]


def test_until_enough_was_seen_the_worst_case_is_held() -> None:
    assert likely(Workflows()) == 400_000
    assert likely(taught([900] * (MIN_SAMPLES - 1))) == 400_000
    assert likely(taught([900] * MIN_SAMPLES)) < 10_000


def test_what_is_held_covers_nineteen_calls_of_twenty() -> None:
    workflows = taught([900] * 95 + [20_000] * 5)
    # 1,000 input tokens and 900 output tokens, rounded up to their buckets.
    assert 1_000 + 900 * 5 <= likely(workflows) <= (1_000 + 900 * 5) * 5 // 4
    assert likely(taught([900] * 94 + [20_000] * 6)) >= 20_000 * 5


def test_input_grows_with_the_body_and_at_what_caching_made_of_it() -> None:
    workflows = Workflows()
    for _ in range(50):
        workflows.learn("t", TARGET, 4_000, TokenUsage(1_000, 0, cached_input_tokens=1_000))
    assert 1_000 <= likely(workflows, body_bytes=40_000) <= 1_250


def test_another_tag_or_model_learns_nothing_from_it() -> None:
    workflows = taught([900] * 50)
    assert likely(workflows, "other") == 400_000
    other = replace(TARGET, canonical_model="another")
    assert workflows.likely("t", other, 4_000, WORST) == WORST


@given(st.lists(st.integers(0, 10**8), max_size=60), st.integers(0, 10**8))
def test_nothing_teaches_more_than_the_worst_case(reports: list[int], body_bytes: int) -> None:
    amounts = taught(reports).likely("t", TARGET, body_bytes, WORST)
    assert amounts[:5] == WORST[:5]
    assert 0 <= amounts[5] <= WORST[4]


def test_workflows_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WORKFLOWS", 2)
    workflows = Workflows()
    for tag in "abc":
        for _ in range(MIN_SAMPLES):
            workflows.learn(tag, TARGET, 4_000, TokenUsage(10, 10))
    assert likely(workflows, "a") == 400_000
    assert likely(workflows, "c") < 1_000


def test_a_stream_is_priced_by_its_bytes() -> None:
    workflows = Workflows()
    unlearned = workflows.streamed("t", CHAT, TARGET, 4_000, 100 * FIRST_STREAM_BYTES_PER_TOKEN)
    assert unlearned == 100 * 5
    for _ in range(200):
        workflows.learn_stream(CHAT, TARGET.canonical_model, 50_000, 1_000)
    assert workflows.streamed("t", CHAT, TARGET, 4_000, 5_000) == 100 * 5
    workflows.learn_stream(CHAT, TARGET.canonical_model, 0, 10)
    workflows.learn_stream(CHAT, TARGET.canonical_model, 10, 0)
    assert workflows.streamed("t", CHAT, TARGET, 4_000, 5_000) == 100 * 5
