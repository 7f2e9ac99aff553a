"""Letting an Envoy finish what it began, before it is told to end."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import aiohttp

DRAIN_S = 5.0
"""How long answers that are under way may take. Docker kills ten seconds after it asked."""
POLL_S = 0.05
LOG_FLUSH_S = 0.1
"""After the last answer: its log entry, which settles it, is sent within 20 ms."""

_ACTIVE = re.compile(rb"^http\.gateway\.downstream_rq_active: (\d+)$", re.MULTILINE)


async def drain_envoy(admin_socket: Path, at_most_s: float = DRAIN_S) -> bool:
    """Closes the listeners and waits for the requests under way. SIGTERM alone would cut them.

    False when some are still under way after ``at_most_s`` seconds, or Envoy cannot be asked.
    """
    connector = aiohttp.UnixConnector(path=str(admin_socket))
    timeout = aiohttp.ClientTimeout(total=at_most_s)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + at_most_s
    try:
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as envoy:
            # Not gracefully: that would go on accepting new connections for the drain time.
            async with envoy.post("http://envoy/drain_listeners") as answer:
                answer.raise_for_status()
            while loop.time() < deadline:
                if await _active(envoy) == 0:
                    await asyncio.sleep(LOG_FLUSH_S)
                    return True
                await asyncio.sleep(POLL_S)
    except (aiohttp.ClientError, OSError, TimeoutError):
        pass  # it may have ended by itself
    return False


async def _active(envoy: aiohttp.ClientSession) -> int:
    url = "http://envoy/stats?filter=^http\\.gateway\\.downstream_rq_active$"
    async with envoy.get(url) as answer:
        found = _ACTIVE.search(await answer.read())
    return int(found[1]) if found else 0
