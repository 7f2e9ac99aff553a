"""Webhooks: JSON, signed so that the receiver can tell who sent it and when."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import hashlib
import hmac
import logging
import time
from collections.abc import Iterator

import pytest
from receivers import Answer, Receiver

from extproc.edge.channels import webhook as webhook_module
from extproc.edge.channels.channel import DeliveryError, Outside
from extproc.edge.channels.webhook import Webhook, signature
from extproc.policy.snapshot import CredentialRef, WebhookChannel
from extproc.values.notice import Notice

SECRET = "whsec_" + base64.b64encode(b"canary-secret-of-the-hook").decode()


@pytest.fixture
def server() -> Iterator[Receiver]:
    receiver = Receiver(lambda _: Answer(204))
    yield receiver
    receiver.close()


def channel(url: str, secret: str | None = SECRET, hidden: bool = False) -> Webhook:
    reference = CredentialRef("env", "SECRET") if secret is not None else None
    where = CredentialRef("env", "URL") if hidden else url
    return Webhook(
        WebhookChannel(where, reference), Outside({"SECRET": secret or "", "URL": url}, "")
    )


def failure(channel: Webhook, notice: Notice) -> DeliveryError:
    with pytest.raises(DeliveryError) as caught:
        asyncio.run(channel.send(notice))
    return caught.value


def verify(secret: bytes, headers: dict[str, str], body: bytes) -> bool:
    """As a receiver does it, written from the standard's text."""
    if abs(time.time() - int(headers["webhook-timestamp"])) > 300:
        return False
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    wanted = base64.b64encode(hmac.new(secret, content, hashlib.sha256).digest()).decode()
    return any(
        hmac.compare_digest(found.partition(",")[2], wanted)
        for found in headers["webhook-signature"].split(" ")
        if found.startswith("v1,")
    )


def test_the_body_and_the_signature(server: Receiver, notice: Notice) -> None:
    asyncio.run(channel(server.url + "/hook").send(notice))
    [request] = server.requests
    assert request.path == "/hook"
    assert request.headers["content-type"] == "application/json"
    assert request.json == {
        "type": "alert.triggered",
        "timestamp": "2026-11-25T13:05:00+00:00",
        "data": {
            "key": notice.key,
            "title": notice.title,
            "severity": "error",
            "rule_id": "a",
            "alert": "80%",
            "spent_micro_usd": 3_200_000_000,
        },
    }
    assert verify(b"canary-secret-of-the-hook", request.headers, request.body)
    assert not verify(b"another", request.headers, request.body)
    assert not verify(b"canary-secret-of-the-hook", request.headers, request.body + b" ")


def test_the_standards_own_example_has_the_signature_that_it_says() -> None:
    # From the specification's reference libraries.
    body = b'{"test": 2432232314}'
    found = signature(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", body
    )
    assert found == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_secret_may_be_plain_text_or_there_may_be_none(server: Receiver, notice: Notice) -> None:
    asyncio.run(channel(server.url, "plain").send(notice))
    asyncio.run(channel(server.url, None).send(notice))
    first, second = server.requests
    assert verify(b"plain", first.headers, first.body)
    assert "webhook-signature" not in second.headers


def test_every_try_has_the_same_id_and_the_end_another(server: Receiver, notice: Notice) -> None:
    hook = channel(server.url)
    asyncio.run(hook.send(notice))
    asyncio.run(hook.send(notice))
    asyncio.run(hook.send(dataclasses.replace(notice, resolved=True)))
    first, again, over = server.requests
    assert first.headers["webhook-id"] == again.headers["webhook-id"]
    assert over.headers["webhook-id"] != first.headers["webhook-id"]
    assert over.json["type"] == "alert.resolved"


def test_the_url_may_be_a_secret(server: Receiver, notice: Notice) -> None:
    asyncio.run(channel(server.url + "/canary?token=1", hidden=True).send(notice))
    assert server.requests[0].path == "/canary"


@pytest.mark.parametrize(("status", "retryable"), [(302, False), (404, False), (503, True)])
def test_what_is_refused(server: Receiver, notice: Notice, status: int, retryable: bool) -> None:
    server.script.append(Answer(status, b"", {"Location": server.url + "/elsewhere"}))
    error = failure(channel(server.url), notice)
    assert (error.retryable, str(error)) == (retryable, f"the webhook answered {status}")
    assert len(server.requests) == 1, "a redirect is not followed"


def test_a_secret_that_is_no_base64_is_said_and_not_quoted(
    server: Receiver, notice: Notice
) -> None:
    error = failure(channel(server.url, "whsec_canary!"), notice)
    assert str(error) == "the webhook's secret is no base64"


def test_nobody_there_and_nobody_answering(
    server: Receiver, notice: Notice, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert failure(channel("http://127.0.0.1:1/canary"), notice).retryable
    monkeypatch.setattr(webhook_module, "TIMEOUT_S", 0.3)
    server.script.append(Answer(hang_s=1.0))
    error = failure(channel(server.url), notice)
    assert (error.retryable, str(error)) == (True, "the webhook cannot be reached: TimeoutError")


def test_I8_url_and_secret_are_in_no_log_at_any_level(
    server: Receiver, notice: Notice, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        asyncio.run(channel(server.url + "/canary", hidden=True).send(notice))
        server.script.append(Answer(500))
        failure(channel(server.url + "/canary", hidden=True), notice)
        error = failure(channel("canary:/x y", hidden=True), notice)
    assert "canary" not in caplog.text + str(error)
