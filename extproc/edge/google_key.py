"""A Google service account's key file, and the assertion that it signs (RFC 7523).

Nothing that is raised here repeats anything of a file: it may be any other secret.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import orjson

MAX_KEY_FILE_BYTES = 64 * 1024
"""Real ones have two kilobytes."""
ASSERTION_S = 3_600
"""How long an assertion is good for, at most; Google gives tokens of an hour."""
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
TOKEN_URI = "https://oauth2.googleapis.com/token"  # noqa: S105  where keys are exchanged
"""Where keys that do not say where are exchanged."""


class GoogleKeyError(Exception):
    """The key file cannot be used. Says why, and nothing of what is in it."""


class GoogleKey(NamedTuple):
    """A service account's key."""

    email: str
    token_uri: str
    signer: Any
    """``google.auth.crypt.RSASigner``."""

    def assertion(self, now_s: float) -> bytes:
        """A JWT that asks for a token, signed (RS256)."""
        from google.auth import jwt

        issued = int(now_s)
        claims = {
            "iss": self.email,
            "scope": SCOPE,
            "aud": self.token_uri,
            "iat": issued,
            "exp": issued + ASSERTION_S,
        }
        encoded: bytes = jwt.encode(self.signer, claims)  # type: ignore[no-untyped-call]
        return encoded


def read_google_key(path: Path) -> GoogleKey:
    """The key in a file. Raises ``GoogleKeyError``."""
    # Most gateways have no such key: the library and its cryptography take a while to load.
    from google.auth.crypt import RSASigner

    document = _document(path)
    if document.get("type") != "service_account":
        raise GoogleKeyError("is no key of a service account ('type' says so)")
    email, uri = document.get("client_email"), document.get("token_uri", TOKEN_URI)
    if not isinstance(email, str) or not isinstance(uri, str):
        raise GoogleKeyError("has no 'client_email', or no proper 'token_uri'")
    if not _is_private(uri):
        raise GoogleKeyError("has a 'token_uri' that is not https")
    try:
        signer = RSASigner.from_service_account_info(document)  # type: ignore[no-untyped-call]
    except Exception:  # noqa: BLE001  libraries differ in it, and may repeat what they read
        raise GoogleKeyError("has no usable 'private_key'") from None
    return GoogleKey(email, uri, signer)


def _document(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_KEY_FILE_BYTES + 1)
    except OSError as error:
        raise GoogleKeyError(f"cannot be read ({error.strerror})") from None
    if len(data) > MAX_KEY_FILE_BYTES:
        raise GoogleKeyError("is too long for a key")
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise GoogleKeyError("is not JSON") from None
    if not isinstance(document, dict):
        raise GoogleKeyError("is no JSON object")
    return document


def _is_private(uri: str) -> bool:
    """Whether nobody on the way can read what is sent there."""
    try:
        parts = urlsplit(uri)
        host = parts.hostname or ""
        if parts.scheme == "https":
            return bool(host)
        return parts.scheme == "http" and (
            host == "localhost" or ipaddress.ip_address(host).is_loopback
        )
    except ValueError:
        return False
