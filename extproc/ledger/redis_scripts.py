"""The server-side scripts, each known by the digest of its text: a new text is a new script."""

from __future__ import annotations

from hashlib import sha1
from importlib import resources

_FILES = resources.files("extproc.ledger") / "scripts"
_PARTS = {
    "batch": ("counters", "batch"),
    "join": ("counters", "members", "join"),
    "push": ("counters", "members", "push"),
    "leave": ("leave",),
    "look": ("look",),
    "acknowledge": ("counters", "members", "acknowledge"),
}


class Scripts:
    """Sources and digests. ``clock`` is the Lua function that tells the time: tests give another;
    every other caller leaves it out and gets Redis' ``TIME``."""

    def __init__(self, clock: str = "") -> None:
        clock = clock or text("clock")
        self.sources = {
            name: "\n".join([clock, *map(text, parts)]).encode() for name, parts in _PARTS.items()
        }
        self.digests = {
            name: sha1(source, usedforsecurity=False).hexdigest().encode()
            for name, source in self.sources.items()
        }


def text(name: str) -> str:
    """One file of the folder ``scripts``."""
    return (_FILES / f"{name}.lua").read_text(encoding="utf-8")
