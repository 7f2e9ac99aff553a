"""E-mail, through a real mail server with STARTTLS and a password."""

from __future__ import annotations

import asyncio
import dataclasses
import email
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority
from receivers import MailServer

from extproc.edge.channels import email as email_module
from extproc.edge.channels.channel import DeliveryError, Outside
from extproc.edge.channels.email import Email, message
from extproc.policy.snapshot import CredentialRef, EmailChannel
from extproc.values.notice import Notice

PASSWORD = "canary-password"
StartServer = Callable[..., MailServer]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "ours")


@pytest.fixture
def start() -> Iterator[StartServer]:
    running: list[MailServer] = []

    def start_one(*arguments: Any, **settings: Any) -> MailServer:
        running.append(MailServer(*arguments, **settings))
        return running[-1]

    yield start_one
    for server in running:
        server.close()


def channel(
    server: MailServer, ca_file: Path, tls: str = "starttls", password: str = PASSWORD,
    recipient: str = "ops@example.com", port: int = 0,
) -> Email:  # fmt: skip
    username = "gateway" if password else ""
    reference = CredentialRef("env", "P") if password else None
    settings = EmailChannel(
        "127.0.0.1", port or server.port, tls, "gateway@example.com", username, reference
    )
    return Email(settings, recipient, Outside({"P": password}, str(ca_file)))


def failure(channel: Email, notice: Notice) -> DeliveryError:
    with pytest.raises(DeliveryError) as caught:
        asyncio.run(channel.send(notice))
    return caught.value


def test_a_mail_arrives_over_starttls_with_a_password(
    start: StartServer, authority: Authority, notice: Notice
) -> None:
    server = start(authority.server("127.0.0.1"), PASSWORD)
    asyncio.run(channel(server, authority.file).send(notice))
    [envelope] = server.mails
    assert server.encrypted == [True]
    assert (envelope.mail_from, envelope.rcpt_tos) == ("gateway@example.com", ["ops@example.com"])
    assert isinstance(envelope.content, bytes)
    mail = email.message_from_bytes(envelope.content)
    assert mail["Subject"] == "[Tokenweir error] Budget a has used 80 % of $4,000.00"
    assert (mail["From"], mail["To"]) == ("gateway@example.com", "ops@example.com")
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail["Date"] == "Wed, 25 Nov 2026 13:05:00 +0000"
    assert mail["Message-ID"].endswith("@example.com>")
    assert mail.get_content_type() == "text/plain"
    payload = mail.get_payload(decode=True)
    assert isinstance(payload, bytes)
    text = payload.decode().replace("\r\n", "\n")
    assert text == (
        "Budget a has used 80 % of $4,000.00\n\nRule:  a\nSpent: $3,200.00\nUsed:  80 %\n"
    )


def test_tls_from_the_first_byte_and_none_at_all(
    start: StartServer, authority: Authority, notice: Notice
) -> None:
    server = start(authority.server("127.0.0.1"), implicit_tls=True)
    asyncio.run(channel(server, authority.file, "tls", "").send(notice))
    assert server.encrypted == [True]
    plain = start()
    asyncio.run(channel(plain, authority.file, "none", "").send(notice))
    assert plain.encrypted == [False]


@pytest.mark.parametrize(
    "certificate", [{"names": ("127.0.0.1",), "expired": True}, {"names": ("elsewhere.example",)}]
)
def test_a_server_that_is_not_who_it_should_be_gets_no_password(
    start: StartServer, authority: Authority, notice: Notice, certificate: dict[str, Any]
) -> None:
    server = start(
        authority.server(*certificate["names"], expired=certificate.get("expired", False)), PASSWORD
    )
    assert failure(channel(server, authority.file), notice).retryable
    assert server.mails == []


def test_a_server_that_nobody_vouches_for_gets_no_password(
    start: StartServer, authority: Authority, notice: Notice, tmp_path: Path
) -> None:
    server = start(authority.server("127.0.0.1"), PASSWORD)
    assert failure(channel(server, Authority(tmp_path, "other").file), notice).retryable
    assert server.mails == []


def test_starttls_that_is_not_offered_is_not_done_without(
    start: StartServer, authority: Authority, notice: Notice
) -> None:
    server = start()
    error = failure(channel(server, authority.file, password=""), notice)
    assert (error.retryable, str(error)) == (True, "the mail server offers no STARTTLS")
    assert server.mails == []


def test_a_wrong_password_may_be_right_later(
    start: StartServer, authority: Authority, notice: Notice
) -> None:
    server = start(authority.server("127.0.0.1"), PASSWORD)
    error = failure(channel(server, authority.file, password="canary-old"), notice)
    assert (error.retryable, str(error)) == (True, "the mail server refused the password")


def test_what_the_server_answers_says_whether_to_come_again(
    start: StartServer, authority: Authority, notice: Notice
) -> None:
    server = start()
    server.script += ["451 later", "554 never"]
    for code, retryable in ((451, True), (554, False)):
        error = failure(channel(server, authority.file, "none", ""), notice)
        assert (error.retryable, str(error)) == (retryable, f"the mail server answered {code}")
    nobody = channel(server, authority.file, "none", "", recipient="nobody@example.com")
    error = failure(nobody, notice)
    assert (error.retryable, str(error)) == (False, "the mail server answered 550")


def test_nobody_there_and_nobody_answering(
    start: StartServer, authority: Authority, notice: Notice, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert failure(channel(start(), authority.file, "none", "", port=1), notice).retryable
    monkeypatch.setattr(email_module, "TIMEOUT_S", 0.3)

    async def silent() -> None:
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(DeliveryError) as caught:
            await channel(None, authority.file, "none", "", port=port).send(notice)  # type: ignore[arg-type]
        assert caught.value.retryable
        server.close()

    asyncio.run(silent())


def test_a_line_break_makes_no_header(notice: Notice) -> None:
    broken = dataclasses.replace(notice, title="x\r\nBcc: evil@example.com")
    with pytest.raises(ValueError, match="linefeed"):
        message(broken, "a@b.example", "c@d.example")


def test_every_try_has_the_same_id(notice: Notice) -> None:
    first, again = (message(notice, "a@b.example", "c@d.example") for _ in range(2))
    other = message(notice, "a@b.example", "e@f.example")
    assert first["Message-ID"] == again["Message-ID"] != other["Message-ID"]


def test_I8_the_password_is_in_no_log_at_any_level(
    start: StartServer, authority: Authority, notice: Notice, caplog: pytest.LogCaptureFixture
) -> None:
    server = start(authority.server("127.0.0.1"), PASSWORD)
    with caplog.at_level(logging.DEBUG, "extproc"), caplog.at_level(logging.DEBUG, "aiosmtplib"):
        asyncio.run(channel(server, authority.file).send(notice))
        failure(channel(server, authority.file, password="canary-old"), notice)
    assert "canary" not in caplog.text
