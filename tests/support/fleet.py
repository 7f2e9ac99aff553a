"""Several gateways under one policy, and many callers at once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import aiohttp
from gateway import HEADERS, Gateway
from usage_logs import verified

Body = Callable[[random.Random], dict[str, Any]]
PATH = "/v1/chat/completions"


class Fleet:
    """Gateways that share a store, or one that has its own."""

    def __init__(self, gateways: Sequence[Gateway]) -> None:
        self.gateways = tuple(gateways)

    def faults(self, provider: str, **faults: Any) -> None:
        """Sets a provider's faults, at every gateway's demo provider."""
        for gateway in self.gateways:
            gateway.faults(provider, **faults)

    def billed_micro_usd(self) -> int:
        """The providers' own total."""
        return sum(gateway.billed_micro_usd() for gateway in self.gateways)

    def settled(self, name: str, seconds: float = 30) -> int:
        """What all of them have settled, once nothing is reserved any more. With a shared store
        each gateway tells its own part."""
        return sum(gateway.settled(name, seconds) for gateway in self.gateways)

    def stop(self) -> None:
        """Ends all gateways; then their logs together must prove the bound: a shared store has one
        ceiling for all of them."""
        for gateway in self.gateways:
            gateway.stop()
        verified(*(gateway.state / "ledger" for gateway in self.gateways))

    def race(self, seed: int, callers: int, body: Body, leaves: float = 0.0) -> Counter[int]:
        """``callers`` calls at the same moment, spread over the gateways; statuses by count, 0 for
        a cut connection. A share of ``leaves`` hangs up after the first bytes of the answer."""
        return asyncio.run(self._race(seed, callers, body, leaves))

    async def _race(self, seed: int, callers: int, body: Body, leaves: float) -> Counter[int]:
        draw = random.Random(seed)
        statuses: Counter[int] = Counter()
        connector = aiohttp.TCPConnector(limit=callers)
        timeout = aiohttp.ClientTimeout(total=90)

        async def call(number: int) -> None:
            url = self.gateways[number % len(self.gateways)].url + PATH
            goes = draw.random() < leaves
            try:
                async with session.post(url, json=body(draw), headers=HEADERS) as answer:
                    statuses[answer.status] += 1
                    await (answer.content.read(10) if goes else answer.read())
            except aiohttp.ClientError:
                statuses[0] += 1

        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            await asyncio.gather(*map(call, range(callers)))
        return statuses
