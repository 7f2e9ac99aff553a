"""Finds agents that go round in circles: the same calls of tools, with the same arguments.

A call is refused when what came before it is the same block of calls as often as the rule allows,
and it would begin the block once more: A A A A A, or A B A B A B, or three in turn. Anything new
ends the circle, so an agent that reads a file, changes it and reads it again is never in one.
Refused calls are not remembered: whoever is refused and asks the same is refused again, until the
window has passed.
"""

from __future__ import annotations

from typing import NamedTuple

from extproc.policy.mcp_server import LoopGuardRule

MAX_PERIOD = 3
"""Calls in one turn of a circle. Longer circles look like work, and session limits end them."""
MAX_SESSIONS_PER_CREDENTIAL = 2_000
"""Sessions remembered of one credential at each server, the least recently active forgotten first:
one that opens sessions without end forgets its own, not those of others."""
MAX_SESSIONS = 20_000
"""Of all credentials. At 15 calls of some 120 bytes each, 36 MB at worst."""

SessionKey = tuple[str, str, str]
"""Server, credential and session (with its user)."""


class Loop(NamedTuple):
    """A circle that was found."""

    period: int
    """Calls in one turn."""
    repeats: int
    since_ms: int
    ends_at_ms: int
    """When the oldest call of it has left the window."""


class LoopGuard:
    """What each session called last."""

    __slots__ = ("_by_credential", "_count")

    def __init__(self) -> None:
        self._by_credential: dict[tuple[str, str], dict[str, list[tuple[int, bytes]]]] = {}
        """By server and credential, then by session: times and digests of calls, oldest first."""
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def look(self, key: SessionKey, rule: LoopGuardRule, digest: bytes, now_ms: int) -> Loop | None:
        """The circle that this call would go on with; None lets it pass, and remembers it."""
        calls = self._calls(key)
        begin = now_ms - rule.window_ms
        fresh = 0
        while fresh < len(calls) and calls[fresh][0] <= begin:
            fresh += 1
        del calls[:fresh]
        for period in range(1, MAX_PERIOD + 1):
            length = period * rule.repeats
            if len(calls) >= length and _turns(calls[-length:], period, digest):
                since_ms = calls[-length][0]
                return Loop(period, rule.repeats, since_ms, since_ms + rule.window_ms)
        calls.append((now_ms, digest))
        del calls[: -MAX_PERIOD * rule.repeats]
        return None

    def take_back(self, key: SessionKey, digest: bytes) -> None:
        """A call that was let pass is not made after all: something else has refused it."""
        calls = self._by_credential.get(key[:2], {}).get(key[2])
        if calls and calls[-1][1] == digest:
            calls.pop()

    def _calls(self, key: SessionKey) -> list[tuple[int, bytes]]:
        """Those of a session, which is now the most recently active one."""
        sessions = self._by_credential.pop(key[:2], None)
        if sessions is None:
            sessions = {}
        self._by_credential[key[:2]] = sessions
        calls = sessions.pop(key[2], None)
        if calls is None:
            calls = []
            self._count += 1
        sessions[key[2]] = calls
        if len(sessions) > MAX_SESSIONS_PER_CREDENTIAL:
            del sessions[next(iter(sessions))]
            self._count -= 1
        if self._count > MAX_SESSIONS:
            self._forget_oldest()
        return calls

    def _forget_oldest(self) -> None:
        """Of the credential that has been silent for the longest."""
        credential, sessions = next(iter(self._by_credential.items()))
        del sessions[next(iter(sessions))]
        self._count -= 1
        if not sessions:
            del self._by_credential[credential]


def _turns(calls: list[tuple[int, bytes]], period: int, digest: bytes) -> bool:
    """Whether the calls are one block again and again, and the digest begins it once more."""
    if calls[0][1] != digest:
        return False
    return all(calls[place][1] == calls[place - period][1] for place in range(period, len(calls)))
