"""What OpenAI's models take in either of its APIs, by their generation."""

from __future__ import annotations

import re
from typing import NamedTuple

from extproc.dialects.closed_schema import is_exact
from extproc.dialects.conversation import Conversation, Json, ThinkingWish, UntranslatableError
from extproc.dialects.thinking import effort_of

MAX_NAME_CHARACTERS = 64
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_THINKS = re.compile(r"(?:.*[/.])?(?:o[1-9]|gpt-([5-9])(?:\.(\d+))?)(?!\d)(.*)", re.IGNORECASE)
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh")
"""From the least to the most."""
_SAMPLING = ("temperature", "top_p", "presence_penalty", "frequency_penalty")
_PENALTIES = _SAMPLING[2:]
_PLAIN = {"temperature": 1, "top_p": 1, "presence_penalty": 0, "frequency_penalty": 0}


class Generation(NamedTuple):
    """Of a model that thinks."""

    version: tuple[int, int]
    """(0, 0) for the o-series."""
    variant: str
    """What its name ends with: ``-mini``, ``-codex-max``, ``-chat-latest``."""

    @property
    def efforts(self) -> tuple[str, ...]:
        """Those that it takes; none for one that only chats."""
        if "-chat" in self.variant:
            return ()
        if "-pro" in self.variant:
            return ("high",) if self.version < (5, 2) else ("medium", "high", "xhigh")
        codex = "-codex" in self.variant
        efforts = ["low", "medium", "high"]
        if self.version == (5, 0) and not codex:
            efforts.insert(0, "minimal")
        if self.version >= (5, 1) and not codex:
            efforts.insert(0, "none")
        if self.version >= (5, 2) or "-codex-max" in self.variant:
            efforts.append("xhigh")
        return tuple(efforts)

    @property
    def calls_without_thinking(self) -> bool:
        """In chat completions it takes tools only where it does not think."""
        return self.version >= (5, 2)

    @property
    def thinks_unasked(self) -> bool:
        """Thinks unless the effort is ``none``."""
        return not (5, 1) <= self.version < (5, 6)


def generation_of(model: str) -> Generation | None:
    """By a model's name, as any provider writes it; None for one that does not think."""
    found = _THINKS.match(model)
    if found is None:
        return None
    return Generation((int(found[1] or 0), int(found[2] or 0)), found[3].lower())


def effort_at(
    generation: Generation, wish: ThinkingWish | None, *, chat_tools: bool
) -> tuple[str, list[str]]:
    """The effort that a model is asked for, empty for its own, and what was left out.
    ``chat_tools``: tools are offered in chat completions."""
    efforts = generation.efforts
    wanted = "" if wish is None else effort_of(wish)
    if chat_tools and generation.calls_without_thinking and "none" in efforts:
        least = "none" if generation.thinks_unasked else ""
        return least, ["thinking"] if wanted not in ("", "none") else []
    if not wanted or not efforts:
        return "", ["thinking"] if wanted not in ("", "none") else []
    effort = _nearest(wanted, efforts)
    return effort, ["thinking"] if wanted == "none" != effort else []


def _nearest(wanted: str, efforts: tuple[str, ...]) -> str:
    if wanted in efforts:
        return wanted
    rank = _EFFORTS.index(wanted) if wanted in _EFFORTS else len(_EFFORTS)
    some = [effort for effort in efforts if effort != "none"]
    return next((effort for effort in some if _EFFORTS.index(effort) >= rank), some[-1])


def sampling_at(
    conversation: Conversation, generation: Generation | None, effort: str
) -> tuple[dict[str, float], list[str]]:
    """The sampling parameters as far as the model takes them, and which of those that would have
    changed anything were left out. Raises ``UntranslatableError`` for what it would have to do and
    cannot."""
    values = {key: getattr(conversation, key) for key in _SAMPLING}
    values = {key: value for key, value in values.items() if value is not None}
    if generation is None:
        return values, []
    if generation.version < (5, 1):
        for key in ("logprobs", "logit_bias", "stop"):
            if getattr(conversation, key):
                name = "stop_sequences" if key == "stop" else key
                raise UntranslatableError(name, "a model that always thinks does not take it")
    thinks = effort != "none" and (bool(effort) or generation.thinks_unasked)
    refused = _SAMPLING if thinks else _PENALTIES
    left_out = [key for key in refused if key in values and values[key] != _PLAIN[key]]
    return {key: value for key, value in values.items() if key not in refused}, left_out


def strict_at(strict: bool, schema: Json, param: str) -> tuple[bool, list[str]]:
    """Whether a model can be held to the schema, and what was left out: where it cannot it still
    follows it as well as it can."""
    if strict and not is_exact(schema):
        return False, [f"{param}.strict"]
    return strict, []


def check_tool_name(name: str) -> str:
    """The name of a tool. Raises ``UntranslatableError`` for one that OpenAI does not take."""
    if not _NAME.fullmatch(name):
        raise UntranslatableError(
            "tools", f"a name has at most {MAX_NAME_CHARACTERS} letters, digits, _ and - here"
        )
    return name
