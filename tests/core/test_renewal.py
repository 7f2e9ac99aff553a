"""When a token is renewed, on virtual time."""

from __future__ import annotations

import pytest

from extproc.core.renewal import FIRST_PAUSE_S, MAX_PAUSE_S, Renewal


@pytest.mark.parametrize(("lifetime_s", "renewed_at_s"), [(3_600, 3_300.0), (600, 400.0), (6, 4.0)])
def test_a_token_is_renewed_well_before_it_expires(lifetime_s: int, renewed_at_s: float) -> None:
    renewal = Renewal()
    assert renewal.is_due(1_000.0)
    renewal.succeeded(1_000.0, lifetime_s)
    assert not renewal.is_due(1_000.0 + renewed_at_s - 0.1)
    assert renewal.is_due(1_000.0 + renewed_at_s)
    assert not renewal.expires(1_000.0 + lifetime_s - 0.1)
    assert renewal.expires(1_000.0 + lifetime_s)
    assert not renewal.expires(1_000.0 + lifetime_s)  # told once


def test_after_failures_the_old_token_stays_and_pauses_grow_to_a_minute() -> None:
    renewal, now_s, pauses = Renewal(), 3_300.0, []
    renewal.succeeded(0.0, 3_600)
    for _ in range(12):
        assert renewal.is_due(now_s)
        renewal.failed(now_s, draw=1.0)
        pauses.append(renewal.next_try_s - now_s)
        now_s = renewal.next_try_s
    assert pauses == [FIRST_PAUSE_S * 2**n for n in range(6)] + [MAX_PAUSE_S] * 6
    assert (renewal.failures, renewal.expires_at_s) == (12, 3_600.0)
    renewal.succeeded(now_s, 3_600)
    assert renewal.failures == 0


def test_gateways_that_failed_together_do_not_come_back_together() -> None:
    early, late = Renewal(), Renewal()
    early.failed(0.0, draw=0.0)
    late.failed(0.0, draw=0.999)
    assert 0 < early.next_try_s < late.next_try_s < FIRST_PAUSE_S


def test_another_key_is_tried_at_once() -> None:
    renewal = Renewal()
    renewal.failed(100.0, draw=1.0)
    assert not renewal.is_due(100.0)
    renewal.hurry()
    assert renewal.is_due(100.0)
