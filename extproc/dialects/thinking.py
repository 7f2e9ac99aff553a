"""How much a model shall think, from one dialect's words to another's."""

from __future__ import annotations

from collections.abc import Sequence

from extproc.dialects.conversation import Role, Thinking, ThinkingWish, ToolCall, Turn, Vendor

MIN_BUDGET_TOKENS = 1_024
"""Claude refuses a smaller thinking budget."""
_EFFORT_UP_TO_TOKENS = ((4_096, "low"), (16_384, "medium"))
"""Thinking budgets by effort; above the last it is ``high``."""
_ADAPTIVE_EFFORT = "medium"
"""What a model that decides by itself how much to think is nearest to."""
_BUDGET_BY_EFFORT = {"minimal": 1_024, "low": 2_048, "medium": 8_192, "high": 24_576}
_MOST_BUDGET_TOKENS = 32_000


def effort_of(wish: ThinkingWish) -> str:
    """The effort that a wish asks for."""
    if wish.mode == "off":
        return "none"
    if wish.mode == "effort":
        return wish.effort
    if wish.mode == "adaptive":
        return wish.effort or _ADAPTIVE_EFFORT
    for tokens, effort in _EFFORT_UP_TO_TOKENS:
        if wish.budget_tokens <= tokens:
            return effort
    return "high"


def budget_of(wish: ThinkingWish) -> int:
    """The thinking tokens that a wish asks for."""
    if wish.mode == "budget":
        return wish.budget_tokens
    return _BUDGET_BY_EFFORT.get(wish.effort, _MOST_BUDGET_TOKENS)


def in_unsigned_tool_use(turns: Sequence[Turn]) -> bool:
    """The last assistant's turn calls tools and has no thinking of Claude's: Claude then refuses to
    think, because its own would have to come before the calls."""
    for turn in reversed(turns):
        if turn.role is Role.ASSISTANT:
            calls = any(isinstance(part, ToolCall) for part in turn.parts)
            return calls and not any(
                isinstance(part, Thinking) and part.vendor is Vendor.ANTHROPIC
                for part in turn.parts
            )
    return False
