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


class StreamedUsage:
    """What a stream reports as it goes on: totals so far, which only grow. One that shrinks cannot
    be true, and neither can be what it shrank to."""

    __slots__ = ("_shrunk", "latest")

    def __init__(self) -> None:
        self._shrunk = False
        self.latest: TokenUsage | None = None
        """None before the first report, and from then on that one cannot be believed."""

    def take(self, usage: TokenUsage | None) -> None:
        """The next report; None for one that cannot be read."""
        before = self.latest
        if before is not None and usage is not None:
            fewer = usage.output_tokens < before.output_tokens
            self._shrunk |= fewer or usage.input_tokens < before.input_tokens
        self.latest = None if self._shrunk else usage


def token_count(usage: Json, key: str, *, required: bool = False) -> int:
    """One count of an API that only providers speak; 0 where it is not there and need not be.
    Raises ``ValueError`` for what is no count."""
    value = usage.get(key, None if required else 0)
    if type(value) is not int or not 0 <= value <= MAX_PLAUSIBLE_TOKENS:
        raise ValueError(key)
    return value
