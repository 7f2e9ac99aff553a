"""Reloads that go wrong change nothing; whatever way a file is saved, it is seen."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import httpx
import pytest
from gateway import Gateway, base_policy, chat

RULE = """
name: r
type: gateway-rate-limit-config
rules:
  - {id: LIMIT, limit: {requests: 1000000, window: 1h}}
"""


def wait_for(what: Callable[[], object], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def gateway(start_gateway) -> Gateway:
    return start_gateway(base_policy(rule=RULE))


def limits(gateway: Gateway) -> list[str]:
    return gateway.policy_report()["limits"]


def test_F74_what_cannot_be_loaded_keeps_the_last_good_generation(gateway: Gateway) -> None:
    path = gateway.policy / "rule.yaml"
    bad: dict[str, Callable[[], object]] = {
        "syntax": lambda: path.write_text("rules: ["),
        "unknown key": lambda: path.write_text(RULE.replace("limit:", "limti:")),
        "duplicate key": lambda: path.write_text(RULE + "name: again\n"),
        "empty": lambda: path.write_text(""),
        "no file": lambda: path.rename(path.with_suffix(".away")) and path.symlink_to("nowhere"),
        "too large": lambda: path.unlink() or path.write_text("#" * 2_000_000),
        "not text": lambda: path.write_bytes(b"\xff\xfe"),
    }
    for name, spoil in bad.items():
        refused = gateway.metric("tokenweir_policy_load_errors_total")
        spoil()
        wait_for(lambda r=refused: gateway.metric("tokenweir_policy_load_errors_total") > r)
        report = gateway.policy_report()
        assert report["generation"] == 1, name
        assert report["problems"], name
        assert gateway.post().status_code == 200
    path.write_text(RULE.replace("LIMIT", "healed"))
    wait_for(lambda: gateway.generation() == 2)
    assert limits(gateway) == ["healed/requests"]
    assert gateway.policy_report()["problems"] == []


def test_F74_every_way_of_saving_is_seen(gateway: Gateway) -> None:
    path = gateway.policy / "rule.yaml"

    def in_place() -> None:
        path.write_text(RULE.replace("LIMIT", "place"))

    def renamed() -> None:
        gateway.save_policy("rule.yaml", RULE.replace("LIMIT", "moved"))

    def same_size_and_time() -> None:
        before = path.stat()
        path.write_text(RULE.replace("LIMIT", "times"))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    def symlink_swap() -> None:
        other = gateway.policy / "v2"
        other.write_text(RULE.replace("LIMIT", "links"))
        link = gateway.policy / "link"
        link.symlink_to(other)
        os.replace(link, path)

    ways = {"place": in_place, "moved": renamed, "times": same_size_and_time, "links": symlink_swap}
    for name, save in ways.items():
        saved = time.monotonic()
        save()
        wait_for(lambda n=name: limits(gateway) == [f"{n}/requests"])
        assert time.monotonic() - saved < 1.5


def test_a_new_provider_and_model_need_no_restart(gateway: Gateway) -> None:
    text = """
name: another
type: gateway-load-balancing-config
rules:
  - {id: another, weight: 1, target: {provider: openai, model: gpt-4o}}
"""
    body = chat(model="another")
    assert gateway.post(body).status_code == 404
    gateway.save_policy("another.yaml", text)
    wait_for(lambda: gateway.post(body).status_code == 200)
    transport = httpx.HTTPTransport(uds=str(gateway.state / "run" / "admin.sock"))
    with httpx.Client(transport=transport) as admin:
        stats = admin.get("http://envoy/stats?filter=update_rejected").text
    assert all(line.endswith(": 0") for line in stats.splitlines())
