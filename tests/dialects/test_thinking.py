"""Wishes to think keep their order of magnitude from dialect to dialect."""

from __future__ import annotations

import pytest

from extproc.dialects.conversation import (
    Role,
    Text,
    Thinking,
    ThinkingWish,
    ToolCall,
    Turn,
    Vendor,
)
from extproc.dialects.thinking import budget_of, effort_of, in_unsigned_tool_use


@pytest.mark.parametrize("effort", ["low", "medium", "high"])
def test_an_effort_becomes_a_budget_of_the_same_effort(effort: str) -> None:
    budget = budget_of(ThinkingWish("effort", effort=effort))
    assert effort_of(ThinkingWish("budget", budget)) == effort


def test_budgets_and_efforts_that_were_named_stay() -> None:
    assert budget_of(ThinkingWish("budget", 7)) == 7
    assert effort_of(ThinkingWish("effort", effort="xhigh")) == "xhigh"
    assert effort_of(ThinkingWish("off")) == "none"
    assert budget_of(ThinkingWish("effort", effort="max")) == 32_000


def test_only_calls_without_claudes_own_thinking_forbid_thinking() -> None:
    call, own = ToolCall("c", "f", "{}"), Thinking("t", "s", Vendor.ANTHROPIC)
    user = Turn(Role.USER, [Text("x")])
    assert in_unsigned_tool_use([Turn(Role.ASSISTANT, [Thinking("t"), call]), user])
    assert not in_unsigned_tool_use([Turn(Role.ASSISTANT, [own, call]), user])
    assert not in_unsigned_tool_use([Turn(Role.ASSISTANT, [Text("y")]), user])
    assert not in_unsigned_tool_use([user])
