"""Waiting for what is about to be so."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


def until(condition: Callable[[], object], seconds: float = 10.0) -> float:
    """The seconds that it took. Fails where it takes longer."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds
        time.sleep(0.02)
    return time.monotonic() - began


async def until_on_loop(condition: Callable[[], object], seconds: float = 8.0) -> float:
    """The same for tests on an event loop."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds
        await asyncio.sleep(0.01)
    return time.monotonic() - began
