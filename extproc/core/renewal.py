"""When a token is asked for again: before it expires, and after failures with growing pauses."""

from __future__ import annotations

EARLY_S = 300.0
"""A token of an hour is renewed five minutes before its end: time for a dozen tries."""
EARLY_SHARE = 3
"""A shorter one is renewed when a third of its life is left."""
FIRST_PAUSE_S = 1.0
MAX_PAUSE_S = 60.0


class Renewal:
    """The life of one token. Time and draws (uniform in [0, 1)) are passed in."""

    __slots__ = ("expires_at_s", "failures", "next_try_s")

    def __init__(self) -> None:
        self.expires_at_s = 0.0
        """0: there is no token."""
        self.failures = 0
        """In a row."""
        self.next_try_s = 0.0

    def is_due(self, now_s: float) -> bool:
        """Whether a token is to be asked for now."""
        return now_s >= self.next_try_s

    def hurry(self) -> None:
        """The key is another one: whatever was waited for, it is tried now."""
        self.next_try_s = 0.0

    def succeeded(self, asked_at_s: float, lifetime_s: int) -> None:
        """A token came. Its life is counted from before it was asked for."""
        self.failures = 0
        self.expires_at_s = asked_at_s + lifetime_s
        self.next_try_s = self.expires_at_s - min(EARLY_S, lifetime_s / EARLY_SHARE)

    def failed(self, now_s: float, draw: float) -> None:
        """None came; the one that there is stays until it expires."""
        pause_s = min(MAX_PAUSE_S, FIRST_PAUSE_S * 2.0**self.failures)
        self.failures = min(self.failures + 1, 1_000)
        self.next_try_s = now_s + pause_s * (0.5 + draw / 2)

    def expires(self, now_s: float) -> bool:
        """Whether the token has come to its end, told once."""
        if not self.expires_at_s or now_s < self.expires_at_s:
            return False
        self.expires_at_s = 0.0
        return True
