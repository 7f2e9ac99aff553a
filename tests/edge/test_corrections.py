"""Corrections over the console port: journaled, bounded below, and out of a web page's reach."""

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
from usage_logs import records, verified

from extproc.core.gate import Gate
from extproc.core.generation import Generation
from extproc.edge import corrections as corrections_module
from extproc.edge.admin import Admin
from extproc.edge.clock import Clock
from extproc.edge.kill_board import KillBoard, NoShare
from extproc.edge.services import Sidecar
from extproc.ledger.embedded import EmbeddedLedger
from extproc.ledger.journal import Journal
from extproc.ledger.port import Account, Hold
from extproc.policy.compiler import compile_folder
from extproc.policy.snapshot import PolicySnapshot

POLICY = """
name: b
type: gateway-budget-config
budgets:
  - {id: all, ceiling_usd: 1, window: monthly}
---
name: r
type: gateway-rate-limit-config
rules:
  - {id: both, limit: {tokens: 1000, requests: 10, window: 1h}}
"""
GOOD = {"limit": "all", "amount_micro_usd": -300, "reason": "mispriced", "operator": "ops"}

Post = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def sidecar(tmp_path: Path) -> Sidecar:
    files = {name: text.encode() for name, text in base_policy(more=POLICY).items()}
    policy = compile_folder(files, 7, {}, "http://127.0.0.1:9")
    assert isinstance(policy, PolicySnapshot)
    ledger = EmbeddedLedger(Journal(tmp_path / "ledger"))
    sidecar = Sidecar(Gate(Generation(policy)), ledger, Clock(), random.Random(1))
    account = Account([Hold(limit, "", limit.ceiling) for limit in policy.limits], {})
    now_ms = sidecar.clock.now_ms()
    ledger.reserve("r", account, (1, 5, 5, 0, 1_000, 1_000), now_ms, now_ms + 60_000)
    ledger.settle("r", (1, 5, 5, 0, 1_000, 1_000), now_ms, {"usage": [5, 0]})
    return sidecar


@pytest.fixture
def post(sidecar: Sidecar, tmp_path: Path) -> Post:
    def ask(body: Any = GOOD, **headers: str) -> tuple[int, dict[str, Any]]:
        async def scenario() -> tuple[int, dict[str, Any]]:
            others: Any = SimpleNamespace(problems=[], report=dict)
            kills = KillBoard(sidecar.gate, tmp_path, sidecar.clock, NoShare())
            application = Admin(sidecar, others, others, kills).application()
            sent = {"content-type": "application/json"}
            sent |= {name.replace("_", "-"): value for name, value in headers.items()}
            data = body if isinstance(body, bytes) else orjson.dumps(body)
            async with TestClient(TestServer(application)) as client:
                answer = await client.post("/corrections", data=data, headers=sent)
                document = orjson.loads(await answer.read())
                usage = await (await client.get("/usage")).json()
                document["shown"] = usage["corrections"]
                document["counters"] = {c["limit"]: c["settled"] for c in usage["counters"]}
                return answer.status, document

        return asyncio.run(scenario())

    return ask


def test_a_correction_is_an_entry_of_the_log_with_reason_and_operator(
    post: Post, sidecar: Sidecar, tmp_path: Path
) -> None:
    status, document = post()
    assert status == 200
    assert (document["limit"], document["settled"]) == ("all/usd", 700)
    assert document["counters"]["all/usd"] == 700
    assert document["shown"][0]["reason"] == "mispriced"
    (entry,) = [r for r in records(tmp_path / "ledger/usage-000001.log") if r[0] == "k"]
    assert entry[3:] == [-300, {"reason": "mispriced", "operator": "ops"}]
    (listed,) = verified(tmp_path / "ledger").corrections
    assert (listed.limit, listed.amount, listed.about["operator"]) == ("all/usd", -300, "ops")


def test_nothing_goes_below_zero(post: Post) -> None:
    status, document = post({**GOOD, "amount_micro_usd": -1_001})
    assert (status, document["error"]["code"]) == (409, "below_zero")
    assert document["counters"]["all/usd"] == 1_000
    assert document["shown"] == []


def test_tokens_are_corrected_as_tokens(post: Post) -> None:
    status, document = post({"limit": "both/tokens", "amount": 7, "reason": "x"})
    assert (status, document["settled"]) == (200, 12)


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"limit": "none"}, 404, "unknown_limit"),
        ({"limit": "both"}, 400, "ambiguous_limit"),
        ({"scope_value": "p9"}, 404, "no_usage"),
        ({"reason": " "}, 400, "invalid_request"),
        ({"reason": "x" * 501}, 400, "invalid_request"),
        ({"amount_micro_usd": 0}, 400, "invalid_request"),
        ({"amount_micro_usd": 1.5}, 400, "invalid_request"),
        ({"amount_micro_usd": True}, 400, "invalid_request"),
        ({"amount_micro_usd": 2**53}, 400, "invalid_request"),
        ({"amount": 1}, 400, "invalid_request"),
        ({"limit": "both/tokens"}, 400, "invalid_request"),
        ({"more": 1}, 400, "invalid_request"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    post: Post, change: dict[str, Any], status: int, code: str
) -> None:
    got, document = post({**GOOD, **change})
    assert (got, document["error"]["code"]) == (status, code)
    assert document["counters"] == {"all/usd": 1_000, "both/tokens": 5, "both/requests": 1}


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"{" + b" " * 20_000 + b"}"])
def test_a_body_that_is_no_object_is_refused(post: Post, body: bytes) -> None:
    assert post(body)[0] == 400


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "http://127.0.0.1:8090"}, 403),
        ({"origin": "null"}, 403),
        ({"sec_fetch_site": "cross-site"}, 403),
        ({"sec_fetch_site": "same-origin"}, 403),
        ({"content_type": "text/plain"}, 415),
        ({"content_type": "application/x-www-form-urlencoded"}, 415),
    ],
)
def test_a_web_page_cannot_correct(post: Post, headers: dict[str, str], status: int) -> None:
    got, document = post(**headers)
    assert got == status
    assert document["counters"]["all/usd"] == 1_000


def test_another_machine_cannot_correct(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corrections_module, "_is_loopback", lambda _: False)
    assert post()[1]["error"]["code"] == "not_local"
    monkeypatch.undo()
    for address, local in (("127.0.0.1", True), ("::1", True), ("10.0.0.1", False), (None, False)):
        assert corrections_module._is_loopback(address) is local


def test_a_ledger_that_cannot_write_corrects_nothing(post: Post, sidecar: Sidecar) -> None:
    sidecar.ledger._journal._failed = True
    status, document = post()
    assert (status, document["error"]["code"]) == (503, "store_unavailable")
    assert document["counters"]["all/usd"] == 1_000
