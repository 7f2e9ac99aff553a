"""How the rules of a virtual model are chosen from, and what a rule asks of a request. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from zoneinfo import ZoneInfo

from extproc.policy.matching import Condition


class RuleType(StrEnum):
    """In which order the rules of a virtual model are tried."""

    WEIGHT = "weight-based"
    """One is drawn by weight, the others follow as declared."""
    PRIORITY = "priority-based"
    """The lowest priority number first."""
    LATENCY = "latency-based"
    """One of the fast is drawn, the slow follow by speed."""
    COST = "cost-based"
    """The cheapest for this request first."""


class StickyBy(StrEnum):
    """Whose requests stay at one target."""

    SESSION = "session"
    USER = "user"


@dataclass(frozen=True, slots=True)
class Sticky:
    """Requests of one session or user stay at one target while it is available."""

    by: StickyBy
    ttl_ms: int
    """Forgotten after so long without a request."""


@dataclass(frozen=True, slots=True)
class Sla:
    """How fast a target must have been lately; 0: as slow as it likes."""

    output_token_ms: int = 0
    first_token_ms: int = 0


DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MINUTES_PER_DAY = 1_440


@dataclass(frozen=True, slots=True)
class Hours:
    """A stretch of the day in a time zone. One that ends before it begins goes over midnight, and
    belongs to the day on which it began."""

    begins: int
    """Minutes since midnight."""
    ends: int
    """The first minute after it."""
    zone: str
    days: frozenset[int]
    """Monday is 0."""

    def hold(self, now_ms: int) -> bool:
        """Whether an instant is within."""
        return _within(self, now_ms // 60_000)


@lru_cache(maxsize=1_024)
def _within(hours: Hours, minute: int) -> bool:
    # Zones change their offset on whole minutes, so a minute is within as a whole.
    local = datetime.fromtimestamp(minute * 60, ZoneInfo(hours.zone))
    at = local.hour * 60 + local.minute
    if hours.begins < hours.ends:
        return hours.begins <= at < hours.ends and local.weekday() in hours.days
    if at >= hours.begins:
        return local.weekday() in hours.days
    return at < hours.ends and (local - timedelta(days=1)).weekday() in hours.days


@dataclass(frozen=True, slots=True)
class BudgetShare:
    """A named budget must be used so far, in percent of its ceiling."""

    budget: str
    pct: int
    above: bool
    """Used more than ``pct``; otherwise at most that."""


@dataclass(frozen=True, slots=True)
class When:
    """What must hold of a request for a rule to be considered. All of it."""

    conditions: tuple[Condition, ...] = ()
    above_prompt_tokens: int | None = None
    below_prompt_tokens: int | None = None
    budgets: tuple[BudgetShare, ...] = ()
    hours: Hours | None = None
