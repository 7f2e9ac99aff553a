"""``/kill-switch`` of the console, and what a browser cannot be talked into sending."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from world import compiled

from extproc.core.gate import Gate
from extproc.core.generation import Generation
from extproc.edge import kill_board
from extproc.edge.clock import Clock
from extproc.edge.kill_api import KillApi, is_own_page
from extproc.edge.kill_board import KillBoard, NoShare

POLICY = "name: k\ntype: gateway-config\nkill_switch: [{team: red, reason: written}]\n"
MALLORY = {"field": "user_id", "value": "mallory", "reason": "ran away"}


class Console:
    """One console over a board, asked a request at a time."""

    def __init__(self, state: Path) -> None:
        self.gate = Gate(Generation(compiled(POLICY)))
        self.board = KillBoard(self.gate, state, Clock(), NoShare())
        self.told: list[tuple[Any, ...]] = []

    def ask(
        self, method: str, body: Any = None, content: bytes | None = None, **headers: str
    ) -> tuple[int, Any]:
        async def scenario() -> tuple[int, Any]:
            application = web.Application()
            notify = lambda *what: self.told.append(what)  # noqa: E731
            KillApi(self.board, self.gate, lambda: notify).add_to(application)
            named = {"content-type": "application/json", **headers}
            data = json.dumps(body).encode() if content is None else content
            async with TestClient(TestServer(application)) as client:
                answer = await client.request(method, "/kill-switch", data=data, headers=named)
                text = await answer.read()
                return answer.status, json.loads(text) if text.startswith(b"{") else text

        return asyncio.run(scenario())


@pytest.fixture
def console(tmp_path: Path) -> Console:
    return Console(tmp_path)


def test_a_value_is_stopped_listed_and_revived(console: Console) -> None:
    status, order = console.ask("POST", MALLORY)
    assert status == 200
    assert {key: order[key] for key in MALLORY} == MALLORY
    assert (order["by"], order["known"]) == ("console", True)
    assert console.gate.kills.stops(("", "", "mallory")) == "user_id"
    status, listed = console.ask("GET")
    assert status == 200
    assert [(kill["value"], kill["by"]) for kill in listed["killed"]] == [
        ("red", "policy"), ("mallory", "console"),
    ]  # fmt: skip
    assert console.ask("DELETE", {"field": "user_id", "value": "mallory"})[0] == 200
    assert console.gate.kills.stops(("", "", "mallory")) == ""
    assert [(one[0].title, one[0].severity.value) for one in console.told] == [
        ("The kill switch stopped user_id mallory", "warning"),
        ("The kill switch revived user_id mallory", "info"),
    ]
    assert ("reason", "ran away") in console.told[0][0].facts


@pytest.mark.parametrize(
    ("field", "value", "known"),
    [
        ("provider", "anthropic", True),
        ("provider", "antropic", False),
        ("model", "intent-fast", True),
        ("model", "gpt-4o-mini", True),
        ("model", "openai/gpt-4o-mini", True),
        ("model", "gpt-9", False),
        ("credential", "app", True),
        ("credential", "nobody", False),
        ("team", "nobody-knows", True),
    ],
)
def test_a_name_that_the_policy_does_not_have_is_said(
    console: Console, field: str, value: str, known: bool
) -> None:
    assert console.ask("POST", {"field": field, "value": value})[1]["known"] is known


def test_what_is_not_stopped_by_order_is_not_revived(console: Console) -> None:
    status, said = console.ask("DELETE", {"field": "user_id", "value": "alice"})
    assert (status, said) == (404, {"error": "it is not stopped"})
    status, said = console.ask("DELETE", {"field": "team", "value": "red"})
    assert (status, said) == (404, {"error": "it is stopped by policy"})


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"field": "planet", "value": "earth"}, 400),
        ({"field": "user_id", "value": ""}, 400),
        ({"field": "user_id", "value": "a\nb"}, 400),
        ({"field": "user_id", "value": "m", "reason": "x" * 501}, 400),
        ({"field": "user_id", "value": "m", "who": "me"}, 400),
        ({"field": "user_id"}, 400),
        ([], 400),
        ({"field": "user_id", "value": 7}, 400),
    ],
)
def test_what_is_no_order_changes_nothing(console: Console, body: Any, status: int) -> None:
    for method in ("POST", "DELETE"):
        assert console.ask(method, body)[0] == status
    assert console.board.killed == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"host": "evil.example"}, 403),
        ({"host": "evil.example:8090", "origin": "http://evil.example:8090"}, 403),
    ],
)
def test_another_sites_page_changes_nothing(
    console: Console, headers: dict[str, str], status: int
) -> None:
    assert console.ask("POST", MALLORY, **headers)[0] == status
    assert console.board.killed == []
    console.ask("POST", MALLORY)
    assert console.ask("DELETE", MALLORY, **headers)[0] == status
    assert len(console.board.killed) == 1


@pytest.mark.parametrize(
    ("host", "headers", "own"),
    [
        ("127.0.0.1:8090", {}, True),
        ("[::1]:8090", {}, True),
        ("localhost:8090", {"Origin": "http://localhost:8090"}, True),
        ("sidecar:8090", {"Sec-Fetch-Site": "same-origin"}, True),
        ("localhost:8090", {"Origin": "http://localhost:9999"}, False),
        ("", {}, False),
        ("a.b", {}, False),
    ],
)
def test_which_pages_are_ours(host: str, headers: dict[str, str], own: bool) -> None:
    assert is_own_page(host, headers) == own


def test_bodies_that_are_not_json_or_endless_are_refused(console: Console) -> None:
    assert console.ask("POST", content=b"{")[0] == 400
    assert console.ask("POST", content=b"\xff\xfe")[0] == 400
    assert console.ask("POST", content=b'"' + b"x" * 3_000_000)[0] == 413


def test_a_kill_that_could_not_be_written_says_so_and_holds(
    console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kill_board, "_write", full)
    status, said = console.ask("POST", MALLORY)
    assert status == 500
    assert "until the next restart" in said["error"]
    assert console.gate.kills.stops(("", "", "mallory")) == "user_id"


def test_too_many_values_are_a_policy(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kill_board, "MAX_ORDERS", 1)
    console.ask("POST", MALLORY)
    assert console.ask("POST", {"field": "user_id", "value": "eve"})[0] == 409
