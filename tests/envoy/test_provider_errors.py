"""Errors of providers in the real Envoy: what the client gets to see, what the sidecar learns, and
that Envoy neither sleeps on them nor goes where they point."""

from __future__ import annotations

import asyncio
import math
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import httpx
import pytest
from envoy_rig import PLAIN, Received, Respond, Rig, answer, start_rig_in

from extproc.edge import log_codec

PATHS = ("/v1/chat/completions", "/v1/messages")


def failing(status: int, *headers: bytes, body: bytes = b"no") -> Respond:
    async def respond(_: Received, writer: asyncio.StreamWriter) -> None:
        head = b"".join(header + b"\r\n" for header in headers)
        writer.write(
            b"HTTP/1.1 %d X\r\n%scontent-length: %d\r\n\r\n%s" % (status, head, len(body), body)
        )

    return respond


def rests_ms(rig: Rig, response: httpx.Response) -> set[int]:
    """What each of the two logs tells the sidecar about the failure."""
    request_id = response.headers["x-request-id"]
    now_ms = int(time.time() * 1000)
    ended = log_codec.decode_request_ended(rig.log(request_id), now_ms)
    failed = log_codec.decode_attempt_failed(rig.log(request_id, "attempt"), now_ms)
    return {ended.ending.rest_ms, failed.ending.rest_ms}


@pytest.mark.parametrize(
    ("sent", "seen", "stops", "rest_s"),
    [
        (b"7", "7", False, 7),
        (b"60", "60", False, 60),
        (b"61", "61", True, 61),
        (b"0", "0", False, 0),
        (b"0.4", "1", False, 0.4),
        (b"3600", "3600", True, 3_600),
        (b"99999999", "86400", True, 86_400),
        (b"9" * 400, "86400", True, 86_400),
        (b"-5", None, False, 0),
        (b"soon", None, False, 0),
        (b"1e3", None, False, 0),
        (b"nan", None, False, 0),
        (b"Mon, 01 Jan 1990 00:00:00 GMT", "0", False, 0),
        (b"Fri, 31 Dec 9999 23:59:59 GMT", "86400", True, 86_400),
        (b"Thu, 01 Foo 2026 00:00:00 GMT", None, False, 0),
        (b"\xff\xfe", None, False, 0),
    ],
)
@pytest.mark.parametrize("status", [429, 503, 529])
def test_F53_a_retry_after_is_clamped_for_the_client_and_told_to_the_sidecar(
    rig: Rig, status: int, sent: bytes, seen: str | None, stops: bool, rest_s: float
) -> None:
    rig.providers["p1"].respond = failing(status, b"retry-after: " + sent)
    response = rig.post(["p1"])
    assert response.status_code == status
    assert response.text == "no"
    assert response.headers.get("retry-after") == seen
    assert response.headers.get("x-should-retry") == ("false" if stops else None)
    # The request's log tells it as the client sees it, in whole seconds.
    assert rests_ms(rig, response) <= {int(rest_s * 1000), math.ceil(rest_s) * 1000}


def test_F53_a_date_is_told_as_the_seconds_until_then(rig: Rig) -> None:
    for days in (0, 1, 59, 60, 366, 800):
        until = datetime.now(UTC) + timedelta(days=days, seconds=40)
        date = format_datetime(until, usegmt=True).encode()
        rig.providers["p1"].respond = failing(429, b"Retry-After: " + date)
        response = rig.post(["p1"])
        wait_s = min((until - datetime.now(UTC)).total_seconds(), 86_400)
        assert abs(int(response.headers["retry-after"]) - wait_s) <= 2, days
        (rest_ms, *more) = rests_ms(rig, response)
        assert abs(rest_ms - wait_s * 1000) <= 2_000, days
        assert all(abs(other - rest_ms) <= 2_000 for other in more)


@pytest.mark.parametrize(
    ("sent", "seen", "stops"),
    [
        (b"250", "250", False),
        (b"60001", "60001", True),
        (b"9999999999", "86400000", True),
        (b"-1", None, False),
        (b"x", None, False),
    ],
)
def test_F53_milliseconds_are_clamped_too(
    rig: Rig, sent: bytes, seen: str | None, stops: bool
) -> None:
    rig.providers["p1"].respond = failing(500, b"retry-after-ms: " + sent)
    response = rig.post(["p1"])
    assert response.headers.get("retry-after-ms") == seen
    assert response.headers.get("x-should-retry") == ("false" if stops else None)


def test_F53_a_client_error_may_say_when_to_come_back_and_rests_nobody(rig: Rig) -> None:
    rig.providers["p1"].respond = failing(403, b"retry-after: -1", b"x-should-retry: true")
    response = rig.post(["p1"])
    assert "retry-after" not in response.headers
    assert response.headers["x-should-retry"] == "true"
    assert rests_ms(rig, response) == {0}


def test_F53_what_a_good_answer_says_of_retries_is_left_alone(rig: Rig) -> None:
    rig.providers["p1"].respond = failing(200, b"retry-after: -5", b"content-type: text/plain")
    response = rig.post(["p1"])
    assert response.headers["retry-after"] == "-5"
    ended = log_codec.decode_request_ended(rig.log(response.headers["x-request-id"]), 0)
    assert ended.ending.rest_ms == 0


@pytest.mark.parametrize("status", [429, 503, 529])
def test_F53_envoy_does_not_sleep_on_a_retry_after(rig: Rig, status: int) -> None:
    rig.providers["p1"].respond = failing(status, b"retry-after: 30", b"retry-after-ms: 30000")
    rig.providers["p2"].respond = answer(b"{}")
    began = time.monotonic()
    assert rig.post(["p1", "p2"]).status_code == 200
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_F53_a_redirect_is_not_followed_and_the_next_target_is_asked(rig: Rig, status: int) -> None:
    location = b"location: http://127.0.0.1:%d/elsewhere" % rig.providers["p3"].port
    rig.providers["p1"].respond = failing(status, location)
    response = rig.post(["p1", "p2"])
    assert response.status_code == 200
    assert [len(rig.providers[name].requests) for name in ("p1", "p2", "p3")] == [1, 1, 0]
    failed = log_codec.decode_attempt_failed(
        rig.log(response.headers["x-request-id"], "attempt"), 0
    )
    assert failed.ending.redirected


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("status", [302, 304])
@pytest.mark.parametrize("body", [b"", b"<a href='http://evil.test/'>here</a>"])
def test_F53_a_redirect_never_reaches_a_client(
    rig: Rig, path: str, status: int, body: bytes
) -> None:
    """SDKs follow them, and take the caller's key along."""
    body = body * (status != 304)
    location = b"location: http://evil.test/"
    rig.providers["p1"].respond = failing(status, location, b"content-type: text/html", body=body)
    response = rig.post(["p1"], path)
    assert response.status_code == 502
    assert "location" not in response.headers
    assert "evil" not in response.text
    error = response.json()["error"]
    assert error["metadata"]["code"] == "no_healthy_target"
    if path == "/v1/messages":
        assert error["type"] == "api_error"
    ended = log_codec.decode_request_ended(rig.log(response.headers["x-request-id"]), 0)
    assert ended.ending.status == 502
    assert not ended.ending.client_gone


@pytest.mark.parametrize("claimed", [b"x: 1", b"x-tw-translated: 1"])
def test_an_answer_that_was_to_be_translated_and_was_not_is_an_error(
    rig: Rig, claimed: bytes
) -> None:
    """A request that waited while its policy began to translate: its filters are older."""
    document = b'{"type":"message"}'
    rig.providers["p1"].respond = failing(
        200, b"content-type: application/json", claimed, body=document
    )
    response = rig.post(["p1"], metadata={"caller": "openai"})
    assert response.status_code == 502
    assert log_codec.decode_request_ended(rig.log(response.headers["x-request-id"]), 0).ending.ours
    assert 'message"' not in response.text.replace('"message":', "")
    assert response.json()["error"]["code"] == "no_healthy_target"
    rig.providers["p1"].respond = failing(400, claimed)
    response = rig.post(["p1"], metadata={"caller": "openai"})
    assert (response.status_code, response.text) == (400, "no")
    assert "x-tw-translated" not in response.headers
    ended = log_codec.decode_request_ended(rig.log(response.headers["x-request-id"]), 0)
    assert not ended.ending.ours


def test_an_answer_that_the_sidecar_could_not_be_asked_about_may_be_billed(tmp_path: Path) -> None:
    foreign = '{dialect: anthropic, base_url: "http://127.0.0.1:PORT"}'
    rig = start_rig_in(tmp_path, {"p1": PLAIN, "foreign": foreign})
    try:  # nobody listens for answers here
        wish = {"set": {"x-tw-translated": "1"}, "metadata": {"caller": "openai"}}
        response = rig.post(["p1"], **wish)
        assert response.status_code == 503
        assert "not sent" not in response.json()["error"]["message"]
        assert len(rig.providers["p1"].requests) == 1
        ending = log_codec.decode_request_ended(rig.log(response.headers["x-request-id"]), 0).ending
        assert ending.ours
        assert not any((ending.connect_failed, ending.timed_out, ending.reset))
    finally:
        rig.end()
