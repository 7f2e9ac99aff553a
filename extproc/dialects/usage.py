"""A provider's token counts, as translated answers are settled by them."""

from __future__ import annotations

from extproc.dialects.conversation import Json
from extproc.values.dialect import Operation
from extproc.values.usage import TokenUsage
from extproc.wire.usage import MAX_PLAUSIBLE_TOKENS, usage_from_object


def reported_usage(operation: Operation, usage: object) -> TokenUsage | None:
    """The counts of an API that callers speak too; None for none, and for counts that cannot be
    believed: what was reserved is then charged."""
    reported = usage_from_object(operation, usage)
    return None if reported is None or reported.suspect else reported.usage


def token_count(usage: Json, key: str) -> int:
    """One count of an API that only providers speak; 0 where it is not there. Raises ``ValueError``
    for what is no count."""
    value = usage.get(key, 0)
    if type(value) is not int or not 0 <= value <= MAX_PLAUSIBLE_TOKENS:
        raise ValueError(key)
    return value
