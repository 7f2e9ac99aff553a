"""Where the store of counters is: ``embedded``, or the address of a Redis or Valkey."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

EMBEDDED = "embedded"
DEFAULT_PORT = 6379
DEFAULT_NAMESPACE = "tokenweir"
NAMESPACE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
"""What the keys of one policy begin with; it cannot break out of the hash tag of a cluster."""


@dataclass(frozen=True, slots=True)
class StoreAddress:
    """Where a store is and who we are there."""

    host: str
    port: int
    db: int = 0
    username: str = ""
    password: str = ""
    tls: bool = False

    def __str__(self) -> str:
        scheme = "rediss" if self.tls else "redis"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}/{self.db}"


def parse_address(url: str) -> StoreAddress:
    """``redis[s]://[user:password@]host[:port][/db]``. Raises ``ValueError`` with what is wrong;
    the message does not show the password."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("the store's address has no valid port or host") from None
    if parts.scheme not in ("redis", "rediss") or not parts.hostname:
        raise ValueError("a store is 'embedded' or redis://HOST:PORT/DB (rediss:// for TLS)")
    db = parts.path.strip("/") or "0"
    if not (db.isascii() and db.isdigit()) or parts.query or parts.fragment:
        raise ValueError("a store's address ends with /DB, the number of a database")
    return StoreAddress(
        parts.hostname,
        DEFAULT_PORT if port is None else port,
        int(db),
        unquote(parts.username or ""),
        unquote(parts.password or ""),
        parts.scheme == "rediss",
    )


def parse_public_address(url: str) -> StoreAddress:
    """The same for an address that others may read (a policy, a command line): without a password.
    Raises ``ValueError``."""
    address = parse_address(url)
    if address.username or address.password:
        raise ValueError(
            "no user or password here: set TOKENWEIR_STORE_USERNAME and TOKENWEIR_STORE_PASSWORD"
        )
    return address
