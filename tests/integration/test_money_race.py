"""Many callers against one dollar: the provider's own bill never exceeds the ceiling."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter

import aiohttp
import pytest
from gateway import HEADERS, Gateway, base_policy, chat

CALLERS = 500
SEEDS = range(int(os.environ.get("TOKENWEIR_SEEDS", "2")))

ONE_DOLLAR = """
name: b
type: gateway-budget-config
budgets:
  - {id: one-dollar, ceiling_usd: 1, window: monthly, on_exceed: hard_block}
"""
CEILING_MICRO_USD = 1_000_000


async def _caller(
    session: aiohttp.ClientSession, url: str, draw: random.Random, statuses: Counter[int]
) -> None:
    stream = draw.random() < 0.5
    leaves = draw.random() < 0.2
    body = chat(stream=stream, max_tokens=draw.choice([100, 400, 1000]))
    try:
        async with session.post(url, json=body, headers=HEADERS) as answer:
            statuses[answer.status] += 1
            if leaves:
                await answer.content.read(10)
                return
            await answer.read()
    except aiohttp.ClientError:
        statuses[0] += 1


async def _race(gateway: Gateway, seed: int, callers: int) -> Counter[int]:
    draw = random.Random(seed)
    statuses: Counter[int] = Counter()
    connector = aiohttp.TCPConnector(limit=callers)
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        url = gateway.url + "/v1/chat/completions"
        await asyncio.gather(*(_caller(session, url, draw, statuses) for _ in range(callers)))
    return statuses


@pytest.mark.parametrize("transport", ["lean", "grpcio"])
@pytest.mark.parametrize("seed", SEEDS)
def test_500_callers_never_spend_more_than_the_dollar(start_gateway, transport, seed) -> None:
    gateway = start_gateway(base_policy(budget=ONE_DOLLAR), "--transport", transport)
    gateway.faults("anthropic", output_tokens=1000, bill_after_disconnect=True)
    gateway.faults("bedrock", status=503)
    gateway.faults("openai", output_tokens=1000, hidden_template_tokens=300)
    statuses = asyncio.run(_race(gateway, seed, CALLERS))
    assert statuses[200] > 50, statuses
    assert statuses[429] > 50, statuses
    spent = gateway.settled("one-dollar/usd", seconds=30)
    assert gateway.billed_micro_usd() <= spent <= CEILING_MICRO_USD


def test_F36_a_killed_sidecar_loses_no_dollar(start_gateway) -> None:
    gateway = start_gateway(base_policy(budget=ONE_DOLLAR))
    gateway.faults("anthropic", output_tokens=50, chunk_delay_ms=5)

    async def scenario() -> Counter[int]:
        race = asyncio.create_task(_race(gateway, 7, 150))
        await asyncio.sleep(0.6)
        gateway.child("sidecar").send_signal(signal.SIGKILL)
        return await race

    statuses = asyncio.run(scenario())
    assert statuses[200] > 0, statuses
    deadline = time.monotonic() + 15
    while gateway.post().status_code == 503:
        assert time.monotonic() < deadline, "the sidecar did not come back"
        time.sleep(0.1)
    # What was in flight is still reserved: it is charged when its lease ends, never given back.
    counter = gateway.usage()["one-dollar/usd"]
    billed = gateway.billed_micro_usd()
    assert billed <= counter["settled"] + counter["reserved"] <= CEILING_MICRO_USD
    asyncio.run(_race(gateway, 8, 300))
    time.sleep(0.5)
    counter = gateway.usage()["one-dollar/usd"]
    assert gateway.billed_micro_usd() <= counter["settled"] + counter["reserved"]
    assert counter["settled"] + counter["reserved"] <= CEILING_MICRO_USD
