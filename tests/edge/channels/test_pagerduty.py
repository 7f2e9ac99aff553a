"""PagerDuty, against a TLS server that checks events by the rules of the Events API v2."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from certificates import Authority
from receivers import ROUTING_KEY, Answer, Receiver, pagerduty

from extproc.edge.channels import pagerduty as pagerduty_module
from extproc.edge.channels.channel import DeliveryError, Outside
from extproc.edge.channels.pagerduty import PagerDuty, dedup_key
from extproc.policy.snapshot import CredentialRef
from extproc.values.notice import Notice


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "ours")


@pytest.fixture
def server(authority: Authority) -> Iterator[Receiver]:
    receiver = Receiver(pagerduty, tls=authority.server("127.0.0.1"))
    yield receiver
    receiver.close()


def channel(server: Receiver, ca_file: Path, key: str = ROUTING_KEY) -> PagerDuty:
    return PagerDuty(CredentialRef("env", "K"), server.url, Outside({"K": key}, str(ca_file)))


def failure(channel: PagerDuty, notice: Notice) -> DeliveryError:
    with pytest.raises(DeliveryError) as caught:
        asyncio.run(channel.send(notice))
    return caught.value


def test_an_alert_triggers_an_event_and_its_end_resolves_it(
    server: Receiver, authority: Authority, notice: Notice
) -> None:
    asyncio.run(channel(server, authority.file).send(notice))
    over = dataclasses.replace(notice, resolved=True)
    asyncio.run(channel(server, authority.file).send(over))
    trigger, resolve = (request.json for request in server.requests)
    assert trigger["event_action"] == "trigger"
    assert trigger["dedup_key"] == resolve["dedup_key"] == "tokenweir|a/usd|80%|daily UTC|1"
    payload = trigger["payload"]
    assert payload["summary"] == notice.title
    assert (payload["source"], payload["severity"]) == ("tokenweir", "error")
    assert (payload["component"], payload["class"]) == ("a", "80%")
    assert payload["custom_details"]["Spent"] == "$3,200.00"
    assert payload["custom_details"]["spent_micro_usd"] == 3_200_000_000
    assert resolve["event_action"] == "resolve"
    assert "payload" not in resolve


def test_a_long_key_and_a_long_title_fit(
    server: Receiver, authority: Authority, notice: Notice
) -> None:
    long = dataclasses.replace(notice, key="k" * 600, title="t" * 2000)
    asyncio.run(channel(server, authority.file).send(long))
    [request] = server.requests
    assert len(request.json["dedup_key"]) <= 255
    assert dedup_key(long) != dedup_key(dataclasses.replace(long, key="k" * 601))


@pytest.mark.parametrize(
    ("answer", "retryable", "retry_after_s"),
    [
        (Answer(400, b"{}"), False, None),
        (Answer(403, b"{}"), True, None),
        (Answer(429, b"{}", {"Retry-After": "9"}), True, 9),
        (Answer(500, b"{}"), True, None),
        (Answer(503, b"oops"), True, None),
        (Answer(302, b"", {"Location": "https://elsewhere.invalid"}), False, None),
    ],
)
def test_what_is_refused_is_not_repeated_by_the_library(
    server: Receiver, authority: Authority, notice: Notice, answer: Answer, retryable: bool,
    retry_after_s: float | None,
) -> None:  # fmt: skip
    server.script.append(answer)
    began_s = time.monotonic()
    error = failure(channel(server, authority.file), notice)
    assert (error.retryable, error.retry_after_s) == (retryable, retry_after_s)
    assert str(error) == f"PagerDuty answered {answer.status}"
    assert len(server.requests) == 1
    assert time.monotonic() - began_s < 2.9, "it slept"  # three seconds are its first pause


def test_a_wrong_key_is_refused(server: Receiver, authority: Authority, notice: Notice) -> None:
    error = failure(channel(server, authority.file, "canary"), notice)
    assert (error.retryable, str(error)) == (False, "PagerDuty answered 400")


def test_nobody_there_and_nobody_answering(
    server: Receiver, authority: Authority, notice: Notice, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = PagerDuty(CredentialRef("env", "K"), "https://127.0.0.1:1", Outside({"K": "canary"}, ""))
    assert failure(away, notice).retryable
    monkeypatch.setattr(pagerduty_module, "TIMEOUT_S", 0.3)
    server.script.append(Answer(hang_s=1.0))
    error = failure(channel(server, authority.file), notice)
    assert (error.retryable, str(error)) == (True, "PagerDuty cannot be reached: ReadTimeout")


def test_a_server_that_nobody_vouches_for_gets_no_key(
    server: Receiver, notice: Notice, tmp_path: Path
) -> None:
    other = Authority(tmp_path, "other")
    error = failure(channel(server, other.file), notice)
    assert error.retryable
    assert server.requests == []


def test_I8_the_key_is_in_no_log_at_any_level(
    server: Receiver, authority: Authority, notice: Notice, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        asyncio.run(channel(server, authority.file).send(notice))
        server.script.append(Answer(500))
        failure(channel(server, authority.file), notice)
    assert "canary" not in caplog.text
