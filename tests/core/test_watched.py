"""Which counters are worth a look: collected where they are booked, bounded, never looked up."""

from __future__ import annotations

from dataclasses import replace

import pytest
from policies import budget, limits

from extproc.core import watched as watched_module
from extproc.core.holds import moved_to_fallback
from extproc.core.watched import Watched
from extproc.ledger.port import Hold, Standing
from extproc.values.limit import Limit, Unit

ALERTS = 'alerts: [{at_pct: 100, notify: "slack:#x"}]'


def limit(**changes: object) -> Limit:
    text = f"{{id: a, per: user, ceiling_usd: 1, window: daily, {ALERTS}}}"
    return replace(limits(b=budget(text))["a/usd"], **changes)  # type: ignore[arg-type]


def hold(found: Limit, user: str = "ann") -> Hold:
    return Hold(found, user, found.ceiling)


def test_only_counters_with_alerts_are_taken_and_each_once() -> None:
    watched = Watched()
    watched.add([hold(limit()), hold(limit(key="quiet", alerts=()))])
    watched.add([hold(limit()), hold(limit(), "bob")])
    assert watched.names() == [("a/usd", "ann"), ("a/usd", "bob")]


def test_the_overflow_counter_of_a_rule_alerts_nobody() -> None:
    watched = Watched()
    of_tokens = replace(limit(is_budget=False), key="a/tokens", unit=Unit.TOKENS)
    watched.add([moved_to_fallback(hold(of_tokens))])
    assert watched.names() == []
    watched.add([moved_to_fallback(hold(limit()))])
    assert watched.names() == [("a/usd", "ann")]


def test_the_oldest_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched_module, "MAX_WATCHED", 3)
    watched = Watched()
    for user in "abcde":
        watched.remember(("a/usd", user))
    assert [value for _, value in watched.names()] == ["c", "d", "e"]
    assert watched.forgotten == 2


def test_a_limit_is_used_up_when_a_request_does_not_fit_beside_what_is_settled() -> None:
    watched = Watched()
    found = limit()
    name = ("a/usd", "ann")

    def denied(settled: int, reserved: int, amount: int, ceiling: int = found.ceiling) -> bool:
        amounts = [0] * 6
        amounts[Unit.MICRO_USD] = amount
        standing = Standing(hold(found)._replace(ceiling=ceiling), settled, reserved, None)
        watched.denied([standing], tuple(amounts))  # type: ignore[arg-type]
        return watched.take_full(name)

    assert denied(990_000, 0, 20_000)
    assert not watched.take_full(name), "it is told once"
    # It would fit, were nothing reserved; and the fallback's share is not the ceiling.
    assert not denied(500_000, 490_000, 20_000)
    assert not denied(890_000, 0, 20_000, ceiling=900_000)
    quiet = Standing(hold(limit(alerts=())), 990_000, 0, None)
    watched.denied([quiet], (0, 0, 0, 0, 20_000, 0))
    assert not watched.take_full(name)
    assert name in watched.names(), "a counter that refuses is worth a look"


def test_the_share_of_a_counter_is_that_of_the_last_look_and_goes_with_the_counter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watched_module, "MAX_WATCHED", 1)
    counters = Watched()
    counters.seen(("a", "x"), 50)
    assert counters.used_pct(("a", "x")) == 0  # nobody asked for it
    counters.remember(("a", "x"))
    for pct in (50, 40):
        counters.seen(("a", "x"), pct)
        assert counters.used_pct(("a", "x")) == pct
    counters.remember(("b", "x"))
    assert counters.used_pct(("a", "x")) == 0
