"""Providers through the real Envoy: failover, TLS. What a provider gets to see."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority, server_context
from envoy_rig import PLAIN, Received, Rig, answer

from extproc.envoy.clusters import DEAD_CLUSTER, MAX_ATTEMPTS, clusters
from extproc.envoy.settings import GatewaySettings
from extproc.policy.compiler import compile_folder
from extproc.policy.snapshot import PolicySnapshot

CLOSED = '{endpoints: {openai: "http://127.0.0.1:9/v1", anthropic: "http://127.0.0.1:9"}}'
NO_HOST = '{dialect: openai, base_url: "http://no-such-host.invalid/v1"}'


# -- failover -------------------------------------------------------------------------------------


async def reset(_: Received, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def hang(_: Received, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(1.0)
    writer.close()


@pytest.mark.parametrize(
    "failure", [answer(status=s) for s in (408, 429, 500, 503, 529)] + [reset, hang]
)
def test_F53_the_next_target_answers_when_one_cannot(rig, failure: Any) -> None:
    rig.providers["p1"].respond = failure
    response = rig.post(["p1", "p2"], ms=200)
    assert response.status_code == 200
    assert response.headers["x-tfy-resolved-model"] == "p2/m-p2"
    attempt = rig.log(response.headers["x-request-id"], "attempt")
    assert attempt.request.request_headers["x-envoy-attempt-count"] == "1"


@pytest.mark.parametrize("status", [400, 401, 404, 422])
def test_F53_an_answer_to_the_callers_mistake_is_not_retried(rig, status: int) -> None:
    rig.providers["p1"].respond = answer(b'{"error": 1}', status)
    response = rig.post(["p1", "p2"])
    assert (response.status_code, response.content) == (status, b'{"error": 1}')
    assert rig.providers["p2"].requests == []


def test_a_chain_ends_with_the_last_targets_own_answer(rig) -> None:
    for number, provider in enumerate(rig.providers.values()):
        provider.respond = answer(b'{"who": %d}' % number, 503)
    response = rig.post(["p1", "p2", "p3"])
    assert (response.status_code, response.json()) == (503, {"who": 2})
    assert [len(provider.requests) for provider in rig.providers.values()] == [1, 1, 1]


def test_F52_what_is_cut_after_its_first_byte_is_not_retried(rig) -> None:
    async def cut(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n")
        writer.write(b"transfer-encoding: chunked\r\n\r\n6\r\ndata: \r\n")
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.transport.abort()

    rig.providers["p1"].respond = cut
    with pytest.raises(Exception, match=r"peer closed|disconnected"):
        rig.post(["p1", "p2"])
    assert rig.providers["p2"].requests == []


def test_a_later_attempt_starts_from_the_first_ones_body_and_clean_headers(rig) -> None:
    for name in ("p1", "p2"):
        rig.providers[name].respond = answer(status=503)
    assert rig.post(["p1", "p2", "p3"], body="x" * 3_000_000).status_code == 200
    (first,) = rig.providers["p1"].requests
    assert first.body == b"x" * 3_000_000
    for number, name in ((2, "p2"), (3, "p3")):
        (received,) = rig.providers[name].requests
        assert received.body == b"attempt %d" % number
        assert received.line == f"POST /later/{number} HTTP/1.1"
        assert received.header("host") == "later.test"
        assert received.header("content-length") == "9"
    assert [body for _, _, body in rig.attempts] == [b"x" * 3_000_000] * 2
    assert [cluster for _, cluster, _ in rig.attempts] == [
        next(iter(rig.target(name).clusters.values())) for name in ("p2", "p3")
    ]


def test_the_first_attempt_asks_the_sidecar_nothing_more(rig) -> None:
    assert rig.post(["p1"]).status_code == 200
    assert rig.attempts == []


@pytest.fixture(scope="module")
def holes(start_rig) -> Any:
    return start_rig({"p1": PLAIN, "closed": CLOSED, "nohost": NO_HOST})


def test_a_refused_connection_and_a_host_without_address_are_left_at_once(holes) -> None:
    for chain in (["closed", "p1"], ["nohost", "p1"], ["nohost", "closed", "nohost", "p1"]):
        started = time.monotonic()
        response = holes.post(chain)
        assert response.status_code == 200, (chain, response.text)
        assert time.monotonic() - started < 1.0
        attempt = holes.log(response.headers["x-request-id"], "attempt")
        assert attempt.common_properties.response_flags.upstream_connection_failure


def test_a_chain_as_long_as_allowed_ends_and_one_more_is_no_error_of_envoy(holes) -> None:
    assert holes.post(["closed"] * (MAX_ATTEMPTS - 1) + ["p1"]).status_code == 200
    response = holes.post(["closed"] * (MAX_ATTEMPTS + 1) + ["p1"])
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "no_healthy_target"


# -- what a provider sees -------------------------------------------------------------------------


PRIVATE = {
    "authorization": "Bearer caller",
    "x-api-key": "caller",
    "api-key": "caller",
    "x-goog-api-key": "caller",
    "proxy-authorization": "caller",
    "cookie": "caller",
    "x-tfy-user-id": "alice",
    "x-tfy-metadata": "{}",
    "x-forwarded-for": "10.1.2.3",
    "x-tw-decided": "1",
    "x-envoy-upstream-rq-timeout-ms": "1",
    "x-envoy-max-retries": "9",
    "accept-encoding": "gzip",
}
NEEDED = {
    "host",
    "accept",
    "user-agent",
    "content-length",
    "x-request-id",
    "x-envoy-attempt-count",
    "accept-encoding",
}


def seen(rig: Rig, headers: dict[str, str]) -> Received:
    assert rig.post(["p1"], headers=headers).status_code == 200
    (received,) = rig.providers["p1"].requests
    return received


def test_a_provider_sees_no_key_no_identity_and_nothing_of_ours(rig) -> None:
    received = seen(rig, PRIVATE)
    assert {name for name, _ in received.headers} == NEEDED
    assert received.header("accept-encoding") == "identity"
    assert received.header("x-envoy-attempt-count") == "1"


def test_a_provider_sees_nothing_of_the_proxies_before_us(rig) -> None:
    names = ("forwarded", "via", "x-real-ip", "x-forwarded-host", "x-forwarded-port")
    received = seen(rig, dict.fromkeys(names, "10.1.2.3"))
    assert {name for name, _ in received.headers} == NEEDED


# -- TLS ------------------------------------------------------------------------------------------


HOSTS = {"address": "127.0.0.1", "wild": "api.tw.localhost"}


@pytest.fixture(scope="module")
def secured_rig(start_rig, tmp_path_factory) -> Rig:
    folder = tmp_path_factory.mktemp("tls")
    ours, foreign = Authority(folder, "ours"), Authority(folder, "foreign")
    files = {
        "good": ours.server("localhost"),
        "address": ours.server("127.0.0.1"),
        "wild": ours.server("*.tw.localhost"),
        "other": ours.server("other.test"),
        "foreign": foreign.server("localhost"),
        "expired": ours.server("localhost", expired=True),
    }
    contexts = {name: server_context(path) for name, path in files.items()}
    text = '{{dialect: openai, base_url: "https://{}:PORT/v1"}}'
    rig = start_rig(
        {"plain": PLAIN, **{name: text.format(HOSTS.get(name, "localhost")) for name in contexts}},
        options={name: {"ssl": context} for name, context in contexts.items()},
        ca_file=str(ours.file),
    )
    rig.contexts = contexts
    return rig


@pytest.fixture
def secured(secured_rig: Rig) -> Rig:
    secured_rig.forget()
    return secured_rig


@pytest.mark.parametrize("name", ["good", "address", "wild"])
def test_a_certificate_of_the_authority_for_the_name_is_accepted(secured, name: str) -> None:
    response = secured.post([name])
    assert response.status_code == 200, response.text
    (received,) = secured.providers[name].requests
    host = HOSTS.get(name, "localhost")
    assert received.header("host") == f"{host}:{secured.providers[name].port}"
    assert getattr(secured.contexts[name], "asked", None) == (None if name == "address" else host)


@pytest.mark.parametrize("name", ["other", "foreign", "expired"])
def test_a_certificate_that_proves_nothing_gets_no_byte(secured, name: str) -> None:
    response = secured.post([name])
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "no_healthy_target"
    assert secured.providers[name].requests == []
    assert secured.post([name, "plain"]).status_code == 200


# -- the generated resources ----------------------------------------------------------------------


def limits(rig: Rig, name: str) -> set[int]:
    (cluster,) = [c for c in clusters(rig.policy, rig.settings) if c["name"] == name]
    return {
        limit
        for threshold in cluster["circuit_breakers"]["thresholds"]
        for limit in (threshold[f"max_{what}"] for what in BROKEN_BY)
    }


BROKEN_BY = ("connections", "pending_requests", "requests", "retries")


def test_no_cluster_has_a_limit_that_streams_would_meet(rig) -> None:
    names = [cluster["name"] for cluster in clusters(rig.policy, rig.settings)]
    assert len(set(names)) == len(names)
    for name in names:
        if name != DEAD_CLUSTER:
            assert limits(rig, name) == {2**32 - 1}, name


def test_the_closed_port_has_no_limit_either(rig) -> None:
    assert limits(rig, DEAD_CLUSTER) == {2**32 - 1}


# -- MCP servers ----------------------------------------------------------------------------------


def test_an_mcp_server_is_asked_with_its_own_key() -> None:
    text = """
name: g
type: gateway-config
mcp_servers:
  docs: {url: "https://tools.example.com/mcp", credential: "env:DOCS_TOKEN"}
"""
    snapshot = compile_folder({"x.yaml": text.encode()}, 1, {"DOCS_TOKEN": "x"})
    assert isinstance(snapshot, PolicySnapshot)
    settings = GatewaySettings("127.0.0.1", 1, Path("/s"), Path("/c"))
    (server,) = [one for one in clusters(snapshot, settings) if one["name"] != DEAD_CLUSTER]
    assert server["transport_socket"]["typed_config"]["sni"] == "tools.example.com"
    (options,) = server["typed_extension_protocol_options"].values()
    injector, codec = options["http_filters"]
    assert injector["typed_config"]["credential"]["typed_config"]["header"] == "authorization"
    assert codec["name"] == "envoy.filters.http.upstream_codec"
