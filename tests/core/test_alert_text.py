"""Alerts in words: what an operator reads at night, and what a program gets."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from policies import budget, limits, rule

from extproc.core.alert_text import amount, crossed, moment, over, scope_values
from extproc.core.holds import joined, split
from extproc.values.limit import Alert, Limit
from extproc.values.notice import Notice, Severity

NOW = int(datetime(2026, 11, 25, 13, 5, tzinfo=UTC).timestamp()) * 1000
BUDGET = limits(
    b=budget("{id: search, ceiling_usd: 4000, window: monthly, timezone: Europe/Berlin}")
)["search/usd"]


def limit(text: str) -> Limit:
    [found] = [found for key, found in limits(r=rule(text)).items()]
    return found


def told(found: Limit, settled: int, scope_value: str = "", **more: object) -> Notice:
    fields = {"runs_out_at_ms": None, "used_up": False, **more}
    alert = fields.pop("alert", Alert(80, ("slack:#x",)))
    return crossed("key", alert, found, scope_value, settled, 7_000_000, NOW, **fields)  # type: ignore[arg-type]


def test_a_budget_in_words_and_in_numbers() -> None:
    notice = told(BUDGET, 3_213_000_000)
    assert notice.title == "Budget search has reached 80 %: 80.3 % of $4,000.00 used"
    assert dict(notice.facts) == {
        "Rule": "search",
        "Window": "monthly, Europe/Berlin",
        "Spent": "$3,213.00",
        "Reserved": "$7.00",
        "Ceiling": "$4,000.00",
        "Used": "80.3 %",
        "Resets at": "2026-12-01 00:00 Europe/Berlin",
    }
    assert notice.data == {
        "rule_id": "search",
        "alert": "80%",
        "enforced": "yes",
        "window": "monthly",
        "spent_micro_usd": 3_213_000_000,
        "reserved_micro_usd": 7_000_000,
        "ceiling_micro_usd": 4_000_000_000,
        "used_pct": 80,
        "resets_at": "2026-11-30T23:00:00+00:00",
    }


def test_a_rate_rule_names_whom_it_is_about_and_has_no_reset() -> None:
    found = limit("{id: r, limit: {tokens: 200000, window: 1h}, scope: user}")
    notice = told(found, 180_000, "ann@example.com")
    assert notice.title == (
        "Limit r for user ann@example.com has reached 80 %: 90 % of 200,000 tokens used"
    )
    facts = dict(notice.facts)
    assert facts["User"] == "ann@example.com"
    assert facts["Window"] == "last 1h"
    assert "Resets at" not in facts
    assert notice.data["scope_user"] == "ann@example.com"
    assert notice.data["spent_tokens"] == 180_000


def test_nothing_is_called_full_that_is_not() -> None:
    assert "99.9 %" in told(BUDGET, 3_999_999_999).title
    assert "100 %" in told(BUDGET, 4_000_000_000).title


def test_a_limit_that_refuses_its_last_crumb_has_reached_its_end() -> None:
    notice = told(BUDGET, 3_990_000_000, alert=Alert(100, ()), used_up=True)
    assert notice.severity is Severity.CRITICAL
    assert notice.title == (
        "Budget search has reached 100 %: 99.7 % of $4,000.00 used, "
        "and what is left is too little for a request"
    )


def test_a_forecast_says_when_in_the_zone_of_the_budget() -> None:
    at_ms = NOW + 15 * 60_000
    notice = told(BUDGET, 3_600_000_000, alert=Alert(0, (), 21_600_000), runs_out_at_ms=at_ms)
    assert notice.title == ("Budget search runs out at 14:20 Europe/Berlin: 90 % of $4,000.00 used")
    assert notice.severity is Severity.WARNING
    assert notice.data["runs_out_at"] == "2026-11-25T13:20:00+00:00"
    assert dict(notice.facts)["Runs out at"] == "14:20 Europe/Berlin"


def test_another_days_moment_has_its_date() -> None:
    assert moment(NOW, "UTC", NOW) == "13:05 UTC"
    assert moment(NOW + 86_400_000, "UTC", NOW) == "2026-11-26 13:05 UTC"
    assert moment(NOW + 11 * 3_600_000, "Europe/Berlin", NOW) == "2026-11-26 01:05 Europe/Berlin"


@pytest.mark.parametrize(
    ("scope", "value", "pairs"),
    [
        ("user", "ann", [("user", "ann")]),
        ("team", "~app", [("team", "none (of app)")]),
        (
            "session",
            joined(("app", "", "s:1")),
            [("credential", "app"), ("user", "none"), ("session", "s:1")],
        ),
        ("[team, model]", joined(("a:b", "m")), [("team", "a:b"), ("model", "m")]),
        (
            "[model, session]",
            joined(("m", joined(("app", "ann", "s")))),
            [("model", "m"), ("credential", "app"), ("user", "ann"), ("session", "s")],
        ),
    ],
)
def test_the_counters_key_is_taken_apart(
    scope: str, value: str, pairs: list[tuple[str, str]]
) -> None:
    found = limit(f"{{id: r, limit: {{requests: 5, window: 1h}}, scope: {scope}}}")
    assert scope_values(found, value) == pairs


def test_joined_values_are_split_again() -> None:
    for parts in ([], [""], ["a"], ["1:a", "", "ä:2"]):
        assert split(joined(parts)) == parts


def test_amounts_are_told_in_their_unit() -> None:
    assert amount(BUDGET, 1_234_567_890_100) == "$1,234,567.8901"
    assert amount(limit("{id: r, limit: {input_tokens: 5, window: 1h}}"), 5) == "5 input tokens"


def test_what_is_over_keeps_its_key() -> None:
    notice = over("key", "Budget a has used 80 % of $1.00", NOW)
    assert (notice.key, notice.resolved, notice.severity) == ("key", True, Severity.INFO)
