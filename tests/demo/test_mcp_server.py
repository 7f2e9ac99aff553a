"""The demo provider's MCP server, driven by the official client."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from demo_provider import Demo
from mcp import MCPError
from mcp_rig import client_of


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_the_official_client_searches_and_reads(demo: Demo, mode: str) -> None:
    async def talk() -> None:
        async with client_of(f"{demo.url}/mcp", mode=mode) as client:
            tools = {tool.name for tool in (await client.list_tools()).tools}
            assert tools == {"search", "read_file"}
            found = await client.call_tool("search", {"query": "class LoopGuard"})
            path, number, _ = found.content[0].text.split(":", 2)  # type: ignore[union-attr]
            assert path == "core/loop_guard.py"
            read = await client.call_tool("read_file", {"path": path, "first_line": int(number)})
            assert f"{number}\tclass LoopGuard" in read.content[0].text  # type: ignore[union-attr]
            for arguments in ({"path": "../pyproject.toml"}, {}):
                assert (await client.call_tool("read_file", arguments)).is_error
            with pytest.raises(MCPError) as error:
                await client.call_tool("write_file", {})
            assert error.value.code == -32602

    asyncio.run(talk())


def test_what_is_no_message(demo: Demo) -> None:
    def post(content: str, **headers: str) -> httpx.Response:
        return httpx.post(f"{demo.url}/mcp", content=content, headers=headers)

    assert post("{").json()["error"]["code"] == -32700
    assert post("[]").json()["error"]["code"] == -32600
    unknown = post('{"jsonrpc":"2.0","id":1,"method":"resources/list"}')
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (200, -32601)
    assert post('{"jsonrpc":"2.0","method":"notifications/initialized"}').status_code == 202
    assert post('{"jsonrpc":"2.0","id":1,"method":"ping"}').json()["result"] == {}
    assert httpx.get(f"{demo.url}/mcp").status_code == 405
    foreign = post('{"jsonrpc":"2.0","id":1,"method":"ping"}', origin="https://evil.example")
    assert foreign.status_code == 403
    own = post('{"jsonrpc":"2.0","id":1,"method":"ping"}', origin="http://localhost:3000")
    assert own.status_code == 200
