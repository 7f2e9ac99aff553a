"""What a virtual model says about the choice between its rules, as written."""

from __future__ import annotations

import re
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from extproc.policy.drafts import Drafts
from extproc.policy.limit_documents import condition_on, read_duration_ms, read_metadata
from extproc.policy.reading import Section
from extproc.policy.routing_rules import (
    DAYS,
    MINUTES_PER_DAY,
    BudgetShare,
    Hours,
    RuleType,
    Sla,
    Sticky,
    StickyBy,
    When,
)

MAX_SLA_MS = 600_000
MAX_PROMPT_TOKENS = 1_000_000_000
DEFAULT_STICKY_MS = 3_600_000
"""Prompt caches are kept for an hour at most, and people come back to a session within one."""
MAX_STICKY_MS = 86_400_000
_CLOCK = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])")


def read_rule_type(document: Section) -> RuleType:
    """``rule_type``."""
    return RuleType(document.choice("rule_type", tuple(RuleType), RuleType.WEIGHT))


def read_sticky(document: Section) -> Sticky | None:
    """``sticky: session``, or ``sticky: {by: user, ttl: 30m}``."""
    node = document.node("sticky")
    if node is None:
        return None
    if not isinstance(node.value, dict):
        by = document.choice("sticky", tuple(StickyBy), StickyBy.SESSION)
        return Sticky(StickyBy(by), DEFAULT_STICKY_MS)
    section = Section(node, document.file, document.findings, "sticky")
    by = section.choice("by", tuple(StickyBy), StickyBy.SESSION)
    ttl_ms = read_duration_ms(section, "ttl", DEFAULT_STICKY_MS, MAX_STICKY_MS)
    section.done()
    return Sticky(StickyBy(by), ttl_ms)


def read_sla(rule: Section) -> Sla | None:
    """``sla`` of a rule."""
    section = rule.section("sla")
    if section is None:
        return None
    sla = Sla(
        section.integer("time_per_output_token_ms", 0, 1, MAX_SLA_MS),
        section.integer("first_token_ms", 0, 1, MAX_SLA_MS),
    )
    if sla == Sla():
        section.error("", "missing_key", "sla needs time_per_output_token_ms or first_token_ms")
    section.done()
    return sla


def read_rule_when(rule: Section, drafts: Drafts) -> When | None:
    """``when`` of a rule."""
    section = rule.section("when")
    if section is None:
        return None
    conditions = read_metadata(section, drafts)
    if "workflow_tag" in section:
        conditions.append(condition_on("workflow_tag", section.texts("workflow_tag")))
    when = When(
        tuple(conditions),
        _prompt_tokens(section, "prompt_tokens_above"),
        _prompt_tokens(section, "prompt_tokens_below"),
        tuple(
            _budget_shares(section, "budget_used_pct_above", above=True)
            + _budget_shares(section, "budget_used_pct_below", above=False)
        ),
        _hours(section),
    )
    section.done()
    return when


def _prompt_tokens(section: Section, key: str) -> int | None:
    return section.integer(key, 0, 0, MAX_PROMPT_TOKENS) if key in section else None


def _budget_shares(section: Section, key: str, *, above: bool) -> list[BudgetShare]:
    budgets = section.section(key)
    if budgets is None:
        return []
    # "Below 80" is at most 79: shares are whole percents, rounded down.
    return [
        BudgetShare(name, budgets.integer(name, 0, 0, 1_000) - (not above), above)
        for name, _ in budgets.items()
    ]


def _hours(section: Section) -> Hours | None:
    time = section.section("time")
    if time is None:
        return None
    zone = time.text("zone", "UTC")
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        time.error("zone", "bad_zone", f"unknown time zone {zone[:80]!r}")
        zone = "UTC"
    days = set()
    for day in time.texts("days"):
        if day in DAYS:
            days.add(DAYS.index(day))
        else:
            time.error("days", "bad_value", f"{day[:80]!r} is no day; one of {', '.join(DAYS)}")
    hours = Hours(
        _minute(time, "from", 0),
        _minute(time, "to", MINUTES_PER_DAY),
        zone,
        frozenset(days or range(len(DAYS))),
    )
    if hours.begins == hours.ends:
        time.error("to", "bad_value", "from and to are the same")
    time.done()
    return hours


def _minute(time: Section, key: str, default: int) -> int:
    text = time.text(key)
    if not text:
        return default
    if text == "24:00":
        return MINUTES_PER_DAY
    match = _CLOCK.fullmatch(text)
    if match is None:
        time.error(key, "bad_value", f'{key} must be like "08:30", not {text[:80]!r}')
        return default
    return int(match[1]) * 60 + int(match[2])
