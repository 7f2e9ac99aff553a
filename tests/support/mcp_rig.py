"""A real MCP server for tests, written with the official package, and a client of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import uvicorn
from gateway import KEY
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.mcpserver import Context, MCPServer
from starlette.types import ASGIApp, Receive, Scope, Send

START_S = 10.0


class ToolServer:
    """Some tools on a free port, as JSON answers or as streams. Remembers what it was sent."""

    def __init__(self, *, json_response: bool) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.requests: list[tuple[str, dict[str, str]]] = []
        """Method and headers of each HTTP request."""
        app = self._tools().streamable_http_app(json_response=json_response)
        config = uvicorn.Config(
            self._watched(app), host="127.0.0.1", port=0, log_level="critical", lifespan="on"
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self.url = ""

    def _tools(self) -> MCPServer:
        server = MCPServer("rig")
        calls = self.calls

        @server.tool()
        def search(query: str) -> str:
            """Finds files."""
            calls.append(("search", {"query": query}))
            return f"found {query}"

        @server.tool()
        def read_file(path: str) -> str:
            """Reads a file."""
            calls.append(("read_file", {"path": path}))
            return f"content of {path}"

        @server.tool()
        def delete_file(path: str) -> str:
            """Deletes a file."""
            calls.append(("delete_file", {"path": path}))
            return "gone"

        @server.tool()
        def status() -> str:
            """How far a job is."""
            calls.append(("status", {}))
            return "running"

        @server.tool()
        async def slow(steps: int, context: Context) -> str:
            """Reports its progress."""
            calls.append(("slow", {"steps": steps}))
            for step in range(steps):
                await context.report_progress(step + 1, steps)
                await asyncio.sleep(0.05)
            return "done"

        @server.tool()
        async def announce(context: Context) -> str:
            """Says that the list of tools has changed."""
            await context.session.send_tool_list_changed()
            return "announced"

        return server

    def _watched(self, app: ASGIApp) -> ASGIApp:
        async def watched(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                headers = {name.decode(): value.decode() for name, value in scope["headers"]}
                self.requests.append((scope["method"], headers))
            await app(scope, receive, send)

        return watched

    def start(self) -> ToolServer:
        """Serves from a thread of its own."""
        self._thread.start()
        for _ in range(int(START_S * 100)):
            if self._server.started:
                port = self._server.servers[0].sockets[0].getsockname()[1]
                self.url = f"http://127.0.0.1:{port}/mcp"
                return self
            threading.Event().wait(0.01)
        raise AssertionError("the MCP server did not start")

    def stop(self) -> None:
        """Ends it, streams and all."""
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(timeout=START_S)


@asynccontextmanager
async def client_of(
    url: str,
    *,
    mode: str = "auto",
    key: str = KEY,
    headers: dict[str, str] | None = None,
    **more: Any,
) -> AsyncIterator[Client]:
    """An official client with a gateway's key."""
    sent = {"authorization": f"Bearer {key}", **(headers or {})}
    async with httpx2.AsyncClient(headers=sent, timeout=20) as http:
        transport = streamable_http_client(url, http_client=http)
        async with Client(transport, mode=mode, cache=None, **more) as client:  # type: ignore[arg-type]
            yield client


def run(test: Callable[[], Awaitable[None]]) -> None:
    """Runs an asynchronous test."""
    asyncio.run(test())  # type: ignore[arg-type]
