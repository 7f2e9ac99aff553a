"""What an answer says in its headers, and what only a decided request may reach."""

from __future__ import annotations

import asyncio

import httpx
from envoy_rig import Received

from extproc.envoy.clusters import DEAD_CLUSTER
from extproc.envoy.routes import route_configuration
from extproc.values.dialect import OPERATION_BY_PATH
from extproc.values.wire_names import ANSWER_HEADERS, DECIDED_HEADER


async def boastful(_: Received, writer: asyncio.StreamWriter) -> None:
    """A provider that tells about its account, and says what is ours to say."""
    headers = [f"{name}: provider" for name in ANSWER_HEADERS.values()]
    headers += ["set-cookie: a=b", "openai-organization: acme", "server: cloudflare", "x-own: 1"]
    head = "\r\n".join(["HTTP/1.1 200 OK", *headers, "content-length: 2", "", ""])
    writer.write(head.encode() + b"{}")


def test_answers_say_what_the_sidecar_says(rig) -> None:
    rig.providers["p1"].respond = boastful
    said = {key: f"value of {key}" for key in ANSWER_HEADERS}
    response = rig.post(["p1"], metadata=said)
    for key, header in ANSWER_HEADERS.items():
        assert response.headers.get_list(header) == [f"value of {key}"]


def test_where_we_say_nothing_the_providers_word_is_gone_too(rig) -> None:
    rig.providers["p1"].respond = boastful
    response = rig.post(["p1"])
    assert set(response.headers) == {
        "x-tfy-policy-generation",
        "x-tfy-resolved-model",
        "x-request-id",
        "server",
        "x-own",
        "content-length",
        "date",
    }


def test_F10_no_client_can_claim_to_be_decided(rig) -> None:
    """Nor can it choose retries, timeouts or the request's id."""
    headers = {
        DECIDED_HEADER: "1",
        "x-envoy-max-retries": "5",
        "x-envoy-upstream-rq-per-try-timeout-ms": "1",
        "x-envoy-attempt-count": "7",
        "x-request-id": "mine",
    }
    response = rig.post(["p1"], headers=headers)
    assert response.status_code == 200
    assert response.headers["x-request-id"] != "mine"
    (seen,) = rig.decided_headers
    assert not {DECIDED_HEADER, *(name for name in seen if name.startswith("x-envoy-"))} & (
        set(seen) - {"x-envoy-external-address"}
    )
    refused = httpx.get(rig.url + "/anything", headers={DECIDED_HEADER: "1"})
    assert refused.status_code == 404
    assert len(rig.providers["p1"].requests) == 1


def test_F08_a_header_named_by_connection_is_missing_not_hidden(rig) -> None:
    headers = {"connection": "x-tfy-user-id", "x-tfy-user-id": "alice"}
    assert rig.post(["p1"], headers=headers).status_code == 200
    assert "x-tfy-user-id" not in rig.decided_headers[0]


def test_only_one_route_leads_to_providers(rig) -> None:
    (host,) = route_configuration(rig.policy)["virtual_hosts"]
    decided, *waiting, unknown = host["routes"]
    assert decided["match"]["headers"] == [{"name": DECIDED_HEADER, "present_match": True}]
    assert {route["match"]["path"] for route in waiting} == set(OPERATION_BY_PATH)
    assert all(route["route"] == {"cluster": DEAD_CLUSTER} for route in waiting)
    assert unknown["direct_response"] == {"status": 404}
