"""Errors of providers: what is the same whatever shape they come in."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

import orjson

from extproc.dialects.answer import ProviderError

MAX_MESSAGE_CHARACTERS = 4_000
"""Of a provider's error that is passed on; an HTML page is cut here."""
_KIND_BY_STATUS = {
    401: "authentication",
    403: "permission",
    404: "not_found",
    408: "timeout",
    413: "too_large",
    429: "rate_limit",
    503: "overloaded",
    504: "timeout",
    529: "overloaded",
}
_KEY = re.compile(
    r"\b(?:(?:[Bb]earer|[Bb]asic)\s+(?=\S*\d)"
    r"|(?=sk-|gsk_|xai-|AIza|ya29\.|AKIA|ASIA|ABSK|IQoJb3Jp|FwoGZXIv|eyJ))"
    r"[\w.+/=~*-]{8,}"
)
"""Credentials as providers' are known to look, and what stands where a header has one."""


def without_keys(error: ProviderError) -> ProviderError:
    """The same error without the credentials that a provider repeats in its message: they are not
    the caller's. What looks like none of those known stays."""
    message = _KEY.sub("[credential]", error.message)
    return error if message == error.message else error._replace(message=message)


def kind_of_status(status: int) -> str:
    """What an HTTP status means where the body does not say more."""
    return _KIND_BY_STATUS.get(status, "api" if status >= 500 else "invalid_request")


def error_in(body: bytes) -> Any:
    """What a JSON object has as its ``error``; None for anything else."""
    with suppress(orjson.JSONDecodeError, AttributeError):
        return orjson.loads(body).get("error")
    return None


def in_plain_words(status: int, kind: str, error: object, body: bytes) -> ProviderError:
    """An error that is no object: its text, the whole body as it came, or that there was none."""
    text = error if isinstance(error, str) else body.decode("utf-8", "replace")
    text = text if text.strip() else f"The provider answered with status {status} and no message."
    return ProviderError(status, kind, text[:MAX_MESSAGE_CHARACTERS])
