"""The public listener against clients that nobody trusts, and what it logs for settlement."""

from __future__ import annotations

import json
import socket
import ssl
import time

import httpx
import pytest
from certificates import Authority
from envoy_rig import PLAIN, Rig, answer, chunked

from extproc.edge.stream import MAX_MESSAGE_BYTES
from extproc.envoy.listener import _attempt_log, _request_log

CHAT = "/v1/chat/completions"


def raw(rig: Rig, data: bytes, seconds: float = 3.0) -> bytes:
    """What comes back for these bytes, up to the end of a JSON answer or of the connection."""
    address = ("127.0.0.1", rig.settings.listen_port)
    with socket.create_connection(address, timeout=seconds) as connection:
        connection.sendall(data)
        received = b""
        while not received.rstrip().endswith(b"}"):
            piece = connection.recv(65_536)
            if not piece:
                break
            received += piece
        return received


def request(*lines: bytes, body: bytes = b"") -> bytes:
    head = [b"POST /v1/chat/completions HTTP/1.1", b"host: x", *lines]
    return b"\r\n".join([*head, b"content-length: %d" % len(body), b"", body])


@pytest.mark.parametrize(
    "lines",
    [
        [b"x-tfy-user-id: a\0b"],
        [b"transfer-encoding: chunked"],
        [b"content-length: 5"],
        [b"a" * 70_000 + b": 1"],
        [b"x-%d: 1" % number for number in range(200)],
    ],
    ids=["nul", "two-framings", "two-lengths", "long", "many"],
)
def test_F15_F16_F17_malformed_heads_reach_nobody(rig, lines: list[bytes]) -> None:
    received = raw(rig, request(*lines))
    assert int(received.split()[1]) in (400, 431)
    assert rig.decided_headers == []


def test_F03_headers_with_underscores_reach_nobody(rig) -> None:
    """Neither the sidecar nor, in any spelling, the provider; they frame no body either."""
    names = (b"x_tfy_user_id", b"X-TFY_User-ID", b"content_length", b"transfer_encoding", b"_")
    body = json.dumps({"chain": ["p1"]}).encode()
    received = raw(rig, request(*(name + b": smuggled" for name in names), body=body))
    assert received.split()[1] == b"200"
    (seen,) = rig.decided_headers
    (sent,) = rig.providers["p1"].requests
    for headers in (seen, sent.headers):
        assert not [name for name in headers if "_" in name]
        assert "smuggled" not in str(headers)


@pytest.mark.parametrize("path", ["/v1%2fchat/completions", "/v1%5cchat/completions"])
def test_F21_escaped_slashes_are_refused(rig, path: str) -> None:
    assert raw(rig, f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode()).split()[1] == b"400"
    assert rig.decided_headers == []


def test_F21_sidecar_and_router_see_one_path(rig) -> None:
    response = httpx.post(
        rig.url + "//v1/./x/..//chat/completions?a=1", content=json.dumps({"chain": ["p1"]})
    )
    assert response.status_code == 200
    assert rig.decided_headers[0][":path"] == b"/v1/chat/completions?a=1"


def test_the_sidecar_reads_the_whole_body_at_once(rig) -> None:
    body = "x" * 3_000_000
    assert rig.post(["p1"], body=body).status_code == 200
    assert rig.providers["p1"].requests[0].body == body.encode()


def test_every_decided_request_is_logged_once_with_its_attempts(rig) -> None:
    rig.providers["p1"].respond = answer(status=503)
    response = rig.post(["p1", "p2"])
    request_id = response.headers["x-request-id"]
    entry = rig.log(request_id)
    assert entry.common_properties.stream_id == request_id
    assert entry.common_properties.upstream_request_attempt_count == 2
    assert entry.response.response_code.value == 200
    failed = rig.log(request_id, "attempt")
    assert failed.response.response_code.value == 503
    time.sleep(0.1)
    assert len(rig.entries(request_id)) == 1
    assert len(rig.entries(request_id, "attempt")) == 1


def test_what_was_not_let_go_is_not_logged(rig) -> None:
    undecided = rig.post(["p1"], metadata={"ok": False})
    refused = rig.post(["p1"], headers={"x-refuse": "1"})
    served = rig.post(["p1"])
    assert [a.status_code for a in (undecided, refused, served)] == [503, 429, 200]
    rig.log(served.headers["x-request-id"])
    assert rig.entries(undecided.headers["x-request-id"]) == []
    assert rig.entries(refused.headers["x-request-id"]) == []


def test_settlement_comes_with_the_answers_end(rig) -> None:
    rig.providers["p1"].respond = chunked([b"data: 1\n\n"] * 3, pause_s=0.02)
    response = rig.post(["p1"])
    ended = time.monotonic()
    rig.log(response.headers["x-request-id"])
    assert time.monotonic() - ended < 0.5


@pytest.mark.parametrize("verdict", [{"ok": False}, {"ok": "true"}, {"ok": 1}, {"ok": None}, {}])
def test_F31_only_the_sidecars_true_passes_the_guard(rig, verdict: dict[str, object]) -> None:
    response = httpx.post(rig.url + CHAT, content=json.dumps({"metadata": verdict}))
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "internal_error"


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_the_listener_serves_tls(start_rig, tmp_path) -> None:
    authority = Authority(tmp_path, "ours")
    pem = str(authority.server("localhost"))
    rig = start_rig({"p1": PLAIN}, tls_certificate=pem, tls_key=pem)
    url = f"https://localhost:{rig.settings.listen_port}{CHAT}"
    body = json.dumps({"chain": ["p1"]})
    trusting = ssl.create_default_context(cafile=str(authority.file))
    assert httpx.post(url, content=body, verify=trusting).status_code == 200
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.post(url, content=body)
    with pytest.raises(httpx.TransportError):
        httpx.post(rig.url + CHAT, content=body)
    old = ssl.create_default_context(cafile=str(authority.file))
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(httpx.ConnectError):
        httpx.post(url, content=body, verify=old)


def test_a_burst_of_log_entries_waits_for_the_sidecar_instead_of_being_dropped() -> None:
    for logger in (_request_log(), _attempt_log()):
        common = logger["typed_config"]["common_config"]
        # One entry is some 2 KB; what waits is sent as one message, which we must be able to take.
        assert 5_000 * 2_000 <= common["buffer_size_bytes"] < MAX_MESSAGE_BYTES
