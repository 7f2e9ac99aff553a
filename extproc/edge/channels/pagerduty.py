"""PagerDuty: events of the Events API v2, closed again when their trouble is over.

The official client is synchronous, and waits and retries by itself in the thread that calls it. It
is told to try once: the queue before it waits without holding a thread.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import ssl
from typing import Any

from pagerduty import Error, EventsApiV2Client, HttpError, UrlError

from extproc.core.alert_text import iso
from extproc.edge.channels.channel import (
    ChannelUnsetError,
    DeliveryError,
    Outside,
    http_error,
    network_error,
)
from extproc.policy.snapshot import Channels, CredentialRef
from extproc.values.notice import Notice

TIMEOUT_S = 5
"""To connect, and for each read. Shorter than elsewhere: a thread waits, also when we end."""
MAX_SUMMARY_CHARACTERS = 1_024
MAX_DEDUP_CHARACTERS = 255

_quiet = logging.getLogger("extproc.edge.channels.pagerduty.sdk")
_quiet.setLevel(logging.CRITICAL)
# One line per request, at level INFO, is nobody's wish.
logging.getLogger("httpx2").setLevel(logging.WARNING)


def open_named(name: str, channels: Channels, outside: Outside) -> PagerDuty:
    """The channel of ``pagerduty:NAME``."""
    keys = channels.pagerduty.routing_keys if channels.pagerduty else {}
    if channels.pagerduty is None or name not in keys:
        raise ChannelUnsetError(f"pagerduty has no routing key {name}")
    return PagerDuty(keys[name], channels.pagerduty.api_url, outside)


class PagerDuty:
    """One service of PagerDuty."""

    def __init__(self, routing_key: CredentialRef, api_url: str, outside: Outside) -> None:
        self._routing_key = routing_key
        self._api_url = api_url
        self._outside = outside

    async def send(self, notice: Notice) -> None:
        """See ``Channel``."""
        key = await self._outside.secret(self._routing_key)
        tls = await self._outside.tls()
        async with self._outside.threads:
            await asyncio.to_thread(self._post, key, tls, notice)

    def _post(self, key: str, tls: ssl.SSLContext, notice: Notice) -> None:
        try:
            with _Once(key, base_url=self._api_url, verify=tls) as client:
                if notice.resolved:
                    client.resolve(dedup_key(notice))
                else:
                    client.trigger(**event(notice), dedup_key=dedup_key(notice))
        except HttpError as error:
            answer = error.response
            assert answer is not None
            raise http_error("PagerDuty", answer.status_code, answer.headers) from None
        except UrlError:
            raise DeliveryError("PagerDuty takes https only", retryable=False) from None
        except (Error, OSError, ValueError) as error:
            raise network_error("PagerDuty", error.__cause__ or error) from None


class _Once(EventsApiV2Client):
    """The official client without its own patience."""

    max_network_attempts = 0
    max_http_attempts = -1

    def __init__(self, routing_key: str, **settings: Any) -> None:
        super().__init__(routing_key, **settings)
        self.timeout = TIMEOUT_S
        # 429 would be repeated for ever unless it is listed; what is listed stops at the maximum.
        self.retry = {429: 1}
        self.log = _quiet


def event(notice: Notice) -> dict[str, Any]:
    """The fields of a trigger."""
    return {
        "summary": notice.title[:MAX_SUMMARY_CHARACTERS],
        "source": "tokenweir",
        "severity": notice.severity.value,
        "custom_details": {**dict(notice.facts), **notice.data},
        "payload": {
            "timestamp": iso(notice.at_ms),
            "component": str(notice.data.get("rule_id", "gateway")),
            "class": str(notice.data.get("alert", "notice")),
        },
    }


def dedup_key(notice: Notice) -> str:
    """One incident per key, however often and by however many sidecars it is told."""
    key = f"tokenweir|{notice.key}"
    if len(key) <= MAX_DEDUP_CHARACTERS:
        return key
    return "tokenweir|" + hashlib.sha256(key.encode()).hexdigest()
