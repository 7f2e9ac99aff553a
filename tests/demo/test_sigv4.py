"""Against botocore's own signer."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from extproc.demo.answer import BadRequestError
from extproc.demo.sigv4 import SignedRequest, access_key_id, verify

URL = "http://127.0.0.1:9000/aws/bedrock/model/eu.anthropic.claude-v1%3A0/converse"


def signed(url: str = URL, body: bytes = b"{}", token: str | None = None) -> SignedRequest:
    request = AWSRequest("POST", url, data=body, headers={"content-type": "application/json"})
    request.headers["host"] = urlsplit(url).netloc
    SigV4Auth(Credentials("AKIDEXAMPLE", "secret", token), "bedrock", "eu-central-1").add_auth(
        request
    )
    headers = {name.lower(): str(value) for name, value in request.headers.items()}
    parts = urlsplit(url)
    return SignedRequest("POST", parts.path, parts.query, headers, body)


@pytest.mark.parametrize("url", [URL, URL + "?b=2&a=x%20y", URL.replace("%3A", "%3a~")])
@pytest.mark.parametrize("token", [None, "session"])
def test_what_botocore_signs_is_verified(url: str, token: str | None) -> None:
    verify(signed(url, token=token), "secret", datetime.now(UTC))


def test_whose_it_is() -> None:
    assert access_key_id(signed().headers["authorization"]) == "AKIDEXAMPLE"
    assert access_key_id("Bearer abc") == ""


def refused(request: SignedRequest, secret: str = "secret", late_s: int = 0) -> str:
    with pytest.raises(BadRequestError) as caught:
        verify(request, secret, datetime.now(UTC) + timedelta(seconds=late_s))
    assert caught.value.status == 403
    return str(caught.value)


def test_every_change_is_refused() -> None:
    good = signed()
    assert "does not match" in refused(good, "another")
    assert "does not match" in refused(dataclasses.replace(good, body=b"{} "))
    assert "does not match" in refused(dataclasses.replace(good, raw_path="/elsewhere"))
    assert "does not match" in refused(dataclasses.replace(good, query="a=1"))
    assert "expired" in refused(good, late_s=400)
    assert "expired" in refused(good, late_s=-400)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("authorization", "", "Missing"),
        ("authorization", "AWS4-HMAC-SHA256 nonsense", "form"),
        ("x-amz-date", "yesterday", "X-Amz-Date"),
        ("x-amz-date", "20200101T000000Z", "scope"),
        ("x-amz-content-sha256", "0" * 64, "hash of the body"),
        ("host", "elsewhere", "does not match"),
    ],
)
def test_broken_headers_are_refused(name: str, value: str, words: str) -> None:
    good = signed()
    assert words in refused(dataclasses.replace(good, headers={**good.headers, name: value}))


def test_the_host_must_be_signed() -> None:
    good = signed()
    bad = good.headers["authorization"].replace(
        "SignedHeaders=content-type;host;", "SignedHeaders="
    )
    assert "Host" in refused(
        dataclasses.replace(good, headers={**good.headers, "authorization": bad})
    )
