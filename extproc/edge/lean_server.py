"""The listening socket of the lean transport."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from pathlib import Path

from extproc.edge.lean import LeanConnection
from extproc.edge.stream import Service


class LeanServer:
    """A listening unix socket and its connections."""

    def __init__(self, path: Path, service: Service) -> None:
        self._path = path
        self._service = service
        self._connections: set[LeanConnection] = set()
        self._server: asyncio.AbstractServer | None = None

    async def start(self, mode: int = 0o600) -> None:
        """Listens. The socket's mode is who may speak to us: nobody else is asked who they are."""
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(self._path.lstat().st_mode):
                self._path.unlink()
        listener = socket.socket(socket.AF_UNIX)
        before = os.umask(0o777 & ~mode)
        try:
            listener.bind(str(self._path))
        finally:
            os.umask(before)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(self._accept, sock=listener, backlog=1024)

    def _accept(self) -> LeanConnection:
        connection = LeanConnection(self._service, self._connections.discard)
        self._connections.add(connection)
        return connection

    async def stop(self, grace_s: float) -> None:
        """Finishes open streams for at most ``grace_s`` seconds, then closes."""
        assert self._server is not None
        self._server.close()
        for connection in self._connections:
            connection.drain()
        deadline = asyncio.get_running_loop().time() + grace_s
        while asyncio.get_running_loop().time() < deadline:
            if all(connection.idle for connection in self._connections):
                break
            await asyncio.sleep(0.01)
        for connection in list(self._connections):
            connection.abort()
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
