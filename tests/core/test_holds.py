"""Which counters a reservation takes, and what they are keyed on."""

from __future__ import annotations

import itertools
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from extproc.core.holds import Applicable, joined, moved_to_fallback, scope_values
from extproc.values.envelope import Envelope
from extproc.values.limit import NO_CEILING, Breach, BreachKind, Limit, Scope, Unit
from extproc.values.window import parse_window

BLOCK = Breach(BreachKind.HARD_BLOCK)


def limit(
    key: str,
    *scope: Scope,
    unit: Unit = Unit.REQUESTS,
    enforced: bool = True,
    is_budget: bool = False,
    share: int = 10,
) -> Limit:
    return Limit(key, key, unit, 10, parse_window("1h"), scope, BLOCK, enforced, is_budget, share)


def values(session: str = "s", **fields: str) -> tuple[str, ...]:
    return scope_values(Envelope(**fields), "key", session, "model", "provider")


@given(st.lists(st.text(max_size=4), max_size=4), st.lists(st.text(max_size=4), max_size=4))
def test_F13_different_values_never_share_a_key(one: list[str], two: list[str]) -> None:
    assert (joined(one) == joined(two)) == (one == two)


def test_a_session_belongs_to_its_credential_and_user() -> None:
    place = 0
    mine = values(user_id="alice")[place]
    assert mine != values(user_id="bob")[place]
    assert mine != scope_values(Envelope(user_id="alice"), "other", "s", "m", "p")[place]


def test_an_absent_field_counts_in_one_bucket_and_never_in_somebodys() -> None:
    absent = values()
    for field in ("user_id", "team", "project", "workflow_tag", "environment", "cost_center"):
        present = values(**{field: "key"})
        assert sum(a != b for a, b in zip(absent, present, strict=True)) in (1, 2)
        assert "~key" in absent


def test_every_limit_gets_one_hold_in_order() -> None:
    limits = (
        limit("shared"),
        limit("team", Scope.TEAM),
        limit("both", Scope.TEAM, Scope.MODEL),
        limit("shadow", Scope.TEAM, enforced=False),
        limit("budget", unit=Unit.MICRO_USD, is_budget=True, share=7),
    )
    holds = Applicable(limits).holds(values(team="t"))
    assert [hold.limit for hold in holds] == list(limits)
    assert [hold.scope_value for hold in holds] == ["", "t", joined(("t", "model")), "t", ""]
    assert [hold.ceiling for hold in holds] == [10, 10, 10, NO_CEILING, 7]


def test_what_is_known_of_a_set_of_limits() -> None:
    money = limit("usd", unit=Unit.MICRO_USD, is_budget=True)
    watched = limit("usd2", unit=Unit.MICRO_USD, enforced=False)
    session = limit("s", Scope.SESSION)
    for chosen in itertools.product((True, False), repeat=3):
        limits = tuple(itertools.compress((money, watched, session), chosen))
        found = Applicable(limits)
        assert found.bounds_money is chosen[0]
        assert found.watches_money is (chosen[0] or chosen[1])
        assert found.counts_sessions is chosen[2]
        assert found.rules == ",".join(each.rule_id for each in limits)


def test_a_moved_rate_rule_overflows_visibly_and_a_moved_budget_stays_a_ceiling() -> None:
    rate, budget = (
        Applicable((limit("rate"), limit("usd", unit=Unit.MICRO_USD, is_budget=True, share=7)))
    ).holds(values())
    overflow = moved_to_fallback(rate)
    assert overflow.limit.key != rate.limit.key
    assert overflow.ceiling == NO_CEILING
    assert overflow.limit.renamed_from == ""
    renamed = rate._replace(limit=replace(rate.limit, renamed_from="old/requests"))
    # The overflow of the new name follows the overflow of the old one, not what was counted.
    assert moved_to_fallback(renamed).limit.renamed_from == "old/requests:overflow"
    moved = moved_to_fallback(budget)
    assert moved.limit.key == budget.limit.key
    assert moved.ceiling == 10
    (dollars,) = Applicable((limit("rate", unit=Unit.LIKELY_MICRO_USD),)).holds(values())
    assert moved_to_fallback(dollars) == dollars
