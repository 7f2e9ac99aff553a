"""What Claude's models take, on Anthropic and on Bedrock, by their generation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from extproc.dialects.conversation import (
    Conversation,
    Json,
    Part,
    Text,
    Thinking,
    ThinkingWish,
    Turn,
    UntranslatableError,
)
from extproc.dialects.thinking import (
    MIN_BUDGET_TOKENS,
    budget_of,
    effort_of,
    is_claudes,
    may_think,
)
from extproc.dialects.turns import opened_by_user, told_turns, without_trailing_space
from extproc.wire.call_ids import CLAUDE_ID_CHARACTERS, fitting_call_id

LEAST_TOP_P = 0.95
"""While it thinks."""

_NAMED = re.compile(r"claude-([a-z]+)-(\d{1,2})(?:[-.](\d{1,2}))?(?!\d)")
_NUMBERED = re.compile(r"claude-(\d)(?:[-.](\d))?(?!\d)")
_ALWAYS_THINK = re.compile(r"claude-(?:fable|mythos)")
_EFFORTS = {"minimal": "low"}
_SHOWN = ("summarized", "omitted")


class Generation(NamedTuple):
    """A family of models, and how new they are."""

    family: str
    """``opus``, ``sonnet``, ``haiku``; empty where the model is none of Claude's known ones, which
    is then taken to be one of the time when the API had no exceptions."""
    version: tuple[int, int]

    @property
    def takes_one_sampling(self) -> bool:
        """Refuses ``temperature`` together with ``top_p``."""
        return self.version >= ((4, 1) if self.family == "opus" else (4, 5))

    @property
    def takes_no_sampling(self) -> bool:
        """Refuses both, and ``top_k``."""
        return self.adapts_only

    @property
    def thinks(self) -> bool:
        """Thinks at all."""
        return not self.family or self.version >= (3, 7)

    @property
    def adapts(self) -> bool:
        """Decides by itself how much to think, if it is asked to."""
        return self.version >= (4, 6)

    @property
    def adapts_only(self) -> bool:
        """Refuses a budget."""
        return self.version >= ((4, 7) if self.family == "opus" else (5, 0))

    @property
    def thinks_unasked(self) -> bool:
        """Thinks unless it is told not to."""
        return self.version >= (5, 0) and not self.always_thinks

    @property
    def always_thinks(self) -> bool:
        """Cannot be told not to."""
        return self.family in ("fable", "mythos")


def generation_of(model: str) -> Generation:
    """By a model's name, as any provider writes it."""
    if _ALWAYS_THINK.search(model):
        return Generation("mythos", (5, 0))
    named = _NAMED.search(model)
    if named is not None:
        return Generation(named[1], (int(named[2]), int(named[3] or 0)))
    numbered = _NUMBERED.search(model)
    if numbered is not None:
        return Generation("claude", (int(numbered[1]), int(numbered[2] or 0)))
    return Generation("", (0, 0))


def is_told(part: Part) -> bool:
    """Whether Claude is told of a part: not of another vendor's thinking, which it refuses, nor of
    blank text."""
    if isinstance(part, Thinking):
        return is_claudes(part)
    return not isinstance(part, Text) or bool(part.text.strip())


def claudes_call_id(call_id: str) -> str:
    """A call's id as Claude takes it."""
    return fitting_call_id(call_id, CLAUDE_ID_CHARACTERS, plain=True)


def claudes_turns(turns: Sequence[Turn]) -> tuple[list[Turn], list[str]]:
    """The turns as Claude takes them, and what is to be told of them."""
    opened, told = opened_by_user(told_turns(turns, is_told))
    return without_trailing_space(opened), told


def thinking_fields(
    conversation: Conversation, model: str, maximum: int | None
) -> tuple[Json, list[str]]:
    """``thinking`` and ``output_config`` as far as the model takes them at this point, and what was
    left out. The turns must be those that Claude is told. Raises ``UntranslatableError`` for a
    budget that it cannot have."""
    generation, wish = generation_of(model), conversation.thinking
    choice = conversation.tool_choice
    forced = choice is not None and choice.mode in ("required", "named")
    if wish is None:
        return _off(generation) if forced else {}, []
    adapts = generation.adapts_only or (generation.adapts and wish.mode != "budget")
    if wish.mode == "off" or wish.effort == "none":
        return _off(generation), ["thinking"] if generation.always_thinks else []
    if not generation.thinks or forced or not may_think(conversation.turns, adapts=adapts):
        return _off(generation), ["thinking"]
    if adapts:
        fields: Json = {"thinking": {"type": "adaptive"}}
        effort = wish.effort or ("" if wish.mode == "adaptive" else effort_of(wish))
        if effort:
            fields["output_config"] = {"effort": _level(effort, generation)}
    else:
        budget = _budget(wish, maximum)
        if budget is None:
            return {}, ["thinking"]
        fields = {"thinking": {"type": "enabled", "budget_tokens": budget}}
    if wish.show in _SHOWN:
        fields["thinking"]["display"] = wish.show
    return fields, []


def _off(generation: Generation) -> Json:
    return {"thinking": {"type": "disabled"}} if generation.thinks_unasked else {}


def _level(effort: str, generation: Generation) -> str:
    if effort == "xhigh" and not generation.adapts_only:
        return "high"
    return _EFFORTS.get(effort, effort)


def _budget(wish: ThinkingWish, maximum: int | None) -> int | None:
    """None where there is no room for one that was only wished for."""
    budget = budget_of(wish)
    if wish.mode != "budget" and maximum is not None:
        budget = min(budget, maximum // 2)  # a wish, not a number: half is left for the answer
    if budget >= MIN_BUDGET_TOKENS and (maximum is None or budget < maximum):
        return budget
    if wish.mode == "budget":
        raise UntranslatableError("thinking.budget_tokens", "must be 1024 or more, < max_tokens")
    return None


def thinks(fields: Json) -> bool:
    """Whether a request with these fields asks for thoughts."""
    return fields.get("thinking", {}).get("type") in ("enabled", "adaptive")


def check_stops(conversation: Conversation) -> None:
    """Raises ``UntranslatableError`` for a stop sequence that Claude does not take."""
    for stop in conversation.stop:
        if not stop.strip():
            raise UntranslatableError("stop", "Claude takes no stop sequence of blanks")


def sampling_fields(
    conversation: Conversation, model: str, *, thinks: bool
) -> tuple[dict[str, float], list[str]]:
    """``temperature``, ``top_p`` and ``top_k`` as far as the model takes them, and which of those
    that would have changed anything were left out."""
    wanted = {
        "temperature": conversation.temperature,
        "top_p": conversation.top_p,
        "top_k": conversation.top_k,
    }
    values = {key: value for key, value in wanted.items() if value is not None}
    refused: list[str] = []
    generation = generation_of(model)
    if generation.takes_no_sampling:
        refused = list(values)
    elif thinks:
        allowed = {"temperature": values.get("temperature") == 1, "top_k": False}
        allowed["top_p"] = values.get("top_p", 0) >= LEAST_TOP_P
        refused = [key for key in values if not allowed[key]]
    if generation.takes_one_sampling:
        both = [key for key in ("top_p", "temperature") if key in values and key not in refused]
        if len(both) > 1:
            # The one that says nothing, or else the one that is set less often.
            refused += [next((key for key in both if values[key] == 1), both[0])]
    left_out = [key for key in refused if key == "top_k" or values[key] != 1]
    return {key: value for key, value in values.items() if key not in refused}, left_out
