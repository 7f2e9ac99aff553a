"""A server on a free port of this machine, for as long as a client's load takes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


def against(make: Callable[[], asyncio.Protocol], load: Callable[[int], Any]) -> Any:
    """What the load, told the port, gives back."""

    async def run() -> Any:
        server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
        try:
            return await load(server.sockets[0].getsockname()[1])
        finally:
            server.close()

    return asyncio.run(run())
