"""Envoy's own answers: JSON of the caller's dialect, whatever went wrong, and never around ours."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import httpx
import pytest
from envoy_rig import Received

PATHS = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages?beta=true"}


def error_of(response: httpx.Response, dialect: str) -> dict[str, Any]:
    """The error object, after a look at everything that every refusal has."""
    assert response.headers["content-type"] == "application/json"
    document = response.json()
    error = document["error"]
    request_id = response.headers["x-request-id"]
    assert error["metadata"]["request_id"] == request_id
    if dialect == "anthropic":
        assert (document["type"], document["request_id"]) == ("error", request_id)
    else:
        assert (error["type"], error["param"]) == (error["code"], None)
    retry = response.headers.get("x-should-retry")
    assert retry == (None if error["metadata"]["retryable"] else "false")
    return error


@pytest.mark.parametrize("dialect", PATHS)
def test_a_body_above_32_mib_is_413(rig, dialect: str) -> None:
    response = httpx.post(rig.url + PATHS[dialect], content=b" " * (33 * 2**20), timeout=20)
    assert response.status_code == 413
    error = error_of(response, dialect)
    assert error["metadata"]["code"] == "request_too_large"
    assert response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("dialect", PATHS)
def test_no_target_that_connects_is_503(rig, dialect: str) -> None:
    async def reset(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    rig.providers["p1"].respond = reset
    response = rig.post(["p1"], path=PATHS[dialect])
    assert response.status_code == 503
    error = error_of(response, dialect)
    assert error["metadata"]["code"] == "no_healthy_target"
    assert error["type"] == ("overloaded_error" if dialect == "anthropic" else "no_healthy_target")


@pytest.mark.parametrize("dialect", PATHS)
def test_no_target_in_time_is_504(rig, dialect: str) -> None:
    async def hang(_: Received, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(1)
        writer.close()

    rig.providers["p1"].respond = hang
    response = rig.post(["p1"], path=PATHS[dialect], ms=100)
    assert response.status_code == 504
    assert error_of(response, dialect)["metadata"]["code"] == "no_healthy_target"


@pytest.mark.parametrize(
    ("path", "dialect"),
    [("/v1/files", "openai"), ("/v1/chat/completions/", "openai"), ("/x/messages", "anthropic")],
)
def test_F21_a_path_without_a_route_is_404(rig, path: str, dialect: str) -> None:
    body = json.dumps({"metadata": {"ok": True}})  # the sidecar would have said so before
    for method in ("POST", "DELETE"):
        response = httpx.request(method, rig.url + path, content=body)
        assert response.status_code == 404
        assert error_of(response, dialect)["metadata"]["code"] == "not_found"


@pytest.mark.parametrize("dialect", PATHS)
def test_F31_the_guards_refusal_is_our_503_and_never_a_403(rig, dialect: str) -> None:
    response = rig.post(["p1"], path=PATHS[dialect], metadata={"ok": False})
    assert response.status_code == 503
    assert error_of(response, dialect)["metadata"]["code"] == "internal_error"
    assert rig.providers["p1"].requests == []


def test_what_is_said_to_an_mcp_server_is_answered_as_json_rpc(rig) -> None:
    undecided = rig.post(["p1"], path="/mcp/docs", metadata={"ok": False})
    long = httpx.post(f"{rig.url}/mcp/docs", content=b" " * (33 * 2**20), timeout=20)
    for response, status, code in (
        (undecided, 503, "internal_error"),
        (long, 413, "request_too_large"),
    ):
        assert response.status_code == status
        document = response.json()
        assert (document["jsonrpc"], document["id"]) == ("2.0", None)
        assert document["error"]["code"] == -32000
        assert document["error"]["data"]["code"] == code
        assert document["error"]["data"]["request_id"] == response.headers["x-request-id"]


def test_F47_the_sidecars_own_refusal_is_not_wrapped(rig) -> None:
    for path in PATHS.values():
        response = rig.post(["p1"], path=path, headers={"x-refuse": "1"})
        assert (response.status_code, response.content) == (429, b'{"error":{"code":"mine"}}')


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (b"GET /v1/models HTTP/1.0\r\n\r\n", 426),
        (b"GET /v1/models HTTP/1.1\r\n\r\n", 400),
        (
            b"GET /v1/models HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\n"
            b"connection: upgrade\r\n\r\n",
            403,
        ),
    ],
)
def test_F20_refusals_of_the_protocol_are_json_too(rig, lines: bytes, status: int) -> None:
    with socket.create_connection(("127.0.0.1", rig.settings.listen_port), 5) as connection:
        connection.sendall(lines)
        answer = b""
        while not answer.endswith(b"}\n") and (piece := connection.recv(65536)):
            answer += piece
    assert int(answer.split()[1]) == status
    assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"]["code"] == "invalid_request"


def test_a_providers_error_is_its_own(rig) -> None:
    async def refuse(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 404 X\r\ncontent-type: text/html\r\ncontent-length: 4\r\n\r\n<p/>")

    rig.providers["p1"].respond = refuse
    response = rig.post(["p1"])
    assert (response.status_code, response.text) == (404, "<p/>")
