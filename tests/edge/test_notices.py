from __future__ import annotations

import logging
from typing import Any

import pytest

from extproc.core.velocity import Velocity
from extproc.edge.metrics import Metrics
from extproc.edge.notices import log_notice, report_velocity
from extproc.policy.snapshot import VelocityRule

NOW = 1_790_000_000_000
USD = 1_000_000


def rule(enforced: bool = True) -> VelocityRule:
    return VelocityRule("fast", (), 20 * USD, 0, 3_600_000, USD, 60_000, enforced)


def spend(velocity: Velocity, usd: int, now: int, enforced: bool = True) -> None:
    found = velocity.admit([(rule(enforced), "p")], usd * USD, now)
    assert isinstance(found, list)
    velocity.ended(found, usd * USD, now)


def test_openings_and_closings_are_told_once_with_what_matters() -> None:
    velocity, metrics = Velocity(), Metrics()
    told: list[tuple[Any, ...]] = []

    def notify(*what: Any) -> None:
        told.append(what)

    spend(velocity, 21, NOW)
    report_velocity(velocity, metrics, notify)
    report_velocity(velocity, metrics, notify)
    ((title, severity, facts),) = told
    assert "fast" in title
    assert severity == "critical"
    assert facts == {
        "rule_id": "fast",
        "scope_value": "p",
        "limit_usd_per_minute": "20.00",
        "spent_usd_last_minute": "21.00",
        "until": "2026-09-21T14:14:20Z",
    }
    assert metrics.velocity_trips == {"fast": 1}
    assert metrics.velocity_open == {"fast": 1}
    spend(velocity, 1, NOW + 70_000)
    report_velocity(velocity, metrics, notify)
    assert [one[1] for one in told] == ["critical", "info"]
    assert metrics.velocity_open == {}
    assert metrics.velocity_trips == {"fast": 1}


def test_a_shadow_breaker_says_that_it_would_have() -> None:
    velocity, metrics = Velocity(), Metrics()
    told: list[str] = []
    spend(velocity, 21, NOW, enforced=False)
    spend(velocity, 1, NOW, enforced=False)
    report_velocity(velocity, metrics, lambda title, *_: told.append(title))
    assert "would have stopped" in told[0]
    assert metrics.would_block == {"fast": 1}


def test_the_log_is_told_where_nobody_else_is(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        log_notice("Stopped", "critical", {"field": "user_id", "value": "mallory"})
    assert "Stopped (critical): field=user_id, value=mallory" in caplog.text
