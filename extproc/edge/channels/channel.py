"""What every channel has in common: how one is opened, what it needs, and how it fails.

A channel is made for one try and forgotten: a changed policy and a rotated secret count from the
next try. What a failure says is in our own words: a library's may repeat the URL or the token that
it was given.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from importlib import import_module
from pathlib import Path
from typing import Protocol

from extproc.policy.snapshot import Channels, CredentialRef
from extproc.values.notice import Notice

TIMEOUT_S = 10.0
"""For one try, all of it. Somebody who does not answer within that is asked again later."""
MAX_RETRY_AFTER_S = 3_600.0
"""A receiver may ask for patience, but not for a silence that outlasts the trouble."""
MAX_THREADS = 2
"""Of a synchronous library at once: the ledger syncs in threads of the same few."""
MAX_SECRET_BYTES = 16_384
"""More is no token, password or URL, but somebody's core file."""

_RETRYABLE = frozenset({401, 403, 408, 425, 429})
"""Beside what is above 499. 401 and 403 because secrets are rotated while messages wait."""

_KINDS = {
    kind: f"extproc.edge.channels.{kind}" for kind in ("slack", "pagerduty", "webhook", "email")
}
"""Imported when first needed: the libraries take a third of a second."""


class DeliveryError(Exception):
    """A notice was not taken. The reason holds no secret and may be shown."""

    def __init__(self, reason: str, *, retryable: bool, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retryable = retryable
        self.retry_after_s = retry_after_s
        """The least time to wait, when the receiver said so."""


class ChannelUnsetError(Exception):
    """The channel is not configured: the log is all there is."""


class Channel(Protocol):
    """Somewhere that notices go."""

    async def send(self, notice: Notice) -> None:
        """One try. Raises ``DeliveryError`` and ``ChannelUnsetError``."""
        ...


class Outside:
    """What channels need of the world: secrets, and whom to trust."""

    def __init__(self, environ: Mapping[str, str], ca_file: str) -> None:
        self._environ = environ
        self._ca_file = ca_file
        self._tls: ssl.SSLContext | None = None
        self.threads = asyncio.Semaphore(MAX_THREADS)

    async def secret(self, reference: CredentialRef) -> str:
        """The text that a reference leads to now."""
        if reference.kind == "env":
            text = self._environ.get(reference.name, "").strip()
            if not text:
                raise ChannelUnsetError(f"the variable {reference.name} is not set")
            return text
        try:
            text = await asyncio.to_thread(_read, Path(reference.name))
        except (OSError, ValueError) as error:
            reason = f"{reference.name} cannot be read: {type(error).__name__}"
            raise DeliveryError(reason, retryable=True) from None
        if not text:
            raise DeliveryError(f"{reference.name} is empty", retryable=True)
        return text

    async def tls(self) -> ssl.SSLContext:
        """Verifies servers by the same authorities that providers are verified by."""
        if self._tls is None:
            try:
                self._tls = await asyncio.to_thread(
                    ssl.create_default_context, cafile=self._ca_file or None
                )
            except OSError as error:
                reason = f"{self._ca_file} cannot be used: {type(error).__name__}"
                raise DeliveryError(reason, retryable=True) from None
        return self._tls


async def open_channel(destination: str, channels: Channels, outside: Outside) -> Channel:
    """The channel of a ``notify`` entry. Raises ``ChannelUnsetError``."""
    kind, _, name = destination.partition(":")
    if kind not in _KINDS:
        raise ChannelUnsetError(f"{kind} is no kind of channel")
    module = await asyncio.to_thread(import_module, _KINDS[kind])
    channel: Channel = module.open_named(name, channels, outside)
    return channel


def http_error(
    who: str, status: int, headers: Mapping[str, str], detail: str = ""
) -> DeliveryError:
    """What an HTTP status means. ``detail`` is shown if it looks like an error code."""
    code = f" ({detail})" if re.fullmatch(r"[a-z_]{1,40}", detail) else ""
    return DeliveryError(
        f"{who} answered {status}{code}",
        retryable=status in _RETRYABLE or status >= 500,
        retry_after_s=retry_after_s(headers.get("retry-after", "")),
    )


def network_error(who: str, error: BaseException) -> DeliveryError:
    """No answer. The error is named, not quoted."""
    return DeliveryError(f"{who} cannot be reached: {type(error).__name__}", retryable=True)


def retry_after_s(text: str) -> float | None:
    """``Retry-After`` in seconds or as a date, bounded; None for anything else."""
    if re.fullmatch(r"[0-9]{1,9}", text):
        return min(float(text), MAX_RETRY_AFTER_S)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        return None
    seconds = (moment - moment.now(moment.tzinfo)).total_seconds()
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_S)


def _read(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(MAX_SECRET_BYTES + 1)
    if len(content) > MAX_SECRET_BYTES:
        raise ValueError("too long for a secret")
    return content.decode().strip()
