"""Channels of ``gateway-config``, and the ``notify`` lists that name them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from extproc.policy.drafts import Drafts
from extproc.policy.reading import NAME, Section
from extproc.policy.snapshot import (
    Channels,
    CredentialRef,
    EmailChannel,
    PagerDutyChannel,
    SlackChannel,
    WebhookChannel,
)

SLACK_API_URL = "https://slack.com/api/"
PAGERDUTY_API_URL = "https://events.pagerduty.com"
SMTP_PORTS = {"starttls": 587, "tls": 465, "none": 25}
MAX_DESTINATIONS = 20
"""In one ``notify`` list. A message to more people than that has a mailing list."""

_ADDRESS = re.compile(r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*")
_SLACK_CHANNEL = re.compile(r"#?[\w-]{1,80}")
_FORMS = {
    "slack": (_SLACK_CHANNEL, "slack:#channel"),
    "pagerduty": (NAME, "pagerduty:NAME"),
    "webhook": (NAME, "webhook:NAME"),
    "email": (_ADDRESS, "email:a@b.example"),
}


def read_channels(section: Section, drafts: Drafts) -> None:
    """``channels`` of a ``gateway-config``; each kind may be configured once in a folder."""
    known = drafts.channels
    for key, configured in (
        ("slack", known.slack),
        ("pagerduty", known.pagerduty),
        ("webhooks", known.webhooks),
        ("email", known.email),
    ):
        if key in section and configured:
            section.error(key, "duplicate_name", f"{key} is configured twice")
    slack = section.section("slack")
    pagerduty = section.section("pagerduty")
    webhooks = section.section("webhooks")
    email = section.section("email")
    section.done()
    drafts.channels = Channels(
        slack=_slack(slack, drafts) if slack is not None else known.slack,
        pagerduty=_pagerduty(pagerduty, drafts) if pagerduty is not None else known.pagerduty,
        webhooks=_webhooks(webhooks, drafts) if webhooks is not None else known.webhooks,
        email=_email(email, drafts) if email is not None else known.email,
    )


def read_notify(section: Section, drafts: Drafts) -> tuple[str, ...]:
    """The destinations of a ``notify`` list. A name that its channel does not have is an error; a
    kind of channel that is not configured at all is warned of, and only logged."""
    texts = section.texts("notify")
    if not texts:
        section.error("notify", "missing_key", f"{section.what} needs somebody to notify")
    if len(texts) > MAX_DESTINATIONS:
        section.error("notify", "too_many", f"notify takes at most {MAX_DESTINATIONS} destinations")
    return tuple(dict.fromkeys(t for t in texts if _is_destination(t, section, drafts)))


def destination_fault(text: str, channels: Channels) -> tuple[str, str]:
    """What is wrong with a destination, as code and message; two empty texts for nothing."""
    kind, _, name = text.partition(":")
    if kind not in _FORMS or not _FORMS[kind][0].fullmatch(name):
        forms = ", ".join(form for _, form in _FORMS.values())
        return "bad_channel", f"{text[:80]!r} is no destination; write {forms}"
    configured: Mapping[str, object] | None = None
    if kind == "pagerduty":
        configured = channels.pagerduty.routing_keys if channels.pagerduty else None
    elif kind == "webhook":
        configured = channels.webhooks or None
    elif getattr(channels, kind) is not None:
        return "", ""
    if configured is None:
        message = f"{kind} is not configured under channels: alerts to it are only logged"
        return "channel_unset", message
    if name not in configured:
        known = ", ".join(configured)
        return "unknown_channel", f"{text[:80]!r} is not configured; known: {known}"
    return "", ""


def warn_of_unset_channels(drafts: Drafts, environ: Mapping[str, str]) -> None:
    """Variables that channels name and nobody has set."""
    for section, key, reference in drafts.channel_references:
        if reference.kind == "env" and not environ.get(reference.name):
            message = f"{section.what}: the variable is not set: alerts are only logged"
            section.warning(key, "channel_unset", message)


def _is_destination(text: str, section: Section, drafts: Drafts) -> bool:
    code, message = destination_fault(text, drafts.channels)
    if code == "channel_unset":
        kind = text.partition(":")[0]
        if kind not in drafts.unset_channels:
            drafts.unset_channels.add(kind)
            section.warning("notify", code, message)
        return True
    if code:
        section.error("notify", code, message)
    return not code


def _slack(section: Section, drafts: Drafts) -> SlackChannel | None:
    webhook = _reference(section, "webhook", drafts)
    token = _reference(section, "bot_token", drafts)
    if ("webhook" in section) == ("bot_token" in section):
        section.error("", "missing_key", "slack needs either webhook or bot_token")
    url = _url(section, "api_url", SLACK_API_URL, ("https", "http"))
    section.done()
    return SlackChannel(webhook, token, url)


def _pagerduty(section: Section, drafts: Drafts) -> PagerDutyChannel:
    keys: dict[str, CredentialRef] = {}
    names = section.section("routing_keys", required=True)
    if names is not None:
        names.what = "pagerduty"
        for name, _ in names.items():
            _check_name(names, name)
            reference = _reference(names, name, drafts)
            if reference is not None:
                keys[name] = reference
    # The events carry the routing key, and PagerDuty's own client insists on https too.
    url = _url(section, "api_url", PAGERDUTY_API_URL, ("https",))
    section.done()
    return PagerDutyChannel(keys, url.rstrip("/"))


def _webhooks(section: Section, drafts: Drafts) -> dict[str, WebhookChannel]:
    webhooks = {}
    for name, node in section.items():
        _check_name(section, name)
        webhook = Section(node, section.file, section.findings, f"webhook {name[:80]}")
        text = webhook.text("url", required=True)
        url: CredentialRef | str | None = text
        if not text.startswith(("http://", "https://")):
            url = _reference(webhook, "url", drafts)
        elif _is_secret(text):
            message = "a URL with a user, a query or a fragment is a secret: write env:NAME"
            webhook.error("url", "literal_secret", message)
        else:
            _url(webhook, "url", text, ("https", "http"))
        secret = _reference(webhook, "secret", drafts)
        webhook.done()
        if url:
            webhooks[name] = WebhookChannel(url, secret)
    return webhooks


def _email(section: Section, drafts: Drafts) -> EmailChannel:
    host = section.text("host", required=True)
    if host and not re.fullmatch(r"[A-Za-z0-9.:-]{1,253}", host):
        section.error("host", "bad_host", f"{host[:80]!r} is no host name or address")
    tls = section.choice("tls", tuple(SMTP_PORTS), "starttls")
    port = section.integer("port", SMTP_PORTS.get(tls, 587), 1, 65_535)
    sender = section.text("from", required=True)
    if sender and not _ADDRESS.fullmatch(sender):
        section.error("from", "bad_address", f"{sender[:80]!r} is no mail address")
    username = section.text("username")
    password = _reference(section, "password", drafts)
    if bool(username) != ("password" in section):
        section.error("", "missing_key", "email needs both username and password, or neither")
    if tls == "none" and username:
        section.error("tls", "open_password", "a password is not sent without tls or starttls")
    section.done()
    return EmailChannel(host, port, tls, sender, username, password)


def _reference(section: Section, key: str, drafts: Drafts) -> CredentialRef | None:
    reference = section.reference(key)
    if reference is not None:
        drafts.channel_references.append((section, key, reference))
    return reference


def _check_name(section: Section, name: str) -> None:
    if not NAME.fullmatch(name):
        section.error(name, "bad_id", f"{name[:80]!r} is no usable name: letters, digits . _ -")


def _url(section: Section, key: str, default: str, schemes: tuple[str, ...]) -> str:
    text = section.text(key, default)
    try:
        parts = urlsplit(text)
        sound = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if _is_secret(text):
        section.error(key, "literal_secret", f"{key} must hold no user, query or fragment")
    elif not sound:
        section.error(key, "bad_url", f"{text[:80]!r} is no {' or '.join(schemes)} URL")
    return text


def _is_secret(url: str) -> bool:
    """Whether a URL has a part that commonly carries a password or a token."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return bool(parts.username or parts.password or parts.query or parts.fragment)
