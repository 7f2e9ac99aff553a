"""The variants with the real Envoy: each answers, and the governed one really governs."""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from extproc.policy.loader import load_folder
from extproc.policy.snapshot import PolicySnapshot
from loadtest import measure
from loadtest.bodies import http_request
from loadtest.processes import Processes, StartError
from loadtest.stack import POLICY, Stack, governed_metrics, wait_until_served

SECONDS = 0.2


@pytest.fixture(scope="module")
def started() -> Iterator[tuple[Stack, Processes]]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with tempfile.TemporaryDirectory(prefix="lt-", ignore_cleanup_errors=True) as folder:
        processes = Processes(Path(folder) / "logs")
        try:
            yield Stack(processes, Path(folder)), processes
        finally:
            processes.stop_all()
            for number, handler in before.items():
                signal.signal(number, handler)


def test_the_policy_of_the_load_is_the_full_one() -> None:
    policy = load_folder(POLICY, 1, {})
    assert isinstance(policy, PolicySnapshot), policy
    assert len(policy.limits) == 13
    assert len(list(policy.virtual_models["intent-fast"].all_targets)) == 3


@pytest.mark.parametrize("name", ["direct", "envoy", "envoy_buffer", "null_lean", "null_grpcio"])
def test_what_is_compared_with_serves_the_load(name: str, started) -> None:
    stack, processes = started
    start = {
        "direct": stack.direct,
        "envoy": stack.envoy_alone,
        "envoy_buffer": lambda: stack.envoy_alone(buffer=True),
        "null_lean": lambda: stack.null_ext_proc("lean"),
        "null_grpcio": lambda: stack.null_ext_proc("grpcio"),
    }[name]
    variant = start()
    assert variant.name == name
    assert measure.saturate(variant, SECONDS, processes).valid


def test_the_always_allow_sidecar_serves_every_kind_of_load(started) -> None:
    stack, processes = started
    variant = stack.allow()
    for load in (measure.saturate, measure.body_200kb, measure.streaming):
        item = load(variant, SECONDS, processes)
        assert item.valid, item


def test_the_governed_gateway_decides_and_settles_the_load(started, monkeypatch) -> None:
    stack, processes = started
    variant = stack.governed()
    counts = 0
    for load in (measure.saturate, measure.body_200kb, measure.streaming):
        item = load(variant, SECONDS, processes)
        assert item.valid, item
        assert item.latency is not None
        counts += item.latency.count
    deadline = time.monotonic() + 5
    metrics = governed_metrics(variant)
    while metrics["tokenweir_settled_total"] < metrics["tokenweir_admitted_total"]:
        assert time.monotonic() < deadline, metrics
        time.sleep(0.05)
        metrics = governed_metrics(variant)
    assert metrics["tokenweir_admitted_total"] >= counts
    assert metrics["tokenweir_internal_errors_total"] == 0
    # A refusal is no load: it must not count as served.
    assert variant.envoy is not None
    monkeypatch.setattr("loadtest.stack.START_S", 0.5)
    with pytest.raises(StartError, match="401"):
        wait_until_served(variant.port, http_request(b"{}", key="wrong"), variant.envoy)


@pytest.mark.parametrize("name", ["allow", "governed"])
def test_a_body_of_2_mb_is_served(name: str, tmp_path: Path, started) -> None:
    processes = started[1]
    stack = Stack(processes, tmp_path)
    item = measure.body_2mb(getattr(stack, name)(), SECONDS, processes)
    assert (item.refused, item.broken) == (0, 0)
