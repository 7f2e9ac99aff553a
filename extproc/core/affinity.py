"""Where a session's requests went before: what ``sticky`` keeps to, and which caches are warm."""

from __future__ import annotations

from typing import NamedTuple

from extproc.values.usage import TokenUsage

MAX_REMEMBERED = 50_000
"""Sessions that stick, and as many caches, some 300 bytes each; the one that was not used longest
is forgotten, and its session is chosen for anew."""
WARM_MS = 300_000
"""Providers keep a prompt cache for five minutes after its last use."""
WARM_1H_MS = 3_600_000
"""Or for an hour, where that was paid for."""

Key = tuple[str, ...]
"""Credential, user and session (so that nobody meets another's), and what else tells it apart."""


class Stuck(NamedTuple):
    """The target that a session or a user keeps to."""

    target: str
    until_ms: int


class Warm(NamedTuple):
    """A prompt cache that a session has at a target."""

    tokens: int
    """Of the prompt's beginning."""
    lasts_ms: int
    """After its last use."""
    until_ms: int


class Affinity:
    """What is remembered of sessions. Bounded; a restart forgets."""

    __slots__ = ("_stuck", "_warm")

    def __init__(self) -> None:
        self._stuck: dict[Key, Stuck] = {}
        self._warm: dict[Key, Warm] = {}

    def stuck(self, key: Key, now_ms: int) -> str:
        """The name of the target to keep to; empty where there is none."""
        found = self._stuck.get(key)
        return found.target if found is not None and now_ms < found.until_ms else ""

    def stick(self, key: Key, target: str, until_ms: int) -> None:
        """From now on the session keeps to the target."""
        self._stuck.pop(key, None)
        self._stuck[key] = Stuck(target, until_ms)
        if len(self._stuck) > MAX_REMEMBERED:
            del self._stuck[next(iter(self._stuck))]

    def warm_tokens(self, session: Key, target: str, now_ms: int) -> int:
        """How much of the session's prompt the target still has in its cache."""
        found = self._warm.get((*session, target))
        return found.tokens if found is not None and now_ms < found.until_ms else 0

    def warmed(self, session: Key, target: str, usage: TokenUsage, now_ms: int) -> None:
        """Takes what a call of the session read from the target's cache and wrote to it."""
        key = (*session, target)
        before = self._warm.pop(key, None)
        tokens = usage.cached_input_tokens + usage.cache_write_tokens
        if not tokens:
            return
        lasts_ms = WARM_MS
        if usage.cache_write_1h_tokens:
            lasts_ms = WARM_1H_MS
        elif before is not None and not usage.cache_write_tokens:
            lasts_ms = before.lasts_ms
        self._warm[key] = Warm(tokens, lasts_ms, now_ms + lasts_ms)
        if len(self._warm) > MAX_REMEMBERED:
            del self._warm[next(iter(self._warm))]
