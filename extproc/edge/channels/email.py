"""E-mail: plain text through a mail server, whose certificate is verified."""

from __future__ import annotations

import asyncio
import hashlib
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime

import aiosmtplib

from extproc.edge.channels.channel import (
    TIMEOUT_S,
    ChannelUnsetError,
    DeliveryError,
    Outside,
    network_error,
)
from extproc.policy.snapshot import Channels, EmailChannel
from extproc.values.notice import Notice

MAX_SUBJECT_CHARACTERS = 200


def open_named(name: str, channels: Channels, outside: Outside) -> Email:
    """The channel of ``email:ADDRESS``."""
    if channels.email is None:
        raise ChannelUnsetError("email is not configured")
    return Email(channels.email, name, outside)


class Email:
    """One recipient."""

    def __init__(self, settings: EmailChannel, recipient: str, outside: Outside) -> None:
        self._settings = settings
        self._recipient = recipient
        self._outside = outside

    async def send(self, notice: Notice) -> None:
        """See ``Channel``."""
        settings = self._settings
        password = None
        if settings.password is not None:
            password = await self._outside.secret(settings.password)
        tls = await self._outside.tls()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await aiosmtplib.send(
                    message(notice, settings.sender, self._recipient),
                    hostname=settings.host,
                    port=settings.port,
                    use_tls=settings.tls == "tls",
                    # Never "if it is offered": somebody on the way could take the offer out.
                    start_tls=settings.tls == "starttls",
                    tls_context=None if settings.tls == "none" else tls,
                    username=settings.username or None,
                    password=password,
                    timeout=TIMEOUT_S,
                )
        except aiosmtplib.SMTPRecipientsRefused as error:
            codes = [refused.code for refused in error.recipients]
            raise _answered(min(codes, default=550)) from None
        except aiosmtplib.SMTPAuthenticationError:
            # A password is being rotated.
            raise DeliveryError("the mail server refused the password", retryable=True) from None
        except aiosmtplib.SMTPResponseException as error:
            raise _answered(error.code) from None
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            if "STARTTLS" in str(error):
                reason = "the mail server offers no STARTTLS"
                raise DeliveryError(reason, retryable=True) from None
            raise network_error("the mail server", error) from None


def message(notice: Notice, sender: str, recipient: str) -> EmailMessage:
    """One mail. Its ``Message-ID`` is the same for every try."""
    mail = EmailMessage()
    mail["From"] = sender
    mail["To"] = recipient
    mail["Subject"] = f"[Tokenweir {notice.severity}] {notice.title}"[:MAX_SUBJECT_CHARACTERS]
    mail["Date"] = format_datetime(datetime.fromtimestamp(notice.at_ms // 1000, UTC))
    digest = hashlib.sha256(f"{notice.key} {recipient}".encode()).hexdigest()[:32]
    mail["Message-ID"] = f"<{digest}@{sender.rpartition('@')[2]}>"
    mail["Auto-Submitted"] = "auto-generated"  # no out-of-office answers
    width = max((len(label) for label, _ in notice.facts), default=0) + 1
    lines = [f"{label + ':':<{width}} {text}" for label, text in notice.facts]
    mail.set_content("\n".join([notice.title, "", *lines]) + "\n")
    return mail


def _answered(code: int) -> DeliveryError:
    return DeliveryError(f"the mail server answered {code}", retryable=code < 500)
