"""One limit on one unit over one window: what a rate rule or a budget compiles to."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum

from extproc.values.window import CalendarWindow, SlidingWindow


class Unit(IntEnum):
    """What a limit counts. The value is the place in an ``Amounts`` tuple."""

    REQUESTS = 0
    TOKENS = 1
    INPUT_TOKENS = 2
    OUTPUT_TOKENS = 3
    MICRO_USD = 4
    """The proven worst case, until it is settled: what a ``strict`` budget counts."""
    LIKELY_MICRO_USD = 5
    """What the request will likely cost, until it is settled: for ``statistical`` budgets."""


MONEY = (Unit.MICRO_USD, Unit.LIKELY_MICRO_USD)


UNIT_BY_NAME = {
    "requests": Unit.REQUESTS,
    "tokens": Unit.TOKENS,
    "input_tokens": Unit.INPUT_TOKENS,
    "output_tokens": Unit.OUTPUT_TOKENS,
    "usd": Unit.MICRO_USD,
    "tool_calls": Unit.REQUESTS,
}
TOOL_CALLS = "tool_calls"
"""Counted as requests are, and apart from them: see ``Limit.of_tools``."""

UNIT_NAMES = ("requests", "tokens", "input tokens", "output tokens", "micro-USD", "micro-USD")
"""For people, by ``Unit``."""

Amounts = tuple[int, int, int, int, int, int]
"""Requests, tokens, input tokens, output tokens, micro-USD at worst, micro-USD as likely: indexed
by ``Unit``. What is settled costs the same in the last two."""

NOTHING: Amounts = (0, 0, 0, 0, 0, 0)


class Scope(StrEnum):
    """What a counter may be keyed on."""

    __hash__ = str.__hash__  # Enum's own is written in Python, and these are dictionary keys

    SESSION = "session"
    USER = "user"
    TEAM = "team"
    PROJECT = "project"
    WORKFLOW_TAG = "workflow_tag"
    ENVIRONMENT = "environment"
    COST_CENTER = "cost_center"
    MODEL = "model"
    PROVIDER = "provider"
    CREDENTIAL = "credential"
    TOOL = "tool"
    MCP_SERVER = "mcp_server"


TOOL_SCOPES = (Scope.TOOL, Scope.MCP_SERVER)
"""Only calls of tools have these: what counts requests to models is never keyed on them."""


class BreachKind(StrEnum):
    """What happens to a request that does not fit."""

    HARD_BLOCK = "hard_block"
    QUEUE_THEN_429 = "queue_then_429"
    DEGRADE = "degrade"
    FALLBACK_TO_CHEAPER = "fallback_to_cheaper"
    FALLBACK_TO = "fallback_to"


class StoreFailure(StrEnum):
    """What happens to a request while the store of its limit cannot be asked."""

    CLOSED = "closed"
    """Refused."""
    OPEN = "open"
    """Let go, uncounted. Never for money."""
    EMERGENCY_QUOTA = "emergency_quota"
    """Let go out of an allowance that was taken from the same limit ahead of time."""


@dataclass(frozen=True, slots=True)
class Alert:
    """Whom to tell when so much of a limit is used, or will soon be."""

    at_pct: int
    """Share of the ceiling that is settled; 0 for a forecast."""
    notify: tuple[str, ...]
    """Destinations, e.g. ``slack:#ai-budget-alerts``."""
    forecast_ms: int = 0
    """Tell when the limit runs out within this time at the present rate; 0 for a share."""

    @property
    def name(self) -> str:
        """What tells the alerts of a limit apart: ``80%`` or ``forecast 6h``."""
        return (
            f"forecast {SlidingWindow(self.forecast_ms)}" if self.forecast_ms else f"{self.at_pct}%"
        )


@dataclass(frozen=True, slots=True)
class Breach:
    """The action of a rule. ``name`` is what follows ``fallback_to_``; else it is empty."""

    kind: BreachKind
    name: str = ""


NO_CEILING = 2**62
"""The ceiling of a counter that is only watched (shadow rules, overflow counters)."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A ceiling on one unit.

    Usage belongs to ``key`` and a scope value, so editing the ceiling never resets it. A rule with
    several units compiles to several limits with the same ``rule_id``.
    """

    rule_id: str
    key: str
    """Rule id and unit, unique in a snapshot: the counter's name. Stable over reloads."""
    unit: Unit
    ceiling: int
    window: SlidingWindow | CalendarWindow
    scope: tuple[Scope, ...]
    """Empty: one shared counter."""
    breach: Breach
    enforced: bool = True
    """False for ``enforce: shadow``: counted and reported, never acted on."""
    is_budget: bool = False
    fallback_ceiling: int = 0
    """For budgets with a fallback or ``degrade``: what traffic that is not on the fallback, or not
    degraded, may use up to (``fallback_at_pct`` of the ceiling); else equal to the ceiling."""
    on_store_failure: StoreFailure = StoreFailure.CLOSED
    emergency_amount: int = 0
    """The allowance of one sidecar and scope value under ``emergency_quota``."""
    max_wait_ms: int = 0
    """How long ``queue_then_429`` lets a request wait."""
    degrade_max_output_tokens: int = 0
    """How long an answer may be that ``degrade`` lets through."""
    alerts: tuple[Alert, ...] = ()
    renamed_from: str = ""
    """The key under which usage was counted before the rule got its present id."""
    of_tools: bool = False
    """Counts calls of tools (``tool_calls``), and nothing that goes to a model."""
