"""Short words for tests of ledgers."""

from __future__ import annotations

from extproc.ledger.port import Account, Hold
from extproc.values.limit import Amounts, Breach, BreachKind, Limit, Unit
from extproc.values.window import parse_window

NOW = 1_790_000_000_000
BLOCK = Breach(BreachKind.HARD_BLOCK)


def limit(key: str, ceiling: int, window: str = "1m", unit: Unit = Unit.TOKENS) -> Limit:
    return Limit(key, key, unit, ceiling, parse_window(window), (), BLOCK, fallback_ceiling=ceiling)


def hold(limit: Limit, value: str = "") -> Hold:
    return Hold(limit, value, limit.ceiling)


def amounts(tokens: int) -> Amounts:
    return (1, tokens, tokens, 0, tokens * 10, tokens * 10)


def take(ledger, name: str, tokens: int, *holds: Hold, now: int = NOW):
    return ledger.reserve(name, Account(holds, {}), amounts(tokens), now, now + 1000)
