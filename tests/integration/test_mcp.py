"""MCP servers behind the gateway, with the official package as client and as server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from command import ROOT
from gateway import HEADERS, Gateway, base_policy
from mcp import MCPError
from mcp_rig import ToolServer, client_of, run
from redis_server import running_redis

LIMITS = """
name: tools
type: gateway-rate-limit-config
rules:
  - id: session-calls
    limit: {{tool_calls: {session}, window: 1h}}
    scope: session
  - id: credential-calls
    limit: {{tool_calls: 1000, window: 1h}}
    scope: credential
  - id: deletes
    when: {{tools: [delete_*], mcp_servers: [docs]}}
    limit: {{tool_calls: 1, window: 1h}}
    scope: [credential, tool]
"""
SERVERS = """
name: mcp
type: gateway-config
mcp_servers:
  docs:
    url: "{json}"
    usd_per_call: {{read_file: 0.25}}
    loop_guard: {{repeats: 3, window: 10m, exempt: [status]}}
  narrow:
    url: "{sse}"
    tools: {{allow: [search, "read_*", slow, announce], deny: [read_secret]}}
  down:
    url: "http://127.0.0.1:1/mcp"
  keyed:
    url: "{json}"
    credential: "file:{key}"
    tools: {{deny: [delete_file]}}
"""
BUDGET = """
name: money
type: gateway-budget-config
budgets:
  - {id: p1-daily, scope: {metadata: {X-TFY-Project: p1}}, ceiling_usd: 1, window: daily}
"""
MODES = ("legacy", "2026-07-28")


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, ToolServer]]:
    found = {name: ToolServer(json_response=name == "json") for name in ("json", "sse")}
    for server in found.values():
        server.start()
    yield found
    for server in found.values():
        server.stop()


def files(
    servers: dict[str, ToolServer], session: int = 1000, key: str = "/nowhere"
) -> dict[str, str]:
    urls = {name: server.url for name, server in servers.items()} | {"key": key}
    return base_policy(
        mcp=SERVERS.format(**urls), limits=LIMITS.format(session=session), budget=BUDGET
    )


@pytest.fixture(scope="module")
def gateway(
    servers: dict[str, ToolServer], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    key = tmp_path_factory.mktemp("keys") / "key"
    key.write_text("server-secret")
    gateway = Gateway(tmp_path_factory.mktemp("mcp"), files(servers, key=str(key))).start()
    yield gateway
    assert gateway.stop() == 0


def session(name: str) -> dict[str, str]:
    return {"x-tfy-session-id": name}


def message(method: str, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 7, "method": method, "params": params}


def post(gateway: Gateway, body: Any, server: str = "docs", **headers: str) -> httpx.Response:
    accept = {"accept": "application/json, text/event-stream"}
    return httpx.post(
        f"{gateway.url}/mcp/{server}",
        content=body if isinstance(body, bytes) else json.dumps(body),
        headers={**HEADERS, **accept, **headers},
        timeout=20,
    )


@pytest.mark.parametrize("server", ["docs", "narrow"])
@pytest.mark.parametrize("mode", MODES)
def test_the_official_client_talks_to_the_official_server(
    gateway: Gateway, servers: dict[str, ToolServer], mode: str, server: str
) -> None:
    async def talk() -> None:
        async with client_of(
            f"{gateway.url}/mcp/{server}", mode=mode, headers=session(f"{mode}-{server}")
        ) as client:
            tools = {tool.name for tool in (await client.list_tools()).tools}
            every = {"search", "read_file", "delete_file", "status", "slow", "announce"}
            assert tools == (every if server == "docs" else every - {"delete_file", "status"})
            result = await client.call_tool("search", {"query": mode})
            assert not result.is_error
            assert result.content[0].text == f"found {mode}"  # type: ignore[union-attr]

    run(talk)
    behind = servers["json" if server == "docs" else "sse"]
    assert ("search", {"query": mode}) in behind.calls
    for _, headers in behind.requests:
        assert not {"authorization", "x-tfy-session-id", "x-tw-decided", "cookie"} & set(headers)


@pytest.mark.parametrize("mode", MODES)
def test_progress_arrives_while_the_tool_works(gateway: Gateway, mode: str) -> None:
    seen: list[tuple[float, float]] = []

    async def talk() -> None:
        async def progress(done: float, total: float | None, message: str | None) -> None:
            seen.append((done, time.monotonic()))

        async with client_of(f"{gateway.url}/mcp/narrow", mode=mode) as client:
            await client.call_tool("slow", {"steps": 6}, progress_callback=progress)
            seen.append((0, time.monotonic()))

    run(talk)
    assert [done for done, _ in seen] == [1, 2, 3, 4, 5, 6, 0]
    # Nothing was held until the end: the first came a quarter of a second before the result.
    assert seen[-1][1] - seen[0][1] > 0.2


def test_a_server_speaks_first_on_the_stream_of_a_get(gateway: Gateway) -> None:
    heard: list[str] = []

    async def talk() -> None:
        arrived = asyncio.Event()

        async def hear(message: Any) -> None:
            heard.append(getattr(message, "method", type(message).__name__))
            arrived.set()

        async with client_of(
            f"{gateway.url}/mcp/narrow", mode="legacy", message_handler=hear
        ) as client:
            for _ in range(50):  # the client opens the stream by itself, some time after the start
                await client.call_tool("announce", {})
                if arrived.is_set():
                    break
                await asyncio.sleep(0.05)

    run(talk)
    assert any("list_changed" in what or "ListChanged" in what for what in heard)


def test_a_session_is_ended_at_its_server(gateway: Gateway, servers: dict[str, ToolServer]) -> None:
    async def talk() -> None:
        async with client_of(f"{gateway.url}/mcp/docs", mode="legacy") as client:
            await client.list_tools()

    before = len(servers["json"].requests)
    run(talk)
    sent = servers["json"].requests[before:]
    assert sent[-1][0] == "DELETE"
    assert len({h["mcp-session-id"] for _, h in sent if "mcp-session-id" in h}) == 1
    assert all("mcp-protocol-version" in h for method, h in sent if method != "POST")


def test_a_server_gets_its_own_credential_and_nobodys_else(
    gateway: Gateway, servers: dict[str, ToolServer]
) -> None:
    before = len(servers["json"].requests)

    async def talk() -> None:
        async with client_of(f"{gateway.url}/mcp/keyed") as client:
            assert "delete_file" not in {tool.name for tool in (await client.list_tools()).tools}
            await client.call_tool("search", {"query": "keyed"})

    run(talk)
    sent = servers["json"].requests[before:]
    assert len(sent) >= 2
    assert {headers["authorization"] for _, headers in sent} == {"Bearer server-secret"}
    gateway_files = [path for path in gateway.state.rglob("*") if path.is_file()]
    assert not any(b"server-secret" in path.read_bytes() for path in gateway_files)


def test_a_tool_that_is_not_allowed_is_unknown(
    gateway: Gateway, servers: dict[str, ToolServer]
) -> None:
    async def talk() -> None:
        async with client_of(f"{gateway.url}/mcp/narrow", mode="legacy") as client:
            with pytest.raises(MCPError) as error:
                await client.call_tool("delete_file", {"path": "x"})
            assert error.value.code == -32602
            assert error.value.data["code"] == "tool_not_allowed"

    run(talk)
    assert "delete_file" not in [name for name, _ in servers["sse"].calls]
    assert gateway.metric_sum("tokenweir_tool_calls_total") > 0


def test_a_session_has_so_many_calls(servers: dict[str, ToolServer], tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, files(servers, session=2)).start()
    try:
        for mode in MODES:
            refused = []

            async def talk(mode: str = mode, refused: list[Any] = refused) -> None:
                url = f"{gateway.url}/mcp/docs"
                async with client_of(url, mode=mode, headers=session(mode)) as client:
                    for number in range(3):
                        result = await client.call_tool("search", {"query": str(number)})
                        if result.is_error:
                            refused.append(result)

            run(talk)
            (result,) = refused
            metadata = result.meta["tokenweir/refusal"]
            assert metadata["code"] == "rate_limit_exceeded"
            assert (metadata["rule_id"], metadata["unit"]) == ("session-calls", "tool_calls")
            assert metadata["limit"] == metadata["spent"] + metadata["reserved"] == 2
            assert "Do not repeat the call." in result.content[0].text
        # Requests to models and calls of tools are counted apart.
        assert gateway.post(headers=session("legacy")).status_code == 200
        assert gateway.settled("credential-calls/tool_calls@app") == 4
    finally:
        assert gateway.stop() == 0


def test_a_tool_has_a_limit_of_its_own(gateway: Gateway) -> None:
    async def talk() -> None:
        async with client_of(f"{gateway.url}/mcp/docs", headers=session("deleting")) as client:
            assert not (await client.call_tool("delete_file", {"path": "a"})).is_error
            refused = await client.call_tool("delete_file", {"path": "b"})
            assert refused.is_error
            assert refused.meta is not None
            assert refused.meta["tokenweir/refusal"]["rule_id"] == "deletes"
            assert not (await client.call_tool("search", {"query": "a"})).is_error

    run(talk)


def test_an_agent_that_goes_round_in_circles_is_told(
    gateway: Gateway, servers: dict[str, ToolServer]
) -> None:
    before = len(servers["json"].calls)

    async def talk() -> None:
        async with client_of(f"{gateway.url}/mcp/docs", headers=session("loop")) as client:
            for _ in range(3):
                assert not (await client.call_tool("search", {"query": "same"})).is_error
            looping = await client.call_tool("search", {"query": "same"})
            assert looping.is_error
            assert "3 times in a row" in looping.content[0].text  # type: ignore[union-attr]
            assert looping.meta is not None
            evidence = looping.meta["tokenweir/refusal"]
            assert (evidence["code"], evidence["repeats"]) == ("loop_detected", "3")
            assert (evidence["tool"], evidence["mcp_server"]) == ("search", "docs")
            assert not (await client.call_tool("search", {"query": "other"})).is_error
            for _ in range(6):  # polling is what this tool is for
                assert not (await client.call_tool("status", {})).is_error

    run(talk)
    assert len(servers["json"].calls) - before == 10


def test_billed_tools_are_paid_from_the_budgets(gateway: Gateway) -> None:
    async def talk() -> None:
        async with client_of(f"{gateway.url}/mcp/docs", headers=session("paying")) as client:
            for number in range(4):
                assert not (await client.call_tool("read_file", {"path": str(number)})).is_error
            refused = await client.call_tool("read_file", {"path": "last"})
            assert refused.is_error
            assert refused.meta is not None
            metadata = refused.meta["tokenweir/refusal"]
            assert metadata["code"] == "budget_exceeded"
            used = Decimal(metadata["spent"]) + Decimal(metadata["reserved"])
            assert (used, metadata["estimated"]) == (1, "0.25")

    run(talk)
    assert gateway.settled("p1-daily/usd") == 1_000_000


def test_what_is_wrong_with_the_sender_is_an_error_of_the_message(gateway: Gateway) -> None:
    listing = message("tools/list")
    unknown = post(gateway, listing, server="nowhere")
    assert unknown.status_code == 404
    assert unknown.json()["error"]["data"]["code"] == "unknown_mcp_server"
    assert unknown.json()["jsonrpc"] == "2.0"
    stranger = post(gateway, listing, authorization="Bearer nobody")
    assert stranger.status_code == 401
    assert stranger.headers["www-authenticate"] == "Bearer"
    conflict = post(gateway, listing, **{"x-tfy-project": "another"})
    assert (conflict.status_code, conflict.json()["error"]["code"]) == (403, -32000)
    twice = post(gateway, b'{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call"}')
    assert (twice.status_code, twice.json()["error"]["data"]["code"]) == (400, "duplicate_key")
    batch = post(gateway, [listing])
    assert (batch.status_code, batch.json()["error"]["code"]) == (400, -32600)
    mismatch = post(gateway, message("tools/call", name="search"), **{"mcp-name": "other"})
    assert (mismatch.status_code, mismatch.json()["error"]["code"]) == (400, -32020)
    long = post(gateway, message("tools/call", name="search", arguments={"q": "x" * 5_000_000}))
    assert long.status_code == 413
    put = httpx.put(f"{gateway.url}/mcp/docs", headers=HEADERS, content=b"{}")
    assert (put.status_code, put.json()["error"]["data"]["code"]) == (405, "method_not_allowed")


def test_a_server_that_is_down_costs_no_call(gateway: Gateway) -> None:
    before = gateway.settled("credential-calls/tool_calls@app")
    answer = post(gateway, message("tools/call", name="search", arguments={}), server="down")
    assert answer.status_code == 503
    assert answer.json()["error"]["data"]["code"] == "no_healthy_target"
    assert answer.json()["id"] is None
    assert gateway.settled("credential-calls/tool_calls@app") == before


def test_the_kill_switch_stops_a_tool_a_server_and_a_session(gateway: Gateway) -> None:
    def kill(method: str, field: str, value: str) -> None:
        content = json.dumps({"field": field, "value": value})
        httpx.request(
            method, f"{gateway.console}/kill-switch", content=content, headers=HEADERS
        ).raise_for_status()

    call = message("tools/call", name="search", arguments={"query": "k"})
    for field, value in (("tool", "search"), ("mcp_server", "docs"), ("session_id", "bad")):
        headers = session("bad")
        kill("POST", field, value)
        stopped = post(gateway, call, **headers)
        assert (stopped.status_code, stopped.json()["error"]["data"]["code"]) == (403, "killed")
        kill("DELETE", field, value)
        allowed = post(gateway, message("tools/list"), **headers)
        assert allowed.status_code != 403


def test_a_saved_allow_list_takes_effect(servers: dict[str, ToolServer], tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, files(servers)).start()
    credentials = gateway.policy / "gateway.yaml"
    try:

        async def tools() -> set[str]:
            async with client_of(f"{gateway.url}/mcp/docs") as client:
                return {tool.name for tool in (await client.list_tools()).tools}

        assert "delete_file" in asyncio.run(tools())
        before = gateway.generation()
        text = credentials.read_text().replace(
            "  - id: app\n", '  - id: app\n    mcp_servers: ["docs/search", docs/read_*]\n'
        )
        gateway.save_policy("gateway.yaml", text)
        deadline = time.monotonic() + 10
        while gateway.generation() == before and time.monotonic() < deadline:
            time.sleep(0.05)
        assert asyncio.run(tools()) == {"search", "read_file"}
        assert post(gateway, message("tools/list"), server="narrow").status_code == 404
        # The server need not be told: what is left out of the list is refused too.
        call = post(gateway, message("tools/call", name="status", arguments={}))
        assert (call.status_code, call.json()["error"]["code"]) == (200, -32602)
        assert call.json()["id"] == 7
    finally:
        assert gateway.stop() == 0


@pytest.mark.parametrize("store", ["embedded", "redis"])
def test_a_hundred_calls_at_once_pass_no_limit(
    servers: dict[str, ToolServer], tmp_path: Path, store: str
) -> None:
    """The promise that money is held to, for calls: what is admitted never exceeds the limit."""
    behind = servers["json"]
    with contextlib.ExitStack() as stack:
        more: list[str] = []
        if store == "redis":
            redis = stack.enter_context(running_redis(tmp_path / "redis"))
            more = ["--store", redis.url]
        gateway = Gateway(tmp_path / "gateway", files(servers, session=30), *more).start()
        before = len(behind.calls)
        try:
            hello = {"protocolVersion": "2025-11-25", "capabilities": {}}
            hello["clientInfo"] = {"name": "race", "version": "1"}
            greeted = post(gateway, message("initialize", **hello), **session("race"))
            headers = {**session("race"), "mcp-session-id": greeted.headers["mcp-session-id"]}
            post(gateway, {"jsonrpc": "2.0", "method": "notifications/initialized"}, **headers)

            def ask(number: int) -> bool:
                call = message("tools/call", name="search", arguments={"query": str(number)})
                answer = post(gateway, {**call, "id": number}, **headers).json()
                return not answer["result"].get("isError", False)

            with ThreadPoolExecutor(16) as pool:
                admitted = sum(pool.map(ask, range(100)))
            assert admitted == 30
            assert len(behind.calls) - before == 30
            assert gateway.settled("credential-calls/tool_calls@app") == 30
        finally:
            assert gateway.stop() == 0


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_what_make_up_serves_can_be_searched_and_read(tmp_path: Path, mode: str) -> None:
    configs = {path.name: path.read_text() for path in (ROOT / "configs").glob("*.yaml")}
    gateway = Gateway(tmp_path, configs).start()
    try:

        async def talk() -> None:
            url = f"{gateway.url}/mcp/source"
            async with client_of(url, mode=mode, key="tw-demo-key") as client:
                tools = {tool.name for tool in (await client.list_tools()).tools}
                assert tools == {"search", "read_file"}
                found = await client.call_tool("search", {"query": "def reserve"})
                assert "ledger/" in found.content[0].text  # type: ignore[union-attr]

        run(talk)
        assert gateway.settled("tool-calls-of-a-team/tool_calls@data-platform") == 1
    finally:
        assert gateway.stop() == 0


def served(gateway: Gateway) -> bool:
    try:
        return httpx.get(f"{gateway.console}/healthz", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def test_a_sidecar_that_is_killed_forgets_no_call(
    servers: dict[str, ToolServer], tmp_path: Path
) -> None:
    gateway = Gateway(tmp_path, files(servers, session=3)).start()
    call = message("tools/call", name="search", arguments={"query": "x"})
    # One message in one POST: what a stateless client of 2026-07-28 sends.
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    }
    headers = {
        **session("killed"), "mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call",
        "mcp-name": "search",
    }  # fmt: skip

    def ask(query: str) -> bool:
        params = {**call["params"], "arguments": {"query": query}, "_meta": meta}
        answer = post(gateway, {**call, "params": params}, **headers)
        assert answer.status_code == 200, answer.text
        return not answer.json()["result"].get("isError", False)

    try:
        assert [ask("a"), ask("b")] == [True, True]
        gateway.child("sidecar").kill()
        deadline = time.monotonic() + 20
        while not served(gateway):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert [ask("c"), ask("d")] == [True, False]
    finally:
        assert gateway.stop() == 0
