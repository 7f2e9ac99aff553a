"""Wishes to think keep their order of magnitude from dialect to dialect."""

from __future__ import annotations

import pytest

from extproc.dialects.conversation import (
    Part,
    Role,
    Text,
    Thinking,
    ThinkingWish,
    ToolCall,
    ToolResult,
    Turn,
    Vendor,
)
from extproc.dialects.thinking import (
    budget_of,
    effort_of,
    given_signature,
    is_claudes,
    may_think,
    returned_thinking,
)
from extproc.wire.call_ids import FOREIGN


@pytest.mark.parametrize("effort", ["low", "medium", "high"])
def test_an_effort_becomes_a_budget_of_the_same_effort(effort: str) -> None:
    budget = budget_of(ThinkingWish("effort", effort=effort))
    assert effort_of(ThinkingWish("budget", budget)) == effort


def test_budgets_and_efforts_that_were_named_stay() -> None:
    assert budget_of(ThinkingWish("budget", 7)) == 7
    assert effort_of(ThinkingWish("effort", effort="xhigh")) == "xhigh"
    assert effort_of(ThinkingWish("off")) == "none"
    assert budget_of(ThinkingWish("effort", effort="max")) == 32_000


USER, RESULTS = Turn(Role.USER, [Text("x")]), Turn(Role.USER, [ToolResult("c", [])])
CALL, OWN = ToolCall("c", "f", "{}"), Thinking("t", "s", Vendor.ANTHROPIC)


def assistant(*parts: Part) -> Turn:
    return Turn(Role.ASSISTANT, list(parts))


@pytest.mark.parametrize(
    ("turns", "by_budget", "adaptively"),
    [
        ([], True, True),
        ([USER], True, True),
        ([assistant(Text("y")), USER], True, True),
        ([assistant(OWN, CALL), RESULTS], True, True),
        ([assistant(Text("y"), OWN, CALL), RESULTS], False, True),
        ([assistant(CALL), RESULTS], False, True),
        ([USER, assistant(Text("go on"))], False, False),
    ],
)
def test_claude_thinks_where_its_answer_has_begun_with_a_thought_of_its_own(
    turns: list[Turn], by_budget: bool, adaptively: bool
) -> None:
    assert may_think(turns, adapts=False) is by_budget
    assert may_think(turns, adapts=True) is adaptively


@pytest.mark.parametrize("own", [Vendor.ANTHROPIC, Vendor.OPENAI])
@pytest.mark.parametrize(
    "thinking",
    [
        Thinking("hm", "sig.with.dots", Vendor.ANTHROPIC),
        Thinking("", "data", Vendor.ANTHROPIC, redacted=True),
        Thinking("hm", "QQ==", Vendor.GOOGLE),
        Thinking("hm", "", Vendor.OTHER),
        Thinking("hm", "gAAAAB.x", Vendor.OPENAI),
    ],
)
def test_thoughts_come_back_to_their_own_vendor(thinking: Thinking, own: Vendor) -> None:
    given = given_signature(thinking, own)
    assert (FOREIGN in given) is (thinking.vendor is not own)
    back = returned_thinking(thinking.text, given, own)
    assert (back.text, back.signature, back.vendor) == (
        thinking.text, thinking.signature, thinking.vendor,
    )  # fmt: skip


def test_a_thought_that_nobody_signed_is_never_taken_for_ones_own() -> None:
    own = Thinking("hm", "", Vendor.ANTHROPIC)
    assert not is_claudes(own)
    assert given_signature(own, Vendor.ANTHROPIC).startswith(FOREIGN)
