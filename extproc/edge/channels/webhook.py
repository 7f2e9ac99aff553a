"""A webhook: a notice as JSON, signed as standardwebhooks.com describes it.

``webhook-id`` is the same for every try of one message, so that a receiver can drop repetitions.
The signature is ``v1,`` and the base64 HMAC-SHA256 of ``ID.TIMESTAMP.BODY``.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import time

import aiohttp
import orjson

from extproc import __version__
from extproc.core.alert_text import iso
from extproc.edge.channels.channel import (
    TIMEOUT_S,
    ChannelUnsetError,
    DeliveryError,
    Outside,
    http_error,
    network_error,
)
from extproc.policy.snapshot import Channels, WebhookChannel
from extproc.values.notice import Notice

SECRET_PREFIX = "whsec_"  # noqa: S105  the mark of one, as the standard has it


def open_named(name: str, channels: Channels, outside: Outside) -> Webhook:
    """The channel of ``webhook:NAME``."""
    if name not in channels.webhooks:
        raise ChannelUnsetError(f"webhook {name} is not configured")
    return Webhook(channels.webhooks[name], outside)


class Webhook:
    """One receiver."""

    def __init__(self, settings: WebhookChannel, outside: Outside) -> None:
        self._settings = settings
        self._outside = outside

    async def send(self, notice: Notice) -> None:
        """See ``Channel``."""
        url = self._settings.url
        if not isinstance(url, str):
            url = await self._outside.secret(url)
        body = content(notice)
        headers = {
            "content-type": "application/json",
            "user-agent": f"tokenweir/{__version__}",
            "webhook-id": message_id(notice),
            "webhook-timestamp": str(int(time.time())),
        }
        if self._settings.secret is not None:
            secret = await self._outside.secret(self._settings.secret)
            headers["webhook-signature"] = signature(
                secret, headers["webhook-id"], headers["webhook-timestamp"], body
            )
        tls = await self._outside.tls()
        try:
            async with (
                asyncio.timeout(TIMEOUT_S),
                aiohttp.ClientSession(trust_env=True) as session,
                session.post(
                    url, data=body, headers=headers, ssl=tls, allow_redirects=False
                ) as answer,
            ):
                if not 200 <= answer.status < 300:
                    lower = {name.lower(): value for name, value in answer.headers.items()}
                    raise http_error("the webhook", answer.status, lower)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise network_error("the webhook", error) from None


def content(notice: Notice) -> bytes:
    """The body: ``type``, ``timestamp``, and ``data`` with the notice's own fields."""
    return orjson.dumps(
        {
            "type": "alert.resolved" if notice.resolved else "alert.triggered",
            "timestamp": iso(notice.at_ms),
            "data": {
                "key": notice.key,
                "title": notice.title,
                "severity": notice.severity.value,
                **notice.data,
            },
        }
    )


def message_id(notice: Notice) -> str:
    """The same for every try, and on every sidecar that saw the same crossing."""
    kind = "resolved" if notice.resolved else "triggered"
    return "msg_" + hashlib.sha256(f"{kind} {notice.key}".encode()).hexdigest()[:32]


def signature(secret: str, identifier: str, timestamp: str, body: bytes) -> str:
    """Of a body. A secret that begins with ``whsec_`` is base64 after that; another is text."""
    key = secret.encode()
    if secret.startswith(SECRET_PREFIX):
        try:
            key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
        except binascii.Error:
            raise DeliveryError("the webhook's secret is no base64", retryable=True) from None
    signed = b"%b.%b.%b" % (identifier.encode(), timestamp.encode(), body)
    digest = hmac.new(key, signed, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()
