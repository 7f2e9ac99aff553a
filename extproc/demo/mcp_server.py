"""The demo provider as an MCP server: this program's own source, to be searched and read.

Streamable HTTP without sessions, answers in JSON: enough for every client, small enough to read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

import extproc
from extproc.demo.folder import TextFolder, read_folder

PATH = "/mcp"
VERSIONS = ("2025-03-26", "2025-06-18", "2025-11-25")
"""Protocol versions with a handshake, oldest first. Later ones fall back to it."""

Json = dict[str, Any]

_PARSE_ERROR, _INVALID_REQUEST, _UNKNOWN_METHOD, _INVALID_PARAMS = -32700, -32600, -32601, -32602
_TEXT = {"type": "string"}
TOOLS: list[Json] = [
    {
        "name": "search",
        "description": "Finds lines of the source by words. Gives path:line: text, best first.",
        "inputSchema": {
            "type": "object",
            "properties": {"query": _TEXT},
            "required": ["query"],
        },
        "annotations": {"readOnlyHint": True},
    },
    {
        "name": "read_file",
        "description": "Reads up to 200 numbered lines of a file, from first_line on.",
        "inputSchema": {
            "type": "object",
            "properties": {"path": _TEXT, "first_line": {"type": "integer", "minimum": 1}},
            "required": ["path"],
        },
        "annotations": {"readOnlyHint": True},
    },
]


class _RpcError(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class McpServer:
    """The server over one folder, which is read at the first call."""

    def __init__(self, folder: Path | None = None) -> None:
        self._root = folder or Path(extproc.__file__).parent
        self._folder: TextFolder | None = None

    def add_to(self, application: web.Application) -> None:
        """Serves at ``PATH``. Other methods than POST get 405: there are no sessions to end, and
        nothing is said unasked."""
        application.router.add_post(PATH, self._post)

    async def _post(self, request: web.Request) -> web.Response:
        origin = request.headers.get("origin", "")
        if origin and urlsplit(origin).hostname not in ("127.0.0.1", "localhost", "::1"):
            raise web.HTTPForbidden(text="foreign origin")  # a page that rebound its name to us
        try:
            message = json.loads(await request.read())
        except (ValueError, RecursionError):
            return _error(None, _PARSE_ERROR, "not JSON", 400)
        if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
            return _error(None, _INVALID_REQUEST, "not one JSON-RPC 2.0 message", 400)
        if "id" not in message or "method" not in message:
            return web.Response(status=202)
        params = message.get("params")
        try:
            result = self._answer(message["method"], params if isinstance(params, dict) else {})
        except _RpcError as error:
            return _error(message["id"], error.code, str(error), 200)
        return web.json_response({"jsonrpc": "2.0", "id": message["id"], "result": result})

    def _answer(self, method: object, params: Json) -> Json:
        if method == "initialize":
            asked = params.get("protocolVersion")
            return {
                "protocolVersion": asked if asked in VERSIONS else VERSIONS[-1],
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "tokenweir-demo", "version": extproc.__version__},
            }
        if method == "ping":
            return {}
        if method == "tools/list":
            return {"tools": TOOLS}
        if method == "tools/call":
            arguments = params.get("arguments", {})
            if not isinstance(arguments, dict):
                raise _RpcError(_INVALID_PARAMS, "arguments must be an object")
            return self._call(params.get("name"), arguments)
        raise _RpcError(_UNKNOWN_METHOD, "no such method")

    def _call(self, name: object, arguments: Json) -> Json:
        if self._folder is None:
            self._folder = TextFolder(read_folder(self._root))
        if name == "search" and isinstance(arguments.get("query"), str):
            return _result(self._folder.search(arguments["query"]))
        if name == "read_file" and isinstance(arguments.get("path"), str):
            first = arguments.get("first_line", 1)
            text = self._folder.read_file(arguments["path"], first if isinstance(first, int) else 1)
            return _result(text or "There is no such file: search names them.", failed=text is None)
        if name in ("search", "read_file"):
            return _result("The arguments are not those of the tool's schema.", failed=True)
        raise _RpcError(_INVALID_PARAMS, "Unknown tool")


def _result(text: str, *, failed: bool = False) -> Json:
    return {"content": [{"type": "text", "text": text}], "isError": failed}


def _error(message_id: object, code: int, message: str, status: int) -> web.Response:
    error = {"code": code, "message": message}
    return web.json_response({"jsonrpc": "2.0", "id": message_id, "error": error}, status=status)
