"""What operators should hear of, on its way to whoever tells them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping

from extproc.core.velocity import Change, Velocity, VelocityState
from extproc.edge.metrics import Metrics
from extproc.wire.error_body import amount_text, rfc3339

_log = logging.getLogger(__name__)

Notify = Callable[[str, str, Mapping[str, object]], None]
"""Title, severity (``info``, ``warning``, ``critical``), facts. Returns at once, never raises."""


def log_notice(title: str, severity: str, facts: Mapping[str, object]) -> None:
    """Tells the log, where nobody else is to be told."""
    told = ", ".join(f"{name}={value}" for name, value in facts.items())
    _log.warning("%s (%s): %s", title, severity, told)


def report_velocity(velocity: Velocity, metrics: Metrics, notify: Notify) -> None:
    """Takes what the velocity breakers did since the last time into metrics and notices."""
    metrics.would_block.update(velocity.take_would_block())
    metrics.velocity_open = Counter(meter.rule.id for meter in velocity.not_closed())
    for change in velocity.take_changes():
        opened = change.state is VelocityState.OPEN
        if opened:
            metrics.velocity_trips[change.rule_id] += 1
        notify(_title(change, opened), "critical" if opened else "info", _facts(change, opened))


def _title(change: Change, opened: bool) -> str:
    if not opened:
        return f"Spending under {change.rule_id} is back to normal"
    would = "has stopped" if change.enforced else "would have stopped"
    return f"The velocity breaker {change.rule_id} {would} runaway spending"


def _facts(change: Change, opened: bool) -> dict[str, object]:
    facts: dict[str, object] = {
        "rule_id": change.rule_id,
        "scope_value": change.scope_value,
        "limit_usd_per_minute": amount_text("usd", change.limit),
        "spent_usd_last_minute": amount_text("usd", change.spent),
    }
    if opened:
        facts["until"] = rfc3339(change.until_ms)
    return facts
