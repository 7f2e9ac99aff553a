from __future__ import annotations

import logging

import pytest

from extproc.core.velocity import Velocity
from extproc.edge.metrics import Metrics
from extproc.edge.notices import kill_notice, log_notice, report_velocity
from extproc.policy.snapshot import VelocityRule
from extproc.values.limit import Scope
from extproc.values.notice import Notice

NOW = 1_790_000_000_000
USD = 1_000_000
CHANNELS = ("slack:#x", "pagerduty:ops")


def rule(enforced: bool = True) -> VelocityRule:
    return VelocityRule(
        "fast", (Scope.USER,), 20 * USD, 0, 3_600_000, USD, 60_000, enforced, CHANNELS
    )


def spend(velocity: Velocity, usd: int, now: int, enforced: bool = True) -> None:
    found = velocity.admit([(rule(enforced), "p")], usd * USD, now)
    assert isinstance(found, list)
    velocity.ended(found, usd * USD, now)


def test_openings_and_closings_are_told_once_with_what_matters() -> None:
    velocity, metrics = Velocity(), Metrics()
    told: list[tuple[Notice, tuple[str, ...]]] = []

    def notify(notice: Notice, channels: object) -> None:
        told.append((notice, tuple(channels)))  # type: ignore[arg-type]

    spend(velocity, 21, NOW)
    report_velocity(velocity, metrics, notify)
    report_velocity(velocity, metrics, notify)
    ((notice, channels),) = told
    assert channels == CHANNELS
    assert "fast stopped" in notice.title
    assert (notice.severity.value, notice.resolved) == ("critical", False)
    assert notice.facts == (
        ("rule", "fast"),
        ("user", "p"),
        ("limit", "$20.00 per minute"),
        ("last minute", "$21.00, calls under way included"),
        ("tries again at", "2026-09-21T14:14:20Z"),
    )
    assert notice.data["spent_micro_usd"] == 21 * USD
    assert metrics.velocity_trips == {"fast": 1}
    assert metrics.velocity_open == {"fast": 1}
    spend(velocity, 1, NOW + 70_000)
    report_velocity(velocity, metrics, notify)
    closing, channels = told[1]
    # Only where there is something to close, under the key of the opening.
    assert channels == ("pagerduty:ops",)
    assert (closing.key, closing.resolved) == (notice.key, True)
    assert metrics.velocity_open == {}
    assert metrics.velocity_trips == {"fast": 1}
    spend(velocity, 30, NOW + 80_000)
    report_velocity(velocity, metrics, notify)
    assert told[2][0].key != notice.key


def test_a_shadow_breaker_says_that_it_would_have() -> None:
    velocity, metrics = Velocity(), Metrics()
    told: list[Notice] = []
    spend(velocity, 21, NOW, enforced=False)
    spend(velocity, 1, NOW, enforced=False)
    report_velocity(velocity, metrics, lambda notice, _: told.append(notice))
    assert "would have stopped" in told[0].title
    assert told[0].severity.value == "info"
    assert metrics.would_block == {"fast": 1}


def test_every_order_of_the_kill_switch_is_a_notice_of_its_own() -> None:
    first = kill_notice("user_id", "mallory", "ran away", True, NOW)
    again = kill_notice("user_id", "mallory", "", True, NOW + 1)
    revived = kill_notice("user_id", "mallory", "", False, NOW + 1)
    assert len({first.key, again.key, revived.key}) == 3
    assert first.facts == (("field", "user_id"), ("value", "mallory"), ("reason", "ran away"))
    assert revived.title == "The kill switch revived user_id mallory"


def test_the_log_is_told_where_nobody_else_is(caplog: pytest.LogCaptureFixture) -> None:
    notice = kill_notice("team", "red", "", True, NOW)
    with caplog.at_level(logging.WARNING):
        log_notice(notice, ())
        log_notice(notice, CHANNELS)
    assert "The kill switch stopped team red (for nobody)" in caplog.text
    assert "(for slack:#x, pagerduty:ops)" in caplog.text
