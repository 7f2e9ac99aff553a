"""Thinking, from one dialect's words to another's: how much of it, and how it comes back.

A caller's API has one field for what must be given back with a thought, and its own vendor's goes
there as it is. Another vendor's travels in the same field, marked and with the vendor's name, so
that it comes back with the next turn and reaches the vendor that made it, and nobody else.
"""

from __future__ import annotations

from collections.abc import Sequence

from extproc.dialects.conversation import (
    Role,
    Thinking,
    ThinkingWish,
    ToolResult,
    Turn,
    Vendor,
)
from extproc.wire.call_ids import FOREIGN

MIN_BUDGET_TOKENS = 1_024
"""Claude refuses a smaller thinking budget."""
_EFFORT_UP_TO_TOKENS = ((4_096, "low"), (16_384, "medium"))
"""Thinking budgets by effort; above the last it is ``high``."""
_ADAPTIVE_EFFORT = "medium"
"""What a model that decides by itself how much to think is nearest to."""
_BUDGET_BY_EFFORT = {"minimal": 1_024, "low": 2_048, "medium": 8_192, "high": 24_576}
_MOST_BUDGET_TOKENS = 32_000
_REDACTED = "redacted"


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


def given_signature(thinking: Thinking, own: Vendor) -> str:
    """What a caller is handed to give back, whose API is that of ``own``. Never empty: a thought
    that nobody signed could not be told from one of ``own``, which refuses it."""
    if thinking.vendor is own and thinking.signature:
        return thinking.signature
    return foreign_signature(thinking.vendor, thinking.signature, redacted=thinking.redacted)


def foreign_signature(vendor: Vendor, signature: str, *, redacted: bool = False) -> str:
    """A signature for a caller whose API is another vendor's."""
    kind = f"{vendor}.{_REDACTED}" if redacted else str(vendor)
    return f"{FOREIGN}{kind}.{signature}"


def returned_thinking(text: str, signature: str, own: Vendor) -> Thinking:
    """The thinking that a caller gives back, whose API is that of ``own``."""
    if not signature.startswith(FOREIGN):
        return Thinking(text, signature, own if signature else Vendor.OTHER)
    name, _, rest = signature.removeprefix(FOREIGN).partition(".")
    vendor = Vendor(name) if name in tuple(Vendor) else Vendor.OTHER
    kind, dot, redacted = rest.partition(".")
    if dot and kind == _REDACTED:
        return Thinking("", redacted, vendor, redacted=True)
    return Thinking(text, rest, vendor)


def is_claudes(thinking: Thinking) -> bool:
    """Whether Claude takes the thought back."""
    return thinking.vendor is Vendor.ANTHROPIC and bool(thinking.signature)


def may_think(turns: Sequence[Turn], *, adapts: bool) -> bool:
    """Whether Claude lets itself be asked to think at this point. ``turns`` are those that it is
    told. An answer that has begun must begin with a thought of its own: one that is to be gone on
    with, or that called the tools whose results come now. Where it decides by itself whether to
    think (``adapts``) only the first holds."""
    if not turns:
        return True
    last = turns[-1]
    if last.role is Role.ASSISTANT:
        begun = last
    elif adapts or not any(isinstance(part, ToolResult) for part in last.parts):
        return True
    else:
        begun = next((turn for turn in reversed(turns) if turn.role is Role.ASSISTANT), last)
    return bool(begun.parts) and isinstance(begun.parts[0], Thinking)
