"""How many sessions a credential opens, so that rotating session ids is no way around a limit."""

from __future__ import annotations

MS_PER_DAY = 86_400_000
MAX_KNOWN_SESSIONS = 200_000
"""Remembered sessions over all credentials; some 40 MB at worst. When it is full the oldest are
forgotten, and a forgotten session that returns counts as new: stricter, never looser."""


class Sessions:
    """Counts distinct sessions per credential and day."""

    __slots__ = ("_day", "_known", "_opened")

    def __init__(self) -> None:
        self._day = 0
        self._known: dict[tuple[str, str], None] = {}
        self._opened: dict[str, int] = {}

    def admit(self, credential_id: str, session: str, max_sessions: int, now_ms: int) -> bool:
        """Whether the credential may use this session: a known one always, a new one up to
        ``max_sessions`` per day (UTC)."""
        day = now_ms // MS_PER_DAY
        if day > self._day:
            self._day = day
            self._opened.clear()
            self._known.clear()
        key = (credential_id, session)
        if key in self._known:
            return True
        opened = self._opened.get(credential_id, 0)
        if opened >= max_sessions:
            return False
        self._opened[credential_id] = opened + 1
        self._known[key] = None
        if len(self._known) > MAX_KNOWN_SESSIONS:
            del self._known[next(iter(self._known))]
        return True
