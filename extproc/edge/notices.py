"""What else than a limit's alert operators should hear of, in words, on its way to ``Alerting``."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence

from extproc.core.velocity import Change, Velocity, VelocityState
from extproc.edge.metrics import Metrics
from extproc.values.notice import Notice, Severity
from extproc.wire.error_body import amount_text, rfc3339

_log = logging.getLogger(__name__)

Notify = Callable[[Notice, Sequence[str]], None]
"""Takes a notice and the channels that it is for. Returns at once, never raises."""

CLOSING = ("pagerduty", "webhook")
"""Channels where there is something to close. To people the end of an alert is no news."""


def log_notice(notice: Notice, notify: Sequence[str]) -> None:
    """Tells the log, where nobody else is to be told."""
    _log.warning("notice: %s (for %s)", notice.title, ", ".join(notify) or "nobody")


def report_velocity(velocity: Velocity, metrics: Metrics, notify: Notify) -> None:
    """Takes what the velocity breakers did since the last time into metrics and notices."""
    metrics.would_block.update(velocity.take_would_block())
    metrics.velocity_open = Counter(meter.rule.id for meter in velocity.not_closed())
    for change in velocity.take_changes():
        opened = change.state is VelocityState.OPEN
        destinations: Sequence[str] = change.rule.notify
        if opened:
            metrics.velocity_trips[change.rule.id] += 1
        else:
            destinations = [to for to in destinations if to.partition(":")[0] in CLOSING]
        notify(_velocity_notice(change, opened), destinations)


def _velocity_notice(change: Change, opened: bool) -> Notice:
    rule = change.rule
    did = "stopped" if rule.enforced else "would have stopped"
    title = (
        f"The velocity breaker {rule.id} {did} runaway spending"
        if opened
        else f"Spending under the velocity breaker {rule.id} is back to normal"
    )
    scope = "+".join(rule.scope) or "policy"
    facts = [
        ("rule", rule.id),
        (scope, change.scope_value or "all"),
        ("limit", f"${amount_text('usd', change.limit)} per minute"),
        ("last minute", f"${amount_text('usd', change.spent)}, calls under way included"),
    ]
    if opened:
        facts.append(("tries again at", rfc3339(change.until_ms)))
    return Notice(
        key=f"velocity|{rule.id}|{change.scope_value}|{change.tripped_ms}",
        title=title,
        severity=Severity.CRITICAL if opened and rule.enforced else Severity.INFO,
        facts=tuple(facts),
        at_ms=change.at_ms,
        data={
            "rule_id": rule.id,
            "scope_value": change.scope_value,
            "limit_micro_usd": change.limit,
            "spent_micro_usd": change.spent,
        },
        resolved=not opened,
    )


def kill_notice(field: str, value: str, reason: str, killed: bool, at_ms: int) -> Notice:
    """An operator stopped a value, or revived it."""
    did = "stopped" if killed else "revived"
    facts = [("field", field), ("value", value)] + ([("reason", reason)] if reason else [])
    return Notice(
        key=f"kill|{field}|{value}|{did}|{at_ms}",
        title=f"The kill switch {did} {field} {value}",
        severity=Severity.WARNING if killed else Severity.INFO,
        facts=tuple(facts),
        at_ms=at_ms,
        data={"field": field, "value": value},
    )
