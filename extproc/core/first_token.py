"""When a stream says its first token, so that one that does not can be given up in time.

Providers send response headers, and some events, before their model has said anything. While
nothing is passed on, another target may still answer.
"""

from __future__ import annotations

import orjson

from extproc.dialects.codec import StreamError
from extproc.dialects.reading_streams import MISSHAPEN
from extproc.dialects.sse import SseReader
from extproc.values.dialect import Operation

MAX_HELD_BYTES = 1024 * 1024
"""Whatever a provider sends this much of is an answer."""

_EARLY = {
    Operation.MESSAGES: frozenset(("message_start", "ping")),
    Operation.RESPONSES: frozenset(
        ("response.created", "response.queued", "response.in_progress", "keepalive")
    ),
}
"""Events that say no more than that the request has arrived."""


class FirstToken:
    """Looks for the first token in a stream of the caller's own dialect."""

    __slots__ = ("_operation", "_reader", "_size")

    def __init__(self, operation: Operation) -> None:
        self._operation = operation
        self._reader = SseReader()
        self._size = 0

    def is_in(self, data: bytes) -> bool:
        """Takes the next bytes; True when they have the first token in them, or anything that is
        not known to come before it."""
        self._size += len(data)
        if self._size > MAX_HELD_BYTES:
            return True
        try:
            return any(self._says_something(event.data) for event in self._reader.feed(data))
        except (StreamError, *MISSHAPEN):
            return True

    def _says_something(self, data: bytes) -> bool:
        event = orjson.loads(data)
        early = _EARLY.get(self._operation)
        if early is not None:
            return event.get("type") not in early if isinstance(event, dict) else True
        if not isinstance(event, dict) or "choices" not in event or "error" in event:
            return True
        choices = event["choices"]
        return not isinstance(choices, list) or any(map(_is_said, choices))


def _is_said(choice: object) -> bool:
    """Whether a choice of a chunk has more than a role in it."""
    if not isinstance(choice, dict):
        return True
    delta = choice.get("delta") or {}
    said = {key: value for key, value in delta.items() if key != "role" and value}
    return bool(said or choice.get("text") or choice.get("finish_reason"))
