"""What an answer says in its headers, and what only a decided request may reach."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest
from envoy_rig import Received

from extproc.envoy.clusters import DEAD_CLUSTER
from extproc.envoy.routes import route_configuration
from extproc.policy.compiler import compile_folder
from extproc.policy.snapshot import PolicySnapshot
from extproc.values.dialect import MCP_PREFIX, OPERATION_BY_PATH
from extproc.values.wire_names import ANSWER_HEADERS, DECIDED_HEADER, MCP_CALLER


async def boastful(_: Received, writer: asyncio.StreamWriter) -> None:
    """A provider that says what is ours to say."""
    headers = [f"{name}: provider" for name in ANSWER_HEADERS.values()]
    headers += ["x-tfy-resolved-model: provider", "x-request-id: provider"]
    headers += ["server: cloudflare", "x-envoy-upstream-service-time: 5"]
    head = "\r\n".join(["HTTP/1.1 200 OK", *headers, "content-length: 2", "", ""])
    writer.write(head.encode() + b"{}")


def test_answers_say_what_the_sidecar_says(rig) -> None:
    rig.providers["p1"].respond = boastful
    said = {key: f"value of {key}" for key in ANSWER_HEADERS}
    response = rig.post(["p1"], metadata=said)
    for key, header in ANSWER_HEADERS.items():
        assert response.headers.get_list(header) == [f"value of {key}"]
    assert response.headers.get_list("x-tfy-resolved-model") == ["p1/m-p1"]
    assert response.headers.get_list("x-request-id") != ["provider"]


def test_what_has_no_value_has_no_header(rig) -> None:
    response = rig.post(["p1"])
    assert set(response.headers) & {*ANSWER_HEADERS.values()} == {"x-tfy-policy-generation"}
    assert response.headers["x-tfy-policy-generation"] == "7"
    assert not [name for name in response.headers if name.startswith("x-envoy-")]


def test_where_we_say_nothing_the_providers_word_is_gone_too(rig) -> None:
    rig.providers["p1"].respond = boastful
    response = rig.post(["p1"])
    assert "provider" not in response.headers.values()


def test_F10_no_client_can_claim_to_be_decided(rig) -> None:
    """Nor can it choose retries, timeouts or the request's id."""
    headers = {
        DECIDED_HEADER: "1",
        "X-TW-Anything": "1",
        "x-envoy-max-retries": "5",
        "x-envoy-upstream-rq-per-try-timeout-ms": "1",
        "x-envoy-attempt-count": "7",
        "x-request-id": "mine",
    }
    response = rig.post(["p1"], headers=headers)
    assert response.status_code == 200
    assert response.headers["x-request-id"] != "mine"
    (seen,) = rig.decided_headers
    internal = {name for name in seen if name.startswith(("x-tw-", "x-envoy-"))}
    assert internal <= {"x-envoy-external-address"}
    assert rig.providers["p1"].requests[0].header("x-envoy-attempt-count") == "1"
    for path in ("/anything", "/v1/models", "/v1/chat/completions", "/mcp/docs"):
        for claim in ("1", MCP_CALLER):
            assert httpx.get(rig.url + path, headers={DECIDED_HEADER: claim}).status_code >= 400
    assert len(rig.providers["p1"].requests) == 1


def test_F08_a_header_named_by_connection_is_missing_not_hidden(rig) -> None:
    headers = {"connection": "x-tfy-user-id", "x-tfy-user-id": "alice"}
    assert rig.post(["p1"], headers=headers).status_code == 200
    assert "x-tfy-user-id" not in rig.decided_headers[0]


@pytest.mark.parametrize("path", [*sorted(OPERATION_BY_PATH), "/mcp/docs", "/v1/files", "/"])
def test_a_verdict_without_a_way_leads_nowhere(rig, path: str) -> None:
    """Only the sidecar's header leads to providers, also when the guard is content."""
    body = json.dumps({"metadata": {"ok": True}})
    response = httpx.post(rig.url + path, content=body)
    known = path in OPERATION_BY_PATH or path.startswith(MCP_PREFIX)
    assert response.status_code == (503 if known else 404)
    error = response.json()["error"]
    about = error["data" if path.startswith(MCP_PREFIX) else "metadata"]
    assert about["code"] in ("no_healthy_target", "not_found")
    assert not any(provider.requests for provider in rig.providers.values())


def test_a_verdict_with_an_unknown_cluster_is_a_503(rig) -> None:
    groups = [{"name": "x", "clusters": [{"cluster_name": "no_such", "weight": 1}]}]
    response = rig.post(["p1"], metadata={"priority_groups": groups})
    assert response.status_code == 503
    assert response.json()["error"]["metadata"]["code"] == "no_healthy_target"


def test_a_verdict_without_groups_is_a_503(rig) -> None:
    response = rig.post(["p1"], metadata={"priority_groups": []})
    assert response.status_code == 503
    assert not any(provider.requests for provider in rig.providers.values())


def test_as_many_attempts_as_the_chain_is_long(rig) -> None:
    async def refuse(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n")

    for provider in rig.providers.values():
        provider.respond = refuse
    assert rig.post(["p1", "p2"]).status_code == 500
    assert [len(rig.providers[name].requests) for name in ("p1", "p2", "p3")] == [1, 1, 0]


def test_the_way_to_mcp_servers_is_patient_and_tries_nothing_again() -> None:
    snapshot = compile_folder({"x.yaml": b"name: g\ntype: gateway-config\n"}, 1, {})
    assert isinstance(snapshot, PolicySnapshot)
    (host,) = route_configuration(snapshot)["virtual_hosts"]
    first, second, *others = host["routes"]
    # Before the way to providers, which takes every decided request.
    (header,) = first["match"]["headers"]
    assert (header["name"], header["string_match"]) == (DECIDED_HEADER, {"exact": MCP_CALLER})
    assert second["name"] == "decided"
    assert "retry_policy" not in first["route"]
    assert (first["route"]["timeout"], first["route"]["idle_timeout"]) == ("0s", "3600s")
    assert first["request_headers_to_remove"] == second["request_headers_to_remove"]
    (undecided,) = [route for route in others if route["match"].get("prefix") == MCP_PREFIX]
    assert undecided["route"]["cluster"] == DEAD_CLUSTER
