"""Slack, against a server that checks messages by Block Kit's rules."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Iterator

import pytest
from receivers import SLACK_TOKEN, Answer, Receiver, slack, slack_problem

from extproc.edge.channels import slack as slack_module
from extproc.edge.channels.channel import DeliveryError, Outside
from extproc.edge.channels.slack import Slack
from extproc.policy.snapshot import CredentialRef, SlackChannel
from extproc.values.notice import Notice, Severity

CANARY = "/services/T0/B0/canary"


@pytest.fixture
def server() -> Iterator[Receiver]:
    receiver = Receiver(slack)
    yield receiver
    receiver.close()


def webhook(server: Receiver, url: str = "") -> Slack:
    settings = SlackChannel(CredentialRef("env", "HOOK"), None, "https://unused.invalid/")
    return Slack(settings, "#x", Outside({"HOOK": url or server.url + CANARY}, ""))


def bot(server: Receiver, channel: str = "#x", token: str = SLACK_TOKEN) -> Slack:
    settings = SlackChannel(None, CredentialRef("env", "TOKEN"), server.url + "/api")
    return Slack(settings, channel, Outside({"TOKEN": token}, ""))


def failure(channel: Slack, notice: Notice) -> DeliveryError:
    with pytest.raises(DeliveryError) as caught:
        asyncio.run(channel.send(notice))
    return caught.value


def test_the_webhook_gets_blocks_and_a_fallback_text(server: Receiver, notice: Notice) -> None:
    asyncio.run(webhook(server).send(notice))
    [request] = server.requests
    assert request.path == CANARY
    assert slack_problem(request) == ""
    body = request.json
    assert body["text"] == ":rotating_light: Budget a has used 80 % of $4,000.00"
    header, section, context = body["blocks"]
    assert header["text"]["text"] == notice.title
    assert [field["text"] for field in section["fields"]] == [
        "*Rule*\na", "*Spent*\n$3,200.00", "*Used*\n80 %",
    ]  # fmt: skip
    assert "error" in context["elements"][0]["text"]
    assert "channel" not in body


def test_the_bot_posts_into_the_channel_that_is_named(server: Receiver, notice: Notice) -> None:
    asyncio.run(bot(server).send(notice))
    [request] = server.requests
    assert request.path == "/api/chat.postMessage"
    assert request.json["channel"] == "#x"
    assert request.json["text"]
    assert len(request.json["blocks"]) == 3


def test_long_and_marked_up_texts_are_made_harmless(server: Receiver, notice: Notice) -> None:
    nasty = "<!channel> & <https://evil.example|click>"
    notice = dataclasses.replace(
        notice, title=nasty * 30, facts=((nasty, nasty * 100),) * 23, severity=Severity.INFO
    )
    asyncio.run(webhook(server).send(notice))
    [request] = server.requests
    assert slack_problem(request) == ""
    body = request.json
    assert "<" not in body["text"]
    sections = [block for block in body["blocks"] if block["type"] == "section"]
    assert [len(section["fields"]) for section in sections] == [10, 10, 3]
    assert all("<" not in f["text"] and f["verbatim"] for s in sections for f in s["fields"])


@pytest.mark.parametrize(
    ("answer", "retryable", "reason"),
    [
        (Answer(500, b"rollup_error"), True, "Slack answered 500 (rollup_error)"),
        (Answer(403, b"action_prohibited"), True, "Slack answered 403 (action_prohibited)"),
        (Answer(404, b"no_service"), False, "Slack answered 404 (no_service)"),
        (Answer(410, b"channel_is_archived"), False, "Slack answered 410 (channel_is_archived)"),
        (Answer(400, b"<html>secret</html>"), False, "Slack answered 400"),
    ],
)
def test_what_the_webhook_refuses(
    server: Receiver, notice: Notice, answer: Answer, retryable: bool, reason: str
) -> None:
    server.script.append(answer)
    error = failure(webhook(server), notice)
    assert (error.retryable, str(error)) == (retryable, reason)
    assert len(server.requests) == 1, "the queue repeats, not the library"


def test_a_rate_limit_says_when_to_come_again(server: Receiver, notice: Notice) -> None:
    server.script += [Answer(429, b"", {"Retry-After": "30"})] * 2
    for channel in (webhook(server), bot(server)):
        error = failure(channel, notice)
        assert (error.retryable, error.retry_after_s) == (True, 30)
    assert len(server.requests) == 2


def test_what_the_web_api_refuses(server: Receiver, notice: Notice) -> None:
    error = failure(bot(server, "#nowhere"), notice)
    assert (error.retryable, str(error)) == (False, "Slack answered 200 (channel_not_found)")
    error = failure(bot(server, token="xoxb-old"), notice)
    assert (error.retryable, str(error)) == (True, "Slack answered 200 (invalid_auth)")
    server.script.append(Answer(502, b"<html>bad gateway</html>"))
    assert failure(bot(server), notice).retryable


def test_nobody_there_and_nobody_answering(
    server: Receiver, notice: Notice, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = failure(webhook(server, "http://127.0.0.1:1" + CANARY), notice)
    assert error.retryable
    monkeypatch.setattr(slack_module, "TIMEOUT_S", 0.3)
    server.script.append(Answer(hang_s=1.0))
    error = failure(webhook(server), notice)
    assert (error.retryable, str(error)) == (True, "Slack cannot be reached: TimeoutError")


@pytest.mark.parametrize("url", ["hooks.slack.com/canary", "https://[canary", "", "ht!tp://canary"])
def test_a_mistyped_url_is_not_quoted(
    server: Receiver, notice: Notice, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        error = failure(webhook(server, url or "canary"), notice)
    assert "canary" not in str(error)
    assert "canary" not in caplog.text


def test_I8_the_url_and_the_token_are_in_no_log_at_any_level(
    server: Receiver, notice: Notice, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        asyncio.run(webhook(server).send(notice))
        asyncio.run(bot(server).send(notice))
        server.script += [Answer(500)] * 2
        failure(webhook(server), notice)
        failure(bot(server), notice)
    assert "canary" not in caplog.text
