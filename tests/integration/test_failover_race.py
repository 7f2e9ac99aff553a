"""Many callers failing over to a dearer target: every attempt is paid for before it is sent."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter

import aiohttp
import pytest
from gateway import HEADERS, Gateway, base_policy, chat

CALLERS = 500
SEEDS = range(int(os.environ.get("TOKENWEIR_SEEDS", "2")))
CEILING_MICRO_USD = 1_000_000
POLICY = """
name: dearer
type: gateway-load-balancing-config
rules:
  - {id: cheap, weight: 1, target: {provider: anthropic, model: claude-haiku-4-5}, timeout_ms: 700}
fallbacks:
  - {id: dear, provider: openai, model: gpt-4o, timeout_ms: 700}
circuit_breaker: {failure_threshold: 10000, window_seconds: 60, cooldown_seconds: 2}
---
name: b
type: gateway-budget-config
budgets:
  - {id: one-dollar, ceiling_usd: 1, window: monthly, on_exceed: hard_block}
"""


async def _caller(
    session: aiohttp.ClientSession, url: str, draw: random.Random, seen: Counter[str]
) -> None:
    tokens = draw.choice([100, 400, 1000, 4000])
    body = chat(model="dearer", stream=draw.random() < 0.5, max_tokens=tokens)
    leaves = draw.random() < 0.1
    try:
        async with session.post(url, json=body, headers=HEADERS) as answer:
            seen[str(answer.status)] += 1
            seen[answer.headers.get("x-tfy-resolved-model", "")] += answer.status == 200
            if not leaves:
                await answer.read()
    except aiohttp.ClientError:
        seen["broken"] += 1


async def _race(gateway: Gateway, seed: int) -> Counter[str]:
    draw = random.Random(seed)
    seen: Counter[str] = Counter()
    connector = aiohttp.TCPConnector(limit=CALLERS)
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        url = gateway.url + "/v1/chat/completions"
        await asyncio.gather(*(_caller(session, url, draw, seen) for _ in range(CALLERS)))
    return seen


@pytest.mark.parametrize("seed", SEEDS)
def test_F58_500_callers_failing_over_to_a_dearer_model_never_spend_more_than_the_dollar(
    start_gateway, seed
) -> None:
    gateway = start_gateway(base_policy(race=POLICY))
    # The first provider works for nothing half of the time, and bills all of it.
    gateway.faults(
        "anthropic",
        rate=0.5,
        hang="before_headers",
        output_tokens=9_000,
        bill_after_disconnect=True,
    )
    gateway.faults("openai", output_tokens=9_000, hidden_template_tokens=300)
    seen = asyncio.run(_race(gateway, seed))
    assert seen["openai/gpt-4o"] > 5, seen
    assert seen["429"] > 50, seen
    spent = gateway.settled("one-dollar/usd", seconds=30)
    billed = gateway.billed_micro_usd()
    attempts = Counter((line["request_id"], line["attempt"]) for line in gateway.bill())
    assert max(attempts.values()) == 1
    assert billed <= spent <= CEILING_MICRO_USD
