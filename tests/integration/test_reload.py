"""Reloads that go wrong change nothing; whatever way a file is saved, it is seen.

Also what a reload leaves behind: its number, which no later generation gets again, and the older
clusters, which stay for as long as a request may ask for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from gateway import Gateway, base_policy, chat
from until import until

from extproc.core.gate import Gate
from extproc.core.generation import Generation
from extproc.edge import reload
from extproc.edge.clock import Clock
from extproc.edge.reload import GenerationNumbers, PolicyReloader
from extproc.edge.services import Sidecar
from extproc.envoy.delivery import DeliveryRejectedError, EnvoyUnreachableError
from extproc.envoy.settings import GatewaySettings
from extproc.ledger.embedded import EmbeddedLedger
from extproc.ledger.journal import Journal
from extproc.policy.snapshot import PolicySnapshot

RULE = """
name: r
type: gateway-rate-limit-config
rules:
  - {id: LIMIT, limit: {requests: 1000000, window: 1h}}
"""


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
        until(lambda r=refused: gateway.metric("tokenweir_policy_load_errors_total") > r)
        report = gateway.policy_report()
        assert report["generation"] == 1, name
        assert report["problems"], name
        assert gateway.post().status_code == 200
    path.write_text(RULE.replace("LIMIT", "healed"))
    until(lambda: gateway.generation() == 2)
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
        until(lambda n=name: limits(gateway) == [f"{n}/requests"])
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
    until(lambda: gateway.post(body).status_code == 200)
    transport = httpx.HTTPTransport(uds=str(gateway.state / "run" / "admin.sock"))
    with httpx.Client(transport=transport) as admin:
        stats = admin.get("http://envoy/stats?filter=update_rejected").text
    assert all(line.endswith(": 0") for line in stats.splitlines())


# -- the watcher, with an Envoy of the test's own -------------------------------------------------


class Delivery:
    """Takes what it is given, or says what a test wants; remembers."""

    def __init__(self) -> None:
        self.delivered: list[set[str]] = []
        self.pruned: list[set[str]] = []
        self.fault: Exception | None = None

    async def deliver(self, resources: dict[str, list[dict[str, Any]]]) -> None:
        if self.fault:
            raise self.fault
        self.delivered.append({cluster["name"] for cluster in resources["cds"]})

    async def prune(self, names: set[str]) -> None:
        if self.fault:
            raise self.fault
        self.pruned.append(set(names))


class Watched:
    """A policy folder with its reloader, watching as fast as it can."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "policy"
        self.folder.mkdir()
        self.state = root / "state"
        self.delivery = Delivery()
        settings = GatewaySettings("127.0.0.1", 1, root / "s", root / "c")
        self.save("openai", "gpt-4o")
        self.reloader = PolicyReloader(
            self.folder,
            settings,
            self.delivery,  # type: ignore[arg-type]
            {},
            "http://127.0.0.1:9",
            self.state,
        )
        first = self.reloader.load_first()
        assert isinstance(first, PolicySnapshot), first
        ledger = EmbeddedLedger(Journal(root / "ledger"))
        self.sidecar = Sidecar(Gate(Generation(first)), ledger, Clock(), Random())

    def save(self, provider: str, model: str) -> None:
        text = (
            "name: any\ntype: gateway-load-balancing-config\nrules:\n"
            f"  - {{id: any, weight: 1, target: {{provider: {provider}, model: {model}}}}}\n"
        )
        for name, content in base_policy(any=text).items():
            (self.folder / name).write_text(content)

    @property
    def number(self) -> int:
        return self.sidecar.gate.generation.number

    async def until(self, what: Callable[[], object]) -> None:
        async with asyncio.timeout(5):
            while not what():
                await asyncio.sleep(0.001)

    def begin(self, name: str) -> None:
        """A request of the generation as it is now."""
        entry = SimpleNamespace(generation=self.sidecar.gate.generation)
        self.sidecar.gate.in_flight[name] = entry  # type: ignore[assignment]

    def end(self, name: str) -> None:
        del self.sidecar.gate.in_flight[name]

    def watch(self, story: Callable[[], Any]) -> None:
        async def run() -> None:
            watcher = asyncio.create_task(self.reloader.watch(self.sidecar))
            try:
                await story()
                assert self.sidecar.metrics.internal_errors == 0
                assert not watcher.done()
            finally:
                watcher.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await watcher

        asyncio.run(run())


@pytest.fixture
def watched(tmp_path: Path, monkeypatch) -> Watched:
    for name in ("POLL_S", "SETTLE_S", "TIDY_S", "UPLOAD_S"):
        monkeypatch.setattr(reload, name, 0.001)
    return Watched(tmp_path)


def clusters_of(names: set[str], model: str) -> set[str]:
    return {name for name in names if f"_{model}_" in name}


def test_clusters_go_when_the_last_request_of_their_generation_has_ended(watched) -> None:
    async def story() -> None:
        watched.begin("long")
        watched.save("openai", "gpt-4o-mini")
        await watched.until(lambda: watched.number == 2)
        assert clusters_of(watched.delivery.delivered[-1], "gpt-4o-mini")
        await asyncio.sleep(0.1)
        assert watched.delivery.pruned == []
        watched.begin("of the new generation")  # does not hold the old one's clusters
        watched.end("long")
        await watched.until(lambda: watched.delivery.pruned)
        (kept,) = watched.delivery.pruned
        assert clusters_of(kept, "gpt-4o-mini")
        assert not clusters_of(kept, "gpt-4o")
        await asyncio.sleep(0.05)
        assert len(watched.delivery.pruned) == 1  # once is enough

    watched.watch(story)


def test_each_generation_keeps_its_own_clusters(watched) -> None:
    async def story() -> None:
        watched.begin("first")
        watched.save("openai", "gpt-4o-mini")
        await watched.until(lambda: watched.number == 2)
        watched.begin("second")
        watched.save("openai", "gpt-4.1")
        await watched.until(lambda: watched.number == 3)
        watched.end("second")
        await watched.until(lambda: watched.delivery.pruned)
        kept = watched.delivery.pruned[-1]
        assert clusters_of(kept, "gpt-4o")
        assert clusters_of(kept, "gpt-4-1")
        watched.end("first")
        await watched.until(lambda: len(watched.delivery.pruned) == 2)
        assert not clusters_of(watched.delivery.pruned[-1], "gpt-4o")

    watched.watch(story)


def test_a_request_that_is_still_uploaded_keeps_its_clusters(watched, monkeypatch) -> None:
    """Nobody but Envoy knows of it before its body is there."""
    monkeypatch.setattr(reload, "UPLOAD_S", 0.3)

    async def story() -> None:
        watched.save("openai", "gpt-4o-mini")
        await watched.until(lambda: watched.number == 2)
        entered = time.monotonic()
        await watched.until(lambda: watched.delivery.pruned)
        assert time.monotonic() - entered > 0.25

    watched.watch(story)


def test_a_request_that_is_never_heard_of_again_does_not_keep_clusters_for_ever(
    watched, monkeypatch
) -> None:
    assert reload.MAX_KEPT_S > 900
    monkeypatch.setattr(reload, "MAX_KEPT_S", 0.2)

    async def story() -> None:
        watched.begin("lost")
        watched.save("openai", "gpt-4o-mini")
        await watched.until(lambda: watched.delivery.pruned)

    watched.watch(story)


@pytest.mark.parametrize("fault", [EnvoyUnreachableError("gone"), OSError("full")])
def test_clusters_that_could_not_go_go_later(watched, fault: Exception) -> None:
    async def story() -> None:
        watched.begin("long")
        watched.save("openai", "gpt-4o-mini")
        await watched.until(lambda: watched.number == 2)
        watched.delivery.fault = fault
        watched.end("long")
        await asyncio.sleep(0.05)
        watched.delivery.fault = None
        await watched.until(lambda: watched.delivery.pruned)

    watched.watch(story)


@pytest.mark.parametrize("fault", [EnvoyUnreachableError("gone"), OSError("full")])
def test_a_policy_that_envoy_could_not_be_asked_about_is_tried_again(
    watched, fault: Exception
) -> None:
    async def story() -> None:
        watched.delivery.fault = fault
        watched.save("openai", "gpt-4o-mini")
        await watched.until(lambda: watched.reloader.problems)
        (problem,) = watched.reloader.problems
        assert problem.code == "envoy_unreachable"
        assert watched.number == 1
        watched.delivery.fault = None
        await watched.until(lambda: watched.number == 2)
        assert watched.reloader.problems == []

    watched.watch(story)


def test_a_policy_that_envoy_refused_is_not_tried_until_it_changes(watched) -> None:
    async def story() -> None:
        watched.delivery.fault = DeliveryRejectedError("no")
        watched.save("openai", "gpt-4o-mini")
        await watched.until(lambda: watched.reloader.problems)
        watched.delivery.fault = None
        await asyncio.sleep(0.05)
        assert (watched.number, watched.reloader.problems[0].code) == (1, "envoy_refused")
        watched.save("openai", "gpt-4.1")
        await watched.until(lambda: watched.number == 2)

    watched.watch(story)


# -- the generation's number ----------------------------------------------------------------------


def test_a_number_is_on_disk_before_its_generation_is_entered(watched, monkeypatch) -> None:
    kept = watched.state / "generation"
    assert kept.read_text() == "1\n"
    seen = []
    enter = Gate.enter

    def entering(gate: Gate, generation: Generation) -> None:
        seen.append((kept.read_text(), generation.number))
        enter(gate, generation)

    monkeypatch.setattr(Gate, "enter", entering)

    async def story() -> None:
        watched.save("openai", "gpt-4o-mini")
        await watched.until(lambda: watched.number == 2)

    watched.watch(story)
    assert seen == [("2\n", 2)]


def test_a_refused_policy_uses_no_number(watched) -> None:
    async def story() -> None:
        watched.delivery.fault = DeliveryRejectedError("no")
        watched.save("openai", "gpt-4o-mini")
        await watched.until(lambda: watched.reloader.problems)

    watched.watch(story)
    assert GenerationNumbers(watched.state).next == 2


@pytest.mark.parametrize("content", [b"", b"x", b"-3", b"0", b"9" * 30, b"1 2", b"\xff\0"])
def test_a_number_that_cannot_be_read_is_not_fatal(tmp_path: Path, content: bytes, caplog) -> None:
    (tmp_path / "generation").write_bytes(content)
    numbers = GenerationNumbers(tmp_path)
    assert numbers.next == 1
    assert "numbered from 1 again" in caplog.text
    numbers.take()
    assert GenerationNumbers(tmp_path).next == 2


def test_a_disk_that_takes_no_number_is_not_fatal(tmp_path: Path, caplog) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    numbers = GenerationNumbers(tmp_path / "state")
    numbers.take()
    numbers.take()
    assert numbers.next == 3
    assert "cannot be kept" in caplog.text


def test_a_number_is_never_half_written(tmp_path: Path, monkeypatch) -> None:
    numbers = GenerationNumbers(tmp_path)
    numbers.take()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        numbers.take()
    assert GenerationNumbers(tmp_path).next == 2


def test_generations_grow_over_restarts_and_kill_9(gateway: Gateway) -> None:
    def shown() -> int:
        return int(gateway.post().headers["x-tfy-policy-generation"])

    def restarted() -> int:
        with contextlib.suppress(httpx.TransportError):
            return gateway.generation()
        return 0

    assert shown() == 1
    gateway.save_policy("rule.yaml", RULE.replace("LIMIT", "second"))
    until(lambda: gateway.generation() == 2)
    highest = shown()
    assert highest == 2
    for number in range(2):
        gateway.child("sidecar").send_signal(signal.SIGKILL)
        until(lambda h=highest: restarted() > h, 20)
        until(lambda: gateway.post().status_code == 200)
        gateway.save_policy("rule.yaml", RULE.replace("LIMIT", f"after-{number}"))
        until(lambda n=number: limits(gateway) == [f"after-{n}/requests"])
        assert shown() > highest + 1
        highest = shown()
    (gateway.state / "generation").write_bytes(b"\0broken")
    gateway.child("sidecar").send_signal(signal.SIGKILL)
    until(lambda: restarted() == 1, 20)
    until(lambda: gateway.post().status_code == 200)


def test_a_save_while_envoy_is_away_is_taken_when_it_is_back(gateway: Gateway) -> None:
    gateway.child("envoy").send_signal(signal.SIGKILL)
    gateway.save_policy("rule.yaml", RULE.replace("LIMIT", "meanwhile"))
    until(lambda: limits(gateway) == ["meanwhile/requests"], 15)
    until(lambda: _serves(gateway))
    assert gateway.post().headers["x-tfy-policy-generation"] == "2"


def _serves(gateway: Gateway) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return gateway.post().status_code == 200
    return False


def test_a_request_of_an_older_generation_fails_over_to_its_own_targets(gateway: Gateway) -> None:
    """Its next target is in no policy any more, and still serves it."""
    for provider in ("anthropic", "bedrock"):
        gateway.faults(provider, status=503, delay_ms=1_000)
    served = []
    asking = threading.Thread(target=lambda: served.append(gateway.post()))
    asking.start()
    time.sleep(0.3)
    models = (gateway.policy / "models.yaml").read_text()
    gateway.save_policy("models.yaml", models[: models.index("fallbacks")])
    until(lambda: gateway.generation() == 2)
    assert served == []
    asking.join()
    (response,) = served
    assert response.status_code == 200
    assert response.headers["x-tfy-resolved-model"] == "openai/gpt-4o-mini"
    assert response.headers["x-tfy-policy-generation"] == "1"
