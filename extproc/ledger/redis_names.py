"""Names in a shared store: keys that nothing a caller sends can steer, and what a window is called.

Every key of one policy begins with the same hash tag, so all of them are in one slot of a cluster.
"""

from __future__ import annotations

import re
from hashlib import sha256
from urllib.parse import quote

from extproc.values.store_address import NAMESPACE
from extproc.values.window import CalendarWindow, SlidingWindow

_PLAIN = re.compile(r"[A-Za-z0-9_./:@-]{1,128}")
_MAX_VALUE = 200
"""Characters of a quoted value in a key; a longer one is told apart by its digest."""


class Names:
    """The keys of one namespace."""

    def __init__(self, namespace: str) -> None:
        """Raises ``ValueError`` for a namespace that could break out of the hash tag."""
        if not NAMESPACE.fullmatch(namespace):
            raise ValueError(f"{namespace!r} is not up to 64 of A-Z a-z 0-9 _ . -")
        self.tag = f"{{{namespace}}}"
        self.meta = f"{self.tag}:meta".encode()
        self.members = f"{self.tag}:members".encode()
        self.joined = f"{self.tag}:joined".encode()
        self.pushed = f"{self.tag}:pushed".encode()
        self.kills = f"{self.tag}:kills".encode()
        self.kills_mark = f"{self.tag}:kills:mark".encode()
        self.breakers_mark = f"{self.tag}:breakers:mark".encode()

    def breaker(self, target: str) -> bytes:
        """The last word about a target's failures."""
        return f"{self.tag}:breakers:b:{quoted(target)}".encode()

    def rest(self, target: str) -> bytes:
        """Until when a target asked to be left alone."""
        return f"{self.tag}:breakers:r:{quoted(target)}".encode()

    def probe(self, target: str) -> bytes:
        """Who may probe a target whose breaker is open."""
        return f"{self.tag}:breakers:p:{quoted(target)}".encode()

    def leases(self, epoch: str) -> bytes:
        """The open reservations of an epoch by the end of their lease."""
        return f"{self.tag}:{epoch}:leases".encode()

    def counter(self, epoch: str, limit_key: str, scope_value: str) -> bytes:
        """Length-safe: no two pairs of a limit and a value share a key."""
        name = f"{self.tag}:{epoch}:c:{len(limit_key)}:{quoted(limit_key)}:{quoted(scope_value)}"
        return name.encode()

    def record(self, epoch: str, reservation_id: str) -> bytes:
        """What the store knows of one reservation."""
        return f"{self.tag}:{epoch}:r:{quoted(reservation_id)}".encode()


def quoted(value: str) -> str:
    """A value as part of a key: printable, without blanks, of bounded length."""
    if not value or _PLAIN.fullmatch(value):
        return value
    text = quote(value, safe="/:@", errors="surrogatepass")
    if len(text) <= _MAX_VALUE:
        return text
    # A percent sign that no quoting makes: this cannot be another value's name.
    return "%sha256:" + sha256(value.encode("utf-8", "surrogatepass")).hexdigest()


def window_name(window: SlidingWindow | CalendarWindow) -> str:
    """What tells windows apart in the store: one word."""
    if isinstance(window, SlidingWindow):
        return f"s{window.length_ms}"
    return f"c{window.period}@{quote(window.zone, safe='/')}"
