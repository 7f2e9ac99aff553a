"""The admin API over a sidecar that runs in this process."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from aiohttp.test_utils import TestClient, TestServer
from gateway import base_policy

from extproc import __version__
from extproc.core.gate import Gate
from extproc.core.generation import Generation
from extproc.edge import admin as admin_module
from extproc.edge.admin import Admin
from extproc.edge.alerting import Alerting
from extproc.edge.channels.channel import Outside
from extproc.edge.clock import Clock
from extproc.edge.kill_board import KillBoard, NoShare
from extproc.edge.services import Sidecar
from extproc.ledger.embedded import EmbeddedLedger
from extproc.ledger.emergency import EmergencyLedger
from extproc.ledger.journal import Journal
from extproc.policy.compiler import compile_folder
from extproc.policy.snapshot import BreakerPolicy, Finding, Kill, PolicySnapshot
from extproc.values.envelope import Envelope

VELOCITY = """
name: v
type: gateway-budget-config
velocity: [{id: fast, scope: user, max_usd_per_minute: 1}]
"""
BUDGET = """
name: b
type: gateway-budget-config
budgets:
  - {id: all, ceiling_usd: 100, window: monthly, alerts: [{at_pct: 80, notify: ["slack:#x"]}]}
"""


@pytest.fixture
def sidecar(tmp_path: Path) -> Sidecar:
    files = {
        name: text.encode() for name, text in base_policy(budget=BUDGET, velocity=VELOCITY).items()
    }
    policy = compile_folder(files, 7, {}, "http://127.0.0.1:9")
    assert isinstance(policy, PolicySnapshot)
    ledger = EmbeddedLedger(Journal(tmp_path / "ledger"))
    return Sidecar(Gate(Generation(policy)), ledger, Clock(), random.Random(1))


@pytest.fixture
def get(sidecar: Sidecar, tmp_path: Path) -> Callable[..., Any]:
    """Asks the admin API: status, content type, body (parsed where it is JSON)."""

    kills = KillBoard(sidecar.gate, tmp_path, sidecar.clock, NoShare())

    def ask(
        path: str, problems: tuple[Finding, ...] = (), method: str = "GET"
    ) -> tuple[int, str, Any]:
        async def scenario() -> tuple[int, str, Any]:
            reloader: Any = SimpleNamespace(problems=list(problems))
            alerting = Alerting(sidecar, tmp_path, Outside({}, ""))
            application = Admin(sidecar, reloader, alerting, kills).application()
            async with TestClient(TestServer(application)) as client:
                answer = await client.request(method, path)
                body = await answer.read()
                json = answer.content_type == "application/json"
                return answer.status, answer.content_type, orjson.loads(body) if json else body

        return asyncio.run(scenario())

    return ask


def test_the_overview_names_what_there_is_and_all_of_it_answers(get) -> None:
    status, _, document = get("/")
    assert status == 200
    assert document["tokenweir"] == __version__
    assert document["see"]
    for path in document["see"]:
        assert get(path)[0] == 200


def test_health_names_the_generation(get) -> None:
    assert get("/healthz") == (200, "application/json", {"healthy": True, "generation": 7})


def test_metrics_are_prometheus_text(get, sidecar: Sidecar) -> None:
    sidecar.metrics.admitted = 3
    status, kind, body = get("/metrics")
    assert (status, kind) == (200, "text/plain")
    assert b"\ntokenweir_admitted_total 3.0\n" in body


def test_policy_shows_the_active_generation_and_why_the_folder_is_not_it(get) -> None:
    _, _, document = get("/policy")
    assert document["generation"] == 7
    assert document["virtual_models"] == ["intent-fast"]
    assert document["limits"] == ["all/usd"]
    assert document["problems"] == []
    assert any("channel_unset" in warning for warning in document["warnings"])
    assert len(document["digest"]) == 64
    _, _, document = get("/policy", (Finding("a.yaml", 3, "unknown_key", "no key x"),))
    assert document["problems"] == ["a.yaml:3: unknown_key: no key x"]
    assert document["generation"] == 7


def test_usage_says_whether_a_store_that_can_be_away_answers(
    get, sidecar: Sidecar, tmp_path: Path
) -> None:
    book = EmbeddedLedger(Journal(tmp_path / "emergency"))
    sidecar.ledger = EmergencyLedger(sidecar.ledger, book, "s1")
    assert get("/usage")[2]["emergency"]["answers"] is True


def test_usage_shows_settled_and_reserved_apart_and_is_bounded(
    get, sidecar: Sidecar, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert get("/usage")[2] == {
        "store": {"condition": "ok", "reason": "", "detail": "", "undelivered": 0},
        "counters": [], "truncated": False, "open_reservations": 0, "corrections": [],
    }  # fmt: skip
    monkeypatch.setattr(
        type(sidecar.ledger), "counters", lambda _: [("all/usd", "", "2026-11", 5, 7)] * 9
    )
    monkeypatch.setattr(admin_module, "MAX_COUNTERS", 4)
    document = get("/usage")[2]
    counters = document["counters"]
    assert len(counters) == 4
    assert document["truncated"]
    assert counters[0] == {
        "limit": "all/usd", "scope_value": "", "window": "2026-11", "settled": 5, "reserved": 7,
    }  # fmt: skip


def test_velocity_breakers_are_shown_and_counted(get, sidecar: Sidecar) -> None:
    assert get("/policy")[2]["velocity"] == []
    now_ms = sidecar.clock.now_ms()
    (rule,) = sidecar.gate.generation.policy.velocity.matching(Envelope(), "", "", "")
    found = sidecar.gate.velocity.admit([(rule, "alice")], 2_000_000, now_ms)
    assert isinstance(found, list)
    sidecar.gate.velocity.ended(found, 2_000_000, now_ms)
    (shown,) = get("/policy")[2]["velocity"]
    assert (shown["rule_id"], shown["scope_value"], shown["state"]) == ("fast", "alice", "open")
    assert (shown["limit_usd_per_minute"], shown["spent_usd_last_minute"]) == ("1.00", "2.00")
    body = get("/metrics")[2]
    assert b'\ntokenweir_velocity_trips_total{rule="fast"} 1.0\n' in body
    assert b'\ntokenweir_velocity_open{rule="fast"} 1.0\n' in body


def test_the_state_of_every_target_is_shown(get, sidecar: Sidecar) -> None:
    now_ms = sidecar.clock.now_ms()
    once = BreakerPolicy(failure_threshold=1)
    sidecar.gate.breakers.failed("anthropic/claude-haiku-4-5", once, now_ms)
    sidecar.gate.breakers.rest("openai/gpt-4o-mini", 50_000, now_ms)
    sidecar.gate.breakers.failed("gone/since", once, now_ms)
    lines = get("/metrics")[2].decode().splitlines()
    found = {line for line in lines if line.startswith("tokenweir_target_state{") and "1.0" in line}
    assert found == {
        f'tokenweir_target_state{{state="{state}",target="{target}"}} 1.0'
        for target, state in {
            "anthropic/claude-haiku-4-5": "open",
            "bedrock/anthropic.claude-haiku-4-5": "closed",
            "openai/gpt-4o-mini": "resting",
            "vertex/gemini-2.0-flash": "closed",
        }.items()
    }
    assert get("/policy")[2]["breakers"]["openai/gpt-4o-mini"] == "resting"


def test_the_kill_switch_is_counted(get, sidecar: Sidecar) -> None:
    sidecar.gate.kill([Kill("user_id", "mallory"), Kill("team", "red")])
    assert b"\ntokenweir_killed 2.0\n" in get("/metrics")[2]


def test_alerts_show_what_is_set_off_waiting_and_ended(get) -> None:
    assert get("/alerts")[2] == {
        "set_off": [], "pending": [], "ended": [], "watched_counters": 0,
    }  # fmt: skip


def test_nothing_can_be_changed_and_nothing_else_is_there(get) -> None:
    for path in ("/", "/policy", "/usage", "/alerts"):
        assert get(path, method="POST")[0] == 405
        assert get(path, method="DELETE")[0] == 405
    assert get("/config")[0] == 404
    assert get("/../etc/passwd")[0] == 404


def test_no_secret_is_shown(get, sidecar: Sidecar) -> None:
    for credential in sidecar.gate.generation.policy.credentials.values():
        for path in ("/policy", "/usage", "/metrics", "/alerts"):
            body = get(path)[2]
            text = body.decode() if isinstance(body, bytes) else str(body)
            assert credential.sha256.hex() not in text
