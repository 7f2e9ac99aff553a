"""Velocity rules, as written: the key ``velocity`` of a budget document."""

from __future__ import annotations

from decimal import Decimal

from extproc.policy.channel_documents import read_notify
from extproc.policy.drafts import Drafts, VelocityDraft
from extproc.policy.limit_documents import (
    read_duration_ms,
    read_micro_usd,
    read_scopes,
    read_when,
)
from extproc.policy.matching import ConditionalLimit
from extproc.policy.reading import Section
from extproc.policy.snapshot import VelocityRule
from extproc.values.limit import Scope
from extproc.values.money import MICRO_USD_PER_USD

DEFAULT_BASELINE_MS = 3_600_000
MIN_BASELINE_MS = 600_000
"""The last minute is what is compared, so the usual must be looked for well before it."""
MAX_BASELINE_MS = 7 * 86_400_000
DEFAULT_COOLDOWN_MS = 300_000
MAX_COOLDOWN_MS = 86_400_000
MAX_TIMES_BASELINE = 1_000


def read_velocity(document: Section, drafts: Drafts) -> None:
    """The list ``velocity``."""
    for section in document.sections("velocity"):
        conditions = read_when(section, drafts)
        rule = _rule(section, drafts)
        if Scope.SESSION in rule.scope and len(rule.scope) == 1:
            section.warning(
                "scope",
                "session_without_companion",
                f"{rule.id}: session ids are chosen by the caller; each has a breaker of its own",
            )
        drafts.velocity.append(VelocityDraft(section, ConditionalLimit(rule, conditions)))
        section.done()


def _rule(section: Section, drafts: Drafts) -> VelocityRule:
    most = section.decimal("max_usd_per_minute")
    times = section.decimal("times_baseline")
    least = section.decimal("min_usd_per_minute")
    if "max_usd_per_minute" not in section and "times_baseline" not in section:
        section.error(
            "", "missing_key", "a velocity rule needs max_usd_per_minute or times_baseline"
        )
    max_micro_usd = read_micro_usd(section, "max_usd_per_minute", most)
    if most is not None and max_micro_usd == 0:
        section.error(
            "max_usd_per_minute", "out_of_range", f"max_usd_per_minute is too small: {most}"
        )
    if times is not None and not 1 < times <= MAX_TIMES_BASELINE:
        section.error(
            "times_baseline",
            "out_of_range",
            f"times_baseline must be above 1, at most {MAX_TIMES_BASELINE}, not {times}",
        )
    min_micro_usd = read_micro_usd(section, "min_usd_per_minute", least)
    if least is None:
        # A ceiling below the usual minimum is meant as it stands.
        min_micro_usd = min(MICRO_USD_PER_USD, max_micro_usd or MICRO_USD_PER_USD)
    elif max_micro_usd and min_micro_usd > max_micro_usd:
        section.error(
            "min_usd_per_minute",
            "out_of_range",
            f"min_usd_per_minute {least} is above max_usd_per_minute {most}",
        )
    baseline_ms = read_duration_ms(section, "baseline", DEFAULT_BASELINE_MS, MAX_BASELINE_MS)
    if baseline_ms < MIN_BASELINE_MS:
        section.error("baseline", "bad_duration", "baseline must be at least 10m")
    return VelocityRule(
        id=section.identifier(),
        scope=read_scopes(section, section.node("scope")),
        max_micro_usd=max_micro_usd,
        times_baseline_pct=int((times or Decimal(0)) * 100),
        baseline_ms=baseline_ms,
        min_micro_usd=min_micro_usd,
        cooldown_ms=read_duration_ms(section, "cooldown", DEFAULT_COOLDOWN_MS, MAX_COOLDOWN_MS),
        enforced=section.choice("enforce", ("enforce", "shadow"), "enforce") == "enforce",
        notify=read_notify(section, drafts) if "notify" in section else (),
    )
