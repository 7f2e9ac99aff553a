"""Slack: Block Kit messages through an incoming webhook or a bot token.

An incoming webhook posts into the channel that it was made for, whatever ``notify`` says; only a
bot posts into the channel that is named.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from aiohttp import ClientError
from slack_sdk.errors import SlackApiError, SlackClientError
from slack_sdk.web.async_client import AsyncWebClient
from slack_sdk.webhook.async_client import AsyncWebhookClient

from extproc.edge.channels.channel import (
    TIMEOUT_S,
    ChannelUnsetError,
    DeliveryError,
    Outside,
    http_error,
    network_error,
)
from extproc.policy.snapshot import Channels, SlackChannel
from extproc.values.notice import Notice, Severity

MAX_HEADER_CHARACTERS = 150
MAX_FIELDS = 10
MAX_FIELD_CHARACTERS = 2_000
"""Slack refuses a whole message for one header, section or field above these."""

_EMOJI = {
    Severity.INFO: ":information_source:",
    Severity.WARNING: ":warning:",
    Severity.ERROR: ":rotating_light:",
    Severity.CRITICAL: ":no_entry:",
}
_RETRYABLE = frozenset(
    {
        *("ratelimited", "internal_error", "fatal_error", "service_unavailable"),
        *("request_timeout", "team_added_to_org"),
        # A token is being rotated.
        *("invalid_auth", "not_authed", "token_expired", "token_revoked", "account_inactive"),
    }
)
"""Errors of the Web API, which come with status 200."""

# The SDK's own logger would repeat the webhook's URL, which is a secret, at level DEBUG.
_quiet = logging.getLogger("extproc.edge.channels.slack.sdk")
_quiet.setLevel(logging.CRITICAL)


def open_named(name: str, channels: Channels, outside: Outside) -> Slack:
    """The channel of ``slack:NAME``."""
    if channels.slack is None:
        raise ChannelUnsetError("slack is not configured")
    return Slack(channels.slack, name, outside)


class Slack:
    """One Slack channel."""

    def __init__(self, settings: SlackChannel, name: str, outside: Outside) -> None:
        self._settings = settings
        self._name = name
        self._outside = outside

    async def send(self, notice: Notice) -> None:
        """See ``Channel``."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                if self._settings.webhook is not None:
                    await self._through_webhook(notice)
                elif self._settings.bot_token is not None:
                    await self._through_bot(notice)
        except (ClientError, OSError, ValueError, SlackClientError) as error:
            # ValueError: not a URL. Not quoted, for it may be one with a typing mistake.
            raise network_error("Slack", error) from None

    async def _through_webhook(self, notice: Notice) -> None:
        assert self._settings.webhook is not None
        client = AsyncWebhookClient(
            await self._outside.secret(self._settings.webhook),
            timeout=int(TIMEOUT_S),
            ssl=await self._outside.tls(),
            logger=_quiet,
            retry_handlers=[],
        )
        answer = await client.send(text=plain(notice), blocks=blocks(notice), unfurl_links=False)
        if answer.status_code != 200:
            headers = {name.lower(): value for name, value in answer.headers.items()}
            raise http_error("Slack", answer.status_code, headers, answer.body)

    async def _through_bot(self, notice: Notice) -> None:
        assert self._settings.bot_token is not None
        client = AsyncWebClient(
            await self._outside.secret(self._settings.bot_token),
            base_url=self._settings.api_url,
            timeout=int(TIMEOUT_S),
            ssl=await self._outside.tls(),
            logger=_quiet,
            retry_handlers=[],
        )
        try:
            await client.chat_postMessage(
                channel=self._name, text=plain(notice), blocks=blocks(notice), unfurl_links=False
            )
        except SlackApiError as error:
            raise _api_error(error) from None


def plain(notice: Notice) -> str:
    """What notifications and old clients show instead of the blocks."""
    return f"{_EMOJI[notice.severity]} {escape(notice.title)}"


def blocks(notice: Notice) -> list[dict[str, Any]]:
    """The message in Block Kit."""
    title = _cut(notice.title, MAX_HEADER_CHARACTERS)
    found: list[dict[str, Any]] = [
        {"type": "header", "text": {"type": "plain_text", "text": title, "emoji": False}}
    ]
    fields = [_field(label, text) for label, text in notice.facts]
    for start in range(0, len(fields), MAX_FIELDS):
        found.append({"type": "section", "fields": fields[start : start + MAX_FIELDS]})
    about = f"{_EMOJI[notice.severity]} {notice.severity} · Tokenweir"
    found.append({"type": "context", "elements": [{"type": "mrkdwn", "text": about}]})
    return found


def escape(text: str) -> str:
    """The three characters that Slack's markup is made of: no mention, no link."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _field(label: str, text: str) -> dict[str, Any]:
    # Plain text under a bold label: what stands in a value is never markup.
    content = _cut(f"*{escape(label)}*\n{escape(text)}", MAX_FIELD_CHARACTERS)
    return {"type": "mrkdwn", "text": content, "verbatim": True}


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _api_error(error: SlackApiError) -> DeliveryError:
    answer = error.response
    status = getattr(answer, "status_code", 0) or getattr(answer, "status", 0)
    headers = {name.lower(): value for name, value in answer.headers.items()}
    data = getattr(answer, "data", None)
    code = str(data.get("error", "")) if isinstance(data, dict) else ""
    found = http_error("Slack", status, headers, code)
    if status == 200:
        found.retryable = code in _RETRYABLE
    return found
