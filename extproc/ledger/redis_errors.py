"""What a shared store's errors mean. None of them ever admits a request."""

from __future__ import annotations

import re
from enum import Enum

from extproc.ledger.port import LedgerUnavailableError


class Remedy(Enum):
    """What may help."""

    RELOAD = "reload"
    """The scripts are sent once more; nothing was run."""
    SINGLY = "singly"
    """One operation of the batch is at fault: each is asked alone, so that it fails alone."""
    RECONNECT = "reconnect"
    """The server cannot decide now: it is left, and asked again after a pause."""


_WORDS = {
    "NOSCRIPT": ("noscript", Remedy.RELOAD),
    "WRONGTYPE": ("wrong_type", Remedy.SINGLY),
    "READONLY": ("readonly", Remedy.RECONNECT),
    "MASTERDOWN": ("readonly", Remedy.RECONNECT),
    "LOADING": ("loading", Remedy.RECONNECT),
    "MISCONF": ("disk", Remedy.RECONNECT),
    "OOM": ("memory", Remedy.RECONNECT),
    "BUSY": ("busy_script", Remedy.RECONNECT),
    "NOREPLICAS": ("replicas", Remedy.RECONNECT),
    "NOPERM": ("denied", Remedy.RECONNECT),
    "NOAUTH": ("denied", Remedy.RECONNECT),
    "WRONGPASS": ("denied", Remedy.RECONNECT),
    "MOVED": ("cluster", Remedy.RECONNECT),
    "ASK": ("cluster", Remedy.RECONNECT),
    "TRYAGAIN": ("cluster", Remedy.RECONNECT),
    "CLUSTERDOWN": ("cluster", Remedy.RECONNECT),
    "CROSSSLOT": ("cluster", Remedy.RECONNECT),
}
_WORD = re.compile(rf"(?<![A-Za-z])({'|'.join(_WORDS)})(?![A-Za-z])")
"""Up to Redis 6.2 a script's error comes wrapped in another: the word may be anywhere."""
_MAX_CLIENTS = "max number of clients"


def meaning(message: str) -> tuple[str, Remedy]:
    """The stable reason of an error reply, and what may help."""
    if _MAX_CLIENTS in message:
        return "max_clients", Remedy.RECONNECT
    found = _WORD.search(message)
    return _WORDS[found[1]] if found else ("refused", Remedy.SINGLY)


def moved_to(message: str) -> tuple[str, int] | None:
    """Where a cluster says that the policy's slot is: host and port."""
    words = message.split()
    if len(words) == 3 and words[0] == "MOVED":
        host, _, port = words[2].rpartition(":")
        if host and port.isdigit():
            return host.strip("[]"), int(port)
    return None


def unavailable(reason: str, detail: str = "") -> LedgerUnavailableError:
    """The error of the port."""
    text = f"the store is not available: {reason}"
    return LedgerUnavailableError(f"{text} ({detail})" if detail else text, reason)
