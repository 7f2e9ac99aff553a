"""Configuration delivered to the real Envoy: taken, refused, put back, and felt by nobody."""

from __future__ import annotations

import asyncio
import copy
import json
import signal
import time
from typing import Any

import httpx
import pytest
from envoy_rig import PLAIN, Rig, answer, chunked, compiled, policy_text

from extproc.envoy.delivery import DeliveryRejectedError, EnvoyUnreachableError, FileDelivery
from extproc.envoy.process import start_envoy
from extproc.envoy.render import render


def resources_for(rig: Rig, *providers: str) -> dict[str, list[dict[str, Any]]]:
    """What a policy with these of the rig's providers needs. The rig decides by it from now on."""
    texts = {name: PLAIN.replace("PORT", str(rig.providers[name].port)) for name in providers}
    rig.policy = compiled(policy_text(texts))
    return render(rig.policy, rig.settings)


@pytest.fixture
def fresh(start_rig) -> Rig:
    return start_rig(dict.fromkeys(("p1", "p2", "p3"), PLAIN))


def test_a_new_provider_serves_as_soon_as_it_is_delivered(fresh) -> None:
    fresh.run(fresh.delivery.deliver(resources_for(fresh, "p1")))
    fresh.run(fresh.delivery.prune(resources_for(fresh, "p1")))
    assert "p_p2" not in fresh.admin("/clusters")
    started = time.monotonic()
    fresh.run(fresh.delivery.deliver(resources_for(fresh, "p1", "p2")))
    assert time.monotonic() - started < 1.0
    assert fresh.post(["p2"]).status_code == 200


def test_the_same_again_writes_nothing(fresh) -> None:
    folder = fresh.settings.config_folder
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    fresh.run(fresh.delivery.deliver(resources_for(fresh, "p1", "p2", "p3")))
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def _spoil(kind: str, resources: dict[str, list[dict[str, Any]]]) -> None:
    """Makes one resource say what Envoy can read but not do."""
    if kind == "cds":
        tls = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
        authority = {"validation_context": {"trusted_ca": {"filename": "/no/such/file"}}}
        config = {"@type": tls, "common_tls_context": authority}
        socket = {"name": "envoy.transport_sockets.tls", "typed_config": config}
        resources["cds"][1]["transport_socket"] = socket
    elif kind == "rds":
        match = {"safe_regex": {"regex": "(unclosed"}}
        resources["rds"][0]["virtual_hosts"][0]["routes"][0]["match"] = match
    else:
        resources["lds"][0]["listener_filters"] = [{"name": "no.such.filter"}]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("cds", "/no/such/file"), ("rds", r"missing \)"), ("lds", r"no\.such\.filter")],
)
def test_what_envoy_refuses_is_put_back_with_its_reason(fresh, kind: str, reason: str) -> None:
    good = resources_for(fresh, "p1", "p2", "p3")
    bad = copy.deepcopy(good)
    _spoil(kind, bad)
    before = {path: path.read_bytes() for path in fresh.settings.config_folder.glob("?ds.json")}
    with pytest.raises(DeliveryRejectedError, match=reason):
        fresh.run(fresh.delivery.deliver(bad))
    assert {path: path.read_bytes() for path in before} == before
    assert fresh.post(["p1"]).status_code == 200
    good["cds"][1]["connect_timeout"] = "7s"
    fresh.run(fresh.delivery.deliver(good))  # and the next good one is taken
    assert fresh.post(["p3"]).status_code == 200


@pytest.mark.parametrize("kind", ["cds", "rds", "lds"])
def test_a_field_that_envoy_does_not_know_is_refused(fresh, kind: str) -> None:
    bad = copy.deepcopy(resources_for(fresh, "p1", "p2", "p3"))
    bad[kind][0]["no_such_field"] = 1
    path = fresh.settings.config_folder / f"{kind}.json"
    before = path.read_bytes()
    with pytest.raises(DeliveryRejectedError, match=f"Envoy refused {kind}"):
        fresh.run(fresh.delivery.deliver(bad))
    assert path.read_bytes() == before
    assert fresh.post(["p1"]).status_code == 200


def test_a_running_stream_does_not_feel_that_its_cluster_goes(fresh) -> None:
    pieces = [b"data: %d\n\n" % number for number in range(10)]
    fresh.providers["p1"].respond = chunked(pieces, pause_s=0.08)
    received = b""
    body = json.dumps({"chain": ["p1"]})
    with httpx.stream("POST", fresh.url + "/v1/chat/completions", content=body) as response:
        for number, piece in enumerate(response.iter_raw()):
            received += piece
            if number == 1:
                without = resources_for(fresh, "p2", "p3")
                fresh.run(fresh.delivery.deliver(without))
                fresh.run(fresh.delivery.prune(without))
                assert "p_p1" not in fresh.admin("/config_dump?resource=dynamic_active_clusters")
    assert received == b"".join(pieces)


def test_no_request_fails_while_configurations_change(fresh) -> None:
    everything = resources_for(fresh, "p1", "p2", "p3")
    fewer = resources_for(fresh, "p1", "p2")
    resources_for(fresh, "p1", "p2", "p3")

    async def change() -> None:
        for number in range(6):
            changed = copy.deepcopy(everything if number % 2 else fewer)
            changed["rds"][0]["virtual_hosts"][0]["name"] = f"gateway {number}"
            await fresh.delivery.deliver(changed)
            await asyncio.sleep(0.05)

    work = asyncio.run_coroutine_threadsafe(change(), fresh.loop)
    statuses = []
    while not work.done():
        statuses.append(fresh.post(["p1", "p2"]).status_code)
    work.result()
    assert set(statuses) == {200}
    assert len(statuses) > 5


def test_an_envoy_that_is_gone_is_said_so_and_nothing_changes(fresh, monkeypatch) -> None:
    monkeypatch.setattr("extproc.envoy.delivery.CONFIRM_TIMEOUT_S", 0.3)
    path = fresh.settings.config_folder / "cds.json"
    before = path.read_bytes()
    fresh.run(fresh.stop())
    resources = resources_for(fresh, "p1")
    resources["cds"].pop()
    resources["cds"][0]["connect_timeout"] = "7s"
    with pytest.raises(EnvoyUnreachableError, match="cannot be asked"):
        fresh.run(fresh.delivery.deliver(resources))
    assert path.read_bytes() == before


def test_an_envoy_that_is_just_starting_again_is_waited_for(fresh) -> None:
    fresh.run(fresh.stop())
    resources = resources_for(fresh, "p1")
    resources["cds"][0]["connect_timeout"] = "7s"
    work = asyncio.run_coroutine_threadsafe(fresh.delivery.deliver(resources), fresh.loop)
    time.sleep(0.3)
    fresh.envoy = fresh.run(start_envoy(fresh.settings, fresh.root / "log", concurrency=1))
    work.result(10)
    assert fresh.post(["p1"]).status_code == 200


def test_a_sidecar_that_starts_beside_a_running_envoy_delivers_too(fresh) -> None:
    second = FileDelivery(fresh.settings)
    second.write_first(resources_for(fresh, "p1"))
    fresh.run(second.deliver(resources_for(fresh, "p1", "p2")))
    assert fresh.post(["p2"]).status_code == 200


def test_sigterm_ends_envoy_well(fresh) -> None:
    fresh.providers["p1"].respond = answer()
    assert fresh.post(["p1"]).status_code == 200
    fresh.envoy.send_signal(signal.SIGTERM)
    assert fresh.run(fresh.envoy.wait()) == 0
