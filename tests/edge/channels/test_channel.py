"""What channels share: secrets found at the moment of sending, and failures in words of our own."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from policies import snapshot

from extproc.edge.channels import channel as channel_module
from extproc.edge.channels.channel import (
    MAX_RETRY_AFTER_S,
    MAX_SECRET_BYTES,
    ChannelUnsetError,
    DeliveryError,
    Outside,
    http_error,
    network_error,
    open_channel,
    retry_after_s,
)
from extproc.policy.snapshot import Channels, CredentialRef

ALL = """
name: c
type: gateway-config
channels:
  slack: {webhook: "env:S"}
  pagerduty: {routing_keys: {p: "env:P"}}
  webhooks: {w: {url: "https://w.example"}}
  email: {host: m.example, from: a@b.example}
"""


def secret(reference: CredentialRef, environ: dict[str, str] | None = None) -> str:
    return asyncio.run(Outside(environ or {}, "").secret(reference))


def test_a_secret_is_what_the_variable_or_the_file_holds_now(tmp_path: Path) -> None:
    assert secret(CredentialRef("env", "A"), {"A": "one\n"}) == "one"
    path = tmp_path / "key"
    for text in ("one", "two"):  # rotated
        path.write_text(text + "\n")
        assert secret(CredentialRef("file", str(path))) == text


def test_an_unset_variable_means_that_the_channel_is_not_there() -> None:
    for environ in ({}, {"A": ""}):
        with pytest.raises(ChannelUnsetError, match="A is not set"):
            secret(CredentialRef("env", "A"), environ)


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe", b"x" * (MAX_SECRET_BYTES + 1)])
def test_a_file_that_holds_no_secret_may_hold_one_later(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DeliveryError) as caught:
        secret(CredentialRef("file", str(path)))
    assert caught.value.retryable


@pytest.mark.parametrize(
    ("status", "retryable"),
    [(400, False), (401, True), (403, True), (404, False), (408, True), (410, False), (422, False),
     (425, True), (429, True), (500, True), (503, True), (302, False)],
)  # fmt: skip
def test_a_status_says_whether_to_come_again(status: int, retryable: bool) -> None:
    assert http_error("X", status, {}).retryable is retryable


def test_only_what_looks_like_a_code_is_quoted() -> None:
    assert str(http_error("X", 404, {}, "no_service")) == "X answered 404 (no_service)"
    assert str(http_error("X", 404, {}, "see https://hooks/secret")) == "X answered 404"
    error = OSError("cannot reach https://hooks/secret")
    assert str(network_error("X", error)) == "X cannot be reached: OSError"


def test_retry_after_is_seconds_or_a_date_and_has_an_end() -> None:
    assert retry_after_s("7") == 7
    assert retry_after_s("99999999") == MAX_RETRY_AFTER_S
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    found = retry_after_s(soon)
    assert found is not None
    assert 55 < found <= 60
    assert retry_after_s(format_datetime(datetime(2020, 1, 1, tzinfo=UTC), usegmt=True)) == 0
    for text in ("", "-1", "soon", "1e9", "Wed, 21 Oct 2015 07:28:00"):
        assert retry_after_s(text) is None
    assert http_error("X", 429, {"retry-after": "7"}).retry_after_s == 7


@pytest.mark.parametrize("kind", sorted(channel_module._KINDS))
def test_every_kind_opens_when_it_is_configured_and_says_when_it_is_not(kind: str) -> None:
    name = {"pagerduty": "p", "webhook": "w", "email": "x@y.example", "slack": "#x"}[kind]
    outside = Outside({}, "")
    channels = snapshot(c=ALL).channels
    channel = asyncio.run(open_channel(f"{kind}:{name}", channels, outside))
    assert type(channel).__name__.lower() == kind
    with pytest.raises(ChannelUnsetError):
        asyncio.run(open_channel(f"{kind}:{name}", Channels(), outside))


def test_a_name_or_kind_that_went_out_of_the_policy_is_not_there() -> None:
    channels = snapshot(c=ALL).channels
    for destination in ("pagerduty:gone", "webhook:gone", "teams:x"):
        with pytest.raises(ChannelUnsetError):
            asyncio.run(open_channel(destination, channels, Outside({}, "")))


def test_authorities_that_cannot_be_read_may_be_readable_later(tmp_path: Path) -> None:
    with pytest.raises(DeliveryError) as caught:
        asyncio.run(Outside({}, str(tmp_path / "none.pem")).tls())
    assert caught.value.retryable
