"""How long a request may wait, and when there is nothing to wait for."""

from __future__ import annotations

import pytest
from policies import limits, rule

from extproc.core.callers import Caller
from extproc.core.events import RequestHeaders
from extproc.core.patience import can_fit_by, newcomer
from extproc.ledger.port import Hold, Standing
from extproc.policy.snapshot import Credential
from extproc.values.envelope import Envelope
from extproc.values.limit import Amounts

NOW = 1_000_000
DEADLINE = NOW + 5_000
CALLER = Caller(Credential("app", b""), Envelope(*["x"] * 7))


def hold(unit: str) -> Hold:
    text = f"{{id: q, limit: {{{unit}: 10, window: 1h}}, on_breach: queue_then_429}}"
    (limit,) = limits(q=rule(text)).values()
    return Hold(limit, "", 10)


def amounts(number: int) -> Amounts:
    return (number,) * 6


def deadline_ms(*headers: tuple[str, bytes], upload_ms: int = 0) -> int:
    """After how long somebody who may wait 20 seconds is refused."""
    asked = RequestHeaders(headers, False, NOW - upload_ms)
    return newcomer(CALLER, asked, 1, NOW, 20_000).deadline_ms - NOW


@pytest.mark.parametrize(
    ("headers", "waits_ms"),
    [
        ({}, 20_000),
        ({"x-stainless-timeout": b"600"}, 20_000),
        ({"x-stainless-read-timeout": b"25.5"}, 12_750),
        ({"x-stainless-timeout": b"600", "x-stainless-read-timeout": b"30"}, 15_000),
        ({"x-stainless-timeout": b"NOT_GIVEN"}, 20_000),
        ({"x-stainless-timeout": b"0"}, 0),
    ],
)
def test_half_of_the_clients_own_timeout_is_the_most(
    headers: dict[str, bytes], waits_ms: int
) -> None:
    assert deadline_ms(*headers.items()) == waits_ms


def test_patience_begins_with_the_headers_and_the_wait_with_the_body() -> None:
    assert deadline_ms(upload_ms=15_000) == 20_000
    assert deadline_ms(("x-stainless-timeout", b"60"), upload_ms=15_000) == 15_000


def test_there_is_hope_where_time_or_what_is_reserved_may_make_room() -> None:
    tokens = hold("tokens")
    assert can_fit_by(DEADLINE, [Standing(tokens, 10, 0, DEADLINE - 1)], amounts(1))
    assert not can_fit_by(DEADLINE, [Standing(tokens, 10, 0, DEADLINE)], amounts(1))
    assert can_fit_by(DEADLINE, [Standing(tokens, 9, 1, DEADLINE + 1)], amounts(1))
    assert not can_fit_by(DEADLINE, [Standing(tokens, 9, 1, DEADLINE + 1)], amounts(2))
    assert not can_fit_by(DEADLINE, [Standing(tokens, 0, 10, None)], amounts(11))


def test_requests_that_are_under_way_stay_counted() -> None:
    requests = hold("requests")
    assert not can_fit_by(DEADLINE, [Standing(requests, 0, 10, DEADLINE + 1)], amounts(1))
    assert can_fit_by(DEADLINE, [Standing(requests, 0, 10, DEADLINE - 1)], amounts(1))


def test_there_must_be_hope_for_every_counter() -> None:
    soon, never = Standing(hold("tokens"), 10, 0, NOW + 1), Standing(hold("tokens"), 10, 0, None)
    assert can_fit_by(DEADLINE, [soon, soon], amounts(1))
    assert not can_fit_by(DEADLINE, [soon, never], amounts(1))
