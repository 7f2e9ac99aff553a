"""Key files of Google's service accounts: what is read, and what is said of those that are not."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.auth import jwt
from google_accounts import CLOUD, EMAIL, TokenEndpoint

from extproc.edge.google_key import MAX_KEY_FILE_BYTES, GoogleKeyError, read_google_key

CANARY = "canary-5d1f"


@pytest.fixture(scope="module")
def google() -> Iterator[TokenEndpoint]:
    endpoint = TokenEndpoint()
    yield endpoint
    endpoint.close()


@pytest.fixture(scope="module")
def document(google: TokenEndpoint) -> dict[str, Any]:
    return google.key_document()


def test_an_assertion_is_signed_and_asks_for_the_cloud(
    google: TokenEndpoint, document: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "gcp.json").write_text(json.dumps(document))
    key = read_google_key(tmp_path / "gcp.json")
    now_s = time.time()
    claims = jwt.decode(key.assertion(now_s), certs=google.public, audience=google.uri)
    assert (claims["iss"], claims["scope"]) == (EMAIL, CLOUD)
    assert (claims["iat"], claims["exp"]) == (int(now_s), int(now_s) + 3_600)


@pytest.mark.parametrize(
    "change",
    [
        {"type": "authorized_user"},
        {"type": None},
        {"client_email": None},
        {"token_uri": 7},
        {"token_uri": f"http://{CANARY}.test/token"},
        {"token_uri": "ftp://localhost/token"},
        {"token_uri": "http://[::1/token"},
        {"private_key": f"-----BEGIN PRIVATE KEY-----\n{CANARY}\n-----END PRIVATE KEY-----\n"},
        {"private_key": CANARY},
        {"private_key": None},
    ],
    ids=str,
)
def test_what_is_no_usable_key_is_refused_and_not_repeated(
    document: dict[str, Any], tmp_path: Path, change: dict[str, Any]
) -> None:
    (tmp_path / "gcp.json").write_text(json.dumps({**document, "private_key_id": CANARY, **change}))
    with pytest.raises(GoogleKeyError) as error:
        read_google_key(tmp_path / "gcp.json")
    assert CANARY not in str(error.value)
    assert error.value.__suppress_context__ or error.value.__context__ is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b'"x"',
        b"\xff\xfe",
        b'{"type": "service_account"}' + b" " * MAX_KEY_FILE_BYTES,
    ],
    ids=lambda data: repr(data[:10]),
)
def test_what_is_no_json_object_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "gcp.json").write_bytes(data)
    with pytest.raises(GoogleKeyError):
        read_google_key(tmp_path / "gcp.json")


def test_a_file_that_is_not_there_is_named_as_such(tmp_path: Path) -> None:
    with pytest.raises(GoogleKeyError, match="No such file"):
        read_google_key(tmp_path / "gcp.json")


@pytest.mark.parametrize("uri", ["https://oauth2.googleapis.com/token", "http://127.0.0.1:1/t"])
def test_assertions_go_out_encrypted_or_not_at_all(
    document: dict[str, Any], tmp_path: Path, uri: str
) -> None:
    (tmp_path / "gcp.json").write_text(json.dumps({**document, "token_uri": uri}))
    assert read_google_key(tmp_path / "gcp.json").token_uri == uri
