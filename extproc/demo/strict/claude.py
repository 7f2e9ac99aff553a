"""The rules of Claude's thinking, the same on Anthropic and on Bedrock."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from extproc.demo.answer import BadRequestError

MIN_BUDGET_TOKENS = 1_024
LEAST_TOP_P = 0.95
"""While it thinks."""

_ONE_OF_BOTH = re.compile(r"(?:.*[./])?claude-(?:opus-4-[1-9]|(?:sonnet|haiku|opus)-4-[5-9])(?!\d)")
"""Models that take temperature or top_p, not both."""
_NO_SAMPLING = re.compile(r"(?:.*[./])?claude-(?:opus-4-[7-9](?!\d)|[a-z]+-[5-9](?!\d)|mythos)")
"""Models that take neither, and think without a budget."""
_NO_ADAPTING = re.compile(r"(?:.*[./])?claude-(?:3|[a-z]+-4(?:-[0-5](?!\d)|-\d{8}|$))")
"""Models that think with a budget only."""
_ALWAYS_THINK = re.compile(r"(?:.*[./])?claude-(?:fable|mythos)")


class Sampling(NamedTuple):
    """What a request says beside thinking."""

    max_tokens: int | None
    temperature: Any = None
    top_p: Any = None
    top_k: Any = None
    forces_tools: bool = False


def check_sampling(model: str, sampling: Sampling) -> None:
    """Raises BadRequestError for both kinds of sampling at once."""
    both = sampling.temperature is not None and sampling.top_p is not None
    if both and _ONE_OF_BOTH.match(model):
        raise BadRequestError(
            "`temperature` and `top_p` cannot both be specified for this model. Please use only "
            "one."
        )


def check_model(model: str, thinking: Any, sampling: Sampling) -> None:
    """Raises BadRequestError for thinking and sampling of another generation."""
    kind = (thinking or {}).get("type")
    if kind == "adaptive" and _NO_ADAPTING.match(model):
        raise BadRequestError("adaptive thinking is not supported on this model")
    if kind == "disabled" and _ALWAYS_THINK.match(model):
        raise BadRequestError('"thinking.type.disabled" is not supported for this model.')
    if not _NO_SAMPLING.match(model):
        return
    if kind == "enabled":
        raise BadRequestError(
            '"thinking.type.enabled" is not supported for this model. Use "thinking.type.adaptive" '
            'and "output_config.effort" to control thinking behavior.'
        )
    for name in ("temperature", "top_p", "top_k"):
        if getattr(sampling, name) not in (None, 1):
            raise BadRequestError(f"`{name}` is deprecated for this model.")


def check_thinking(thinking: Any, sampling: Sampling) -> None:
    """Raises BadRequestError for what does not go with thinking."""
    kind = (thinking or {}).get("type")
    if kind not in ("enabled", "adaptive"):
        return
    if kind == "enabled":
        budget = thinking["budget_tokens"]
        if budget < MIN_BUDGET_TOKENS:
            raise BadRequestError(
                "thinking.enabled.budget_tokens: Input should be greater than or equal to "
                f"{MIN_BUDGET_TOKENS}"
            )
        if sampling.max_tokens is not None and budget >= sampling.max_tokens:
            raise BadRequestError(
                "`max_tokens` must be greater than `thinking.budget_tokens`. Please consult our "
                "documentation at https://docs.claude.com/en/docs/build-with-claude/"
                "extended-thinking#max-tokens-and-context-window-size"
            )
    if sampling.temperature not in (None, 1):
        raise BadRequestError("`temperature` may only be set to 1 when thinking is enabled.")
    if sampling.top_k is not None:
        raise BadRequestError("`top_k` must be unset when thinking is enabled.")
    if sampling.top_p is not None and sampling.top_p < LEAST_TOP_P:
        raise BadRequestError(
            "`top_p` must be greater than or equal to 0.95 or unset when thinking is enabled."
        )
    if sampling.forces_tools:
        raise BadRequestError("Thinking may not be enabled when tool_choice forces tool use.")


def check_first_block(thinking: Any, place: int, kind: str) -> None:
    """Raises BadRequestError where an unfinished tool loop (its last assistant message is
    ``place``, and begins with a block of ``kind``) does not begin with the thought behind it."""
    if (thinking or {}).get("type") == "enabled" and kind not in ("thinking", "redacted_thinking"):
        raise BadRequestError(
            f"messages.{place}.content.0.type: Expected `thinking` or `redacted_thinking`, but "
            f"found `{kind}`. When `thinking` is enabled, a final `assistant` message must start "
            "with a thinking block (preceeding the lastmost set of `tool_use` and `tool_result` "
            "blocks). To avoid this requirement, disable `thinking`."
        )
