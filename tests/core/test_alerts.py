"""Alerts: once per limit, scope value, window and threshold, whatever the order of looks."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from itertools import pairwise

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from policies import budget, limits, rule

from extproc.core import alerts as alerts_module
from extproc.core.alerts import AlertBook, Event, Mark, Sample
from extproc.values.limit import Limit
from extproc.values.notice import Severity

HOUR = 3_600_000
DAY = 24 * HOUR
MINUTE = 60_000
MIDNIGHT = int(datetime(2026, 11, 25, tzinfo=UTC).timestamp()) * 1000
NOON = MIDNIGHT + 12 * HOUR
SHARES = "".join(f'{{at_pct: {pct}, notify: "slack:#x"}}, ' for pct in (80, 90, 100))
BUDGET = f"{{id: a, ceiling_usd: 100, window: daily, alerts: [{SHARES}]}}"
DAILY: Limit = limits(b=budget(BUDGET))["a/usd"]
SLIDING: Limit = limits(
    r=rule(f"{{id: r, limit: {{requests: 100, window: 1h}}, scope: user, alerts: [{SHARES}]}}")
)["r/requests"]
DOLLAR = 1_000_000


def look(
    book: AlertBook, used: int, now_ms: int = NOON, limit: Limit = DAILY, **fields: object
) -> list[str]:
    """The names of the alerts that a look sets off; those that are over begin with a minus."""
    scale = DOLLAR if limit.is_budget else 1
    sample = Sample(limit, "", used * scale, 0)._replace(**fields)  # type: ignore[arg-type]
    return names(book.observe(sample, now_ms))


def names(events: list[Event]) -> list[str]:
    return [("-" if notice.resolved else "") + mark.name for mark, notice in events]


def restarted(book: AlertBook) -> AlertBook:
    """What another process makes of the marks that were written down."""
    lines = [orjson.dumps(dataclasses.asdict(mark)) for mark in book.marks()]
    marks = [Mark(**orjson.loads(line)) for line in lines]
    for mark in marks:
        mark.notify = tuple(mark.notify)
    return AlertBook(marks)


def test_each_threshold_is_told_once_when_it_is_reached() -> None:
    book = AlertBook()
    assert look(book, 79) == []
    assert look(book, 80) == ["80%"]
    assert look(book, 85) == []
    assert look(book, 100) == ["90%", "100%"]
    assert look(book, 130) == []


def test_every_scope_value_has_its_own_alerts() -> None:
    book = AlertBook()
    for user in ("ann", "bob"):
        assert look(book, 85, limit=SLIDING, scope_value=user) == ["80%"]
        assert look(book, 85, limit=SLIDING, scope_value=user) == []


def test_what_is_only_reserved_alerts_nobody() -> None:
    book = AlertBook()
    assert look(book, 10, reserved=90 * DOLLAR) == []


def test_a_limit_that_refuses_because_it_is_used_up_counts_as_full() -> None:
    book = AlertBook()
    assert look(book, 60, used_up=True) == []  # a single huge request did not fit
    assert look(book, 97) == ["80%", "90%"]
    assert look(book, 97, used_up=True) == ["100%"]
    assert look(book, 97) == []
    assert look(book, 100, used_up=True) == []


def test_the_next_window_begins_afresh_and_ends_what_was_told() -> None:
    book = AlertBook()
    look(book, 95)
    assert look(book, 3, NOON + DAY) == ["-80%", "-90%"]
    assert look(book, 81, NOON + DAY) == ["80%"]
    assert look(book, 85, NOON + 2 * DAY) == ["-80%", "80%"]


def test_a_window_ends_also_when_its_counter_is_gone() -> None:
    book = AlertBook()
    look(book, 95)
    assert names(book.end(MIDNIGHT + DAY - 1)) == []
    assert names(book.end(MIDNIGHT + DAY)) == ["-80%", "-90%"]
    assert book.marks() == []


def test_the_zone_decides_when_the_window_begins() -> None:
    text = BUDGET.replace("window: daily", "window: daily, timezone: America/New_York")
    limit = limits(b=budget(text))["a/usd"]
    book = AlertBook()
    assert look(book, 85, limit=limit) == ["80%"]
    assert look(book, 85, MIDNIGHT + DAY + HOUR, limit=limit) == []
    assert look(book, 85, MIDNIGHT + DAY + 5 * HOUR, limit=limit) == ["-80%", "80%"]


def test_a_raised_ceiling_sets_the_alert_again_and_a_lowered_one_does_not_repeat_it() -> None:
    book = AlertBook()
    look(book, 85)
    lower = dataclasses.replace(DAILY, ceiling=90 * DOLLAR)
    assert look(book, 85, limit=lower) == ["90%"]
    higher = dataclasses.replace(DAILY, ceiling=200 * DOLLAR)
    assert look(book, 85, limit=higher) == ["-80%", "-90%"]
    assert look(book, 160, limit=higher) == ["80%"]
    barely = dataclasses.replace(DAILY, ceiling=201 * DOLLAR)
    assert look(book, 170, limit=barely) == [], "still above 80 %: nothing new"


def test_a_correction_below_the_threshold_and_back_is_the_same_crossing() -> None:
    book = AlertBook()
    assert look(book, 85) == ["80%"]
    assert look(book, 40) == []
    assert look(book, 85) == []


def test_a_sliding_window_does_not_flap() -> None:
    book = AlertBook()
    at = NOON
    assert look(book, 80, at, SLIDING) == ["80%"]
    for minute in range(1, 180):  # up and down across the threshold for three hours
        assert look(book, 78 + minute % 5, at + minute * MINUTE, SLIDING) == []


def test_a_sliding_window_can_be_crossed_again_after_a_length_and_a_real_fall() -> None:
    book = AlertBook()
    look(book, 85, NOON, SLIDING)
    assert look(book, 10, NOON + 30 * MINUTE, SLIDING) == []  # the length has not passed
    assert look(book, 85, NOON + 40 * MINUTE, SLIDING) == []
    assert look(book, 71, NOON + 90 * MINUTE, SLIDING) == []  # not fallen far enough
    assert look(book, 69, NOON + 91 * MINUTE, SLIDING) == ["-80%"]
    assert look(book, 80, NOON + 92 * MINUTE, SLIDING) == ["80%"]


def test_a_short_sliding_window_keeps_quiet_for_five_minutes() -> None:
    limit = limits(r=rule(f"{{id: r, limit: {{requests: 100, window: 10s}}, alerts: [{SHARES}]}}"))[
        "r/requests"
    ]
    book = AlertBook()
    told = 0
    for second in range(0, 3600, 20):
        for used in (85, 5):
            told += look(book, used, NOON + second * 1000, limit).count("80%")
    assert 10 <= told <= 12


def test_a_sliding_window_that_nobody_looks_at_any_more_ends() -> None:
    book = AlertBook()
    look(book, 85, NOON, SLIDING)
    look(book, 85, NOON + HOUR, SLIDING)
    assert names(book.end(NOON + 2 * HOUR)) == []
    assert names(book.end(NOON + 3 * HOUR)) == ["-80%"]


def test_another_window_is_another_window() -> None:
    book = AlertBook()
    look(book, 85)
    weekly = limits(b=budget(BUDGET.replace("daily", "weekly")))["a/usd"]
    assert look(book, 85, limit=weekly) == ["-80%", "80%"]


def test_a_renamed_rule_is_not_told_again_and_ends_what_was_told_under_its_old_name() -> None:
    book = AlertBook()
    look(book, 85)
    renamed = limits(b=budget(BUDGET.replace("id: a", "id: b, renamed_from: a")))["b/usd"]
    for _ in range(2):
        assert look(book, 85, limit=renamed) == []
        book = restarted(book)
    assert look(book, 91, limit=renamed) == ["90%"]
    events = book.observe(Sample(renamed, "", 0, 0), NOON + DAY)
    assert [event.notice.key.partition("|")[0] for event in events] == ["a/usd", "b/usd"]
    assert book.marks() == []


def test_a_clock_that_was_set_back_repeats_nothing() -> None:
    book = AlertBook()
    look(book, 85, MIDNIGHT + 1000)
    assert look(restarted(book), 85, MIDNIGHT - 1000) == []


def test_a_ceiling_of_nothing_has_no_shares() -> None:
    assert look(AlertBook(), 0, limit=dataclasses.replace(DAILY, ceiling=0)) == []


def test_a_shadow_limit_alerts_too() -> None:
    [event] = AlertBook().observe(
        Sample(dataclasses.replace(DAILY, enforced=False), "", 85 * DOLLAR, 0), NOON
    )
    assert event.notice.title.startswith("Shadow budget a ")


@given(
    used=st.lists(st.integers(0, 130), min_size=1, max_size=40),
    looks=st.data(),
)
def test_whatever_the_looks_and_restarts_each_crossing_is_told_once_per_window(
    used: list[int], looks: st.DataObject
) -> None:
    """Use only grows within a day; who looks when, and how often the process dies, is drawn."""
    book = AlertBook()
    for day in range(2):
        told: list[str] = []
        highest = 0
        for place, amount in enumerate(sorted(used)):
            if not looks.draw(st.booleans()):
                continue
            highest = amount
            now_ms = MIDNIGHT + day * DAY + place * MINUTE
            told += [name for name in look(book, amount, now_ms) if not name.startswith("-")]
            if looks.draw(st.booleans()):
                book = restarted(book)
        reached = [f"{pct}%" for pct in (80, 90, 100) if highest >= pct]
        assert told == reached


@given(st.lists(st.integers(0, 120), max_size=60), st.integers(1, 30))
def test_a_sliding_threshold_is_told_at_most_once_per_length(used: list[int], step: int) -> None:
    book = AlertBook()
    told_at = [
        NOON + place * step * MINUTE
        for place, amount in enumerate(used)
        if "80%" in look(book, amount, NOON + place * step * MINUTE, SLIDING)
    ]
    assert all(later - earlier >= HOUR for earlier, later in pairwise(told_at))


# -- forecasts ------------------------------------------------------------------------------------

FORECAST: Limit = limits(
    b=budget(
        "{id: a, ceiling_usd: 24, window: daily, timezone: Europe/Berlin,"
        ' alerts: [{forecast: 3h, notify: "slack:#x"}]}'
    )
)["a/usd"]


def run(book: AlertBook, minutes: range, micro_usd_per_minute: int) -> list[tuple[int, str]]:
    """A steady use from Berlin's midnight on: at which minute what was told."""
    told = []
    for minute in minutes:
        sample = Sample(FORECAST, "", minute * micro_usd_per_minute, 0)
        for _, notice in book.observe(sample, MIDNIGHT - HOUR + minute * MINUTE):
            told.append((minute, notice.title))
    return told


def test_a_forecast_is_told_once_with_the_hour_of_the_budgets_zone() -> None:
    [(minute, title)] = run(AlertBook(), range(480), 50_000)
    assert minute == 5 * 60
    assert title == "Budget a runs out at 08:00 Europe/Berlin: 62.5 % of $24.00 used"


def test_a_rate_that_lasts_the_window_is_not_told() -> None:
    assert run(AlertBook(), range(24 * 60), 16_000) == []


def test_a_raised_ceiling_sets_a_forecast_again() -> None:
    book = AlertBook()
    run(book, range(400), 50_000)
    higher = dataclasses.replace(FORECAST, ceiling=48 * DOLLAR)
    now_ms = MIDNIGHT + 6 * HOUR
    assert names(book.observe(Sample(higher, "", 20 * DOLLAR, 0), now_ms)) == ["-forecast 3h"]
    assert names(book.observe(Sample(higher, "", 45 * DOLLAR, 0), now_ms + HOUR)) == ["forecast 3h"]


# -- notices and bounds ---------------------------------------------------------------------------


def test_the_key_is_the_same_on_every_sidecar_and_another_in_every_window() -> None:
    def key(now_ms: int) -> str:
        [event] = AlertBook().observe(Sample(DAILY, "", 85 * DOLLAR, 0), now_ms)
        assert event.notice.key == event.mark.key
        return event.notice.key

    assert key(NOON) == key(NOON + HOUR) == f"a/usd|80%|daily UTC|{MIDNIGHT}"
    assert key(NOON + DAY) != key(NOON)


@pytest.mark.parametrize(
    ("pct", "severity"), [(80, Severity.WARNING), (90, Severity.ERROR), (100, Severity.CRITICAL)]
)
def test_the_severity_follows_the_threshold(pct: int, severity: Severity) -> None:
    events = AlertBook().observe(Sample(DAILY, "", pct * DOLLAR, 0), NOON)
    assert events[-1].notice.severity is severity


def test_marks_and_trails_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts_module, "MAX_MARKS", 3)
    monkeypatch.setattr(alerts_module, "MAX_TRAILS", 3)
    book = AlertBook()
    for number in range(9):
        look(book, 85, limit=SLIDING, scope_value=f"u{number}")
        book.observe(Sample(FORECAST, f"u{number}", 1, 0), NOON)
    assert [mark.scope_value for mark in book.marks()] == ["u6", "u7", "u8"]
    assert len(book._trails) == 3
