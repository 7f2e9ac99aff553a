"""Allowances: taken ahead of time, kept fresh, settled at what was spent, never forgotten."""

from __future__ import annotations

from pathlib import Path

import pytest
from emergency_rig import NOW, QUOTA, Fate, Rig, hold, limit

from extproc.ledger import allowance as allowance_module
from extproc.ledger.allowance import IDLE_MS, PREFIX, REFRESH_MS, RETRY_MS, Allowances
from extproc.ledger.contact import CALM_MS
from extproc.ledger.port import Account, LedgerUnavailableError
from extproc.values.limit import Unit
from extproc.values.window import CalendarWindow

DOLLAR = limit("dollar", 1_000_000, QUOTA, 50_000)


@pytest.fixture
def rig(tmp_path: Path):
    rig = Rig(tmp_path)
    yield rig
    rig.close()


def allowances(rig: Rig) -> list[str]:
    """Of all that were ever asked for: the ids, in order."""
    return [name for name in rig.remote.asked if name.startswith(PREFIX)]


def booked(rig: Rig) -> list[tuple[str, str, int, int]]:
    """What the book still has."""
    return [
        (key, grant_id, settled, reserved)
        for key, grant_id, _, settled, reserved in rig.book.counters()
        if settled or reserved
    ]


# -- taking ---------------------------------------------------------------------------------------


def test_an_allowance_is_taken_once_and_counts_as_reserved(rig: Rig) -> None:
    for n in range(3):
        rig.went(f"r{n}", 0, hold(DOLLAR))
    assert len(allowances(rig)) == 1
    assert allowances(rig)[0].startswith("emergency/s1/dollar//")
    assert rig.standing(DOLLAR) == (0, 50_000)
    assert rig.ledger.emergency["allowances"] == 1


def test_it_is_in_the_book_before_the_store_is_asked(rig: Rig) -> None:
    before = []
    real = rig.remote.reserve
    rig.remote.reserve = lambda *asked: (  # type: ignore[method-assign]
        before.append((booked(rig), rig.book._journal._buffer[:])) or real(*asked)
    )
    rig.went("r", 0, hold(DOLLAR))
    (taken, unwritten), _ = before
    assert [entry[0::2] for entry in taken] == [(f"taken/{Unit.MICRO_USD:d}", 50_000)]
    assert unwritten == []


def test_it_leaves_a_fallbacks_share_alone(rig: Rig) -> None:
    from dataclasses import replace

    shared = replace(DOLLAR, key="shared", fallback_ceiling=40_000)
    rig.went("r", 0, hold(shared))
    assert rig.standing(shared) == (0, 0)


def test_one_that_does_not_fit_is_asked_for_again_later(rig: Rig) -> None:
    others = Account((hold(DOLLAR),), {})
    rig.store.reserve("others", others, (0, 0, 0, 0, 960_000, 0), NOW, NOW + 900_000)
    rig.went("a", 0, hold(DOLLAR))
    rig.went("b", 0, hold(DOLLAR))
    assert len(allowances(rig)) == 1
    assert booked(rig) == []
    rig.store.release("others", NOW, "")
    rig.passes(RETRY_MS)
    assert len(allowances(rig)) == 2
    assert rig.standing(DOLLAR) == (0, 50_000)


@pytest.mark.parametrize("fate", [Fate.REQUEST_LOST, Fate.REPLY_LOST, Fate.LATE, Fate.REFUSED])
def test_F63_one_of_unknown_fate_is_given_up_and_taken_anew(rig: Rig, fate: Fate) -> None:
    rig.remote.away(fate)
    assert not rig.went("a", 0, hold(DOLLAR))
    rig.passes(1_000)
    assert len(allowances(rig)) == 1  # a store that is away is not asked for any
    rig.remote.back()
    rig.passes(1_000)
    rig.remote.land_late()
    rig.passes(CALM_MS + 1_000)
    rig.passes(RETRY_MS)
    assert len(allowances(rig)) == 2
    assert rig.standing(DOLLAR) == (0, 50_000)
    assert len(booked(rig)) == 1


def test_an_id_that_has_ended_is_not_spent_from(rig: Rig) -> None:
    real = rig.store.reserve

    def ended(name: str, *rest: object) -> object:
        if name.startswith(PREFIX):
            raise ValueError("has ended")
        return real(name, *rest)

    rig.store.reserve = ended  # type: ignore[method-assign, assignment]
    rig.went("a", 0, hold(DOLLAR))
    rig.remote.away()
    assert not rig.went("b", 0, hold(DOLLAR))
    assert booked(rig) == []


def test_few_are_asked_for_at_a_time(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allowance_module, "MAX_ASKED", 2)
    rig.remote.at_once = False
    for n in range(5):
        rig.ask(f"r{n}", 0, hold(DOLLAR, str(n)))
    assert len(allowances(rig)) == 2
    rig.remote.answer()
    rig.ask("r5", 0, hold(DOLLAR, "2"))
    assert len(allowances(rig)) == 3
    rig.ask("r6", 0, hold(DOLLAR, "2"))  # not twice
    assert len(allowances(rig)) == 3


def test_a_full_disk_takes_none(rig: Rig) -> None:
    rig.book._journal._failed = True
    rig.remote.away()
    rig.ledger._contact.away = False
    rig.ledger._allowances.note(("dollar", ""), hold(DOLLAR), NOW)
    assert allowances(rig) == []
    rig.book._journal._failed = False


def test_a_store_in_this_process_grants_at_once(rig: Rig) -> None:
    direct = Allowances(rig.store, rig.book, "s2", rig.ledger._contact)  # type: ignore[arg-type]
    direct.note(("dollar", ""), hold(DOLLAR), NOW)
    grant = direct.usable(("dollar", ""), NOW)
    assert grant is not None
    assert grant.amount == 50_000


# -- keeping --------------------------------------------------------------------------------------


def test_F71_one_of_yesterday_pays_for_nothing_today(rig: Rig) -> None:
    day = CalendarWindow("daily")
    midnight_ms = day.slot_ends_ms(day.slot(NOW))
    rig.now_ms = midnight_ms - 30_000
    rig.went("a", 0, hold(DOLLAR))
    rig.remote.away()
    rig.now_ms = midnight_ms - 1
    assert rig.went("b", 1, hold(DOLLAR))
    rig.now_ms = midnight_ms
    assert not rig.went("c", 1, hold(DOLLAR))
    rig.end("b", 1)
    rig.remote.back()
    rig.passes(1_000)
    assert rig.standing(DOLLAR) == (0, 50_000)  # of today
    rig.remote.away()
    assert rig.went("d", 1, hold(DOLLAR))


def test_the_stores_clock_says_when_the_window_ends(rig: Rig) -> None:
    from extproc.ledger.embedded import EmbeddedLedger
    from extproc.ledger.journal import Journal

    rig.remote.store = EmbeddedLedger(Journal(rig.folder / "store"))  # type: ignore[assignment]
    rig.now_ms = NOW - 3_600_000
    hour = limit("hour", 1_000, QUOTA, 10, window="1m")
    rig.went("a", 0, hold(hour))
    grant = rig.ledger._allowances.usable(("hour", ""), rig.now_ms)
    assert grant is not None
    assert grant.usable_until_ms == hour.window.leaves_ms(hour.window.slot(rig.now_ms))
    rig.remote.store.close()


def test_an_untouched_one_is_replaced_while_it_is_good(rig: Rig) -> None:
    rig.went("a", 0, hold(DOLLAR))
    rig.passes(REFRESH_MS - 1)
    assert len(allowances(rig)) == 1
    rig.went("b", 0, hold(DOLLAR))
    rig.passes(1)
    assert len(allowances(rig)) == 2
    assert rig.standing(DOLLAR) == (0, 50_000)
    assert len(booked(rig)) == 1


def test_one_of_a_sliding_window_always_has_half_of_it_ahead(rig: Rig) -> None:
    minute = limit("minute", 1_000, QUOTA, 10, window="1m")
    rig.went("a", 0, hold(minute))
    for _ in range(100):
        rig.passes(1_000)
        if rig.now_ms % 7_000 == 0:
            rig.went(f"r{rig.now_ms}", 0, hold(minute))
        grant = rig.ledger._allowances.usable(("minute", ""), rig.now_ms)
        assert grant is not None
        assert grant.usable_until_ms >= rig.now_ms + 29_000
    assert 3 <= len(allowances(rig)) <= 5


def test_one_that_nobody_could_have_used_is_given_back(rig: Rig) -> None:
    rig.went("a", 0, hold(DOLLAR))
    rig.end("a", 0)
    rig.passes(IDLE_MS)
    assert rig.standing(DOLLAR) == (0, 0)
    assert rig.ledger.emergency["allowances"] == 0
    assert booked(rig) == []


def test_one_that_is_granted_after_it_was_given_up_is_ended(rig: Rig) -> None:
    rig.remote.at_once = False
    rig.ask("a", 0, hold(DOLLAR))
    rig.passes(IDLE_MS)
    rig.remote.answer()
    rig.passes(CALM_MS)
    assert rig.standing(DOLLAR) == (0, 0)
    assert booked(rig) == []


def test_an_outage_longer_than_the_lease_ends_what_may_be_spent(rig: Rig) -> None:
    rig.went("a", 0, hold(DOLLAR))
    rig.remote.away()
    assert rig.went("b", 1_000, hold(DOLLAR))
    rig.end("b", 1_000)
    rig.now_ms += 839_999
    assert rig.went("c", 1_000, hold(DOLLAR))
    rig.end("c", 1_000)
    rig.now_ms += 1
    assert not rig.went("d", 0, hold(DOLLAR))
    rig.passes(60_001)
    assert rig.standing(DOLLAR) == (50_000, 0)  # the store charged the lease, and this is put right
    rig.remote.back()
    rig.passes(1_000)
    assert rig.standing(DOLLAR)[0] == 2_000


def test_the_least_recently_used_make_room(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allowance_module, "MAX_ALLOWANCES", 16)
    for n in range(20):
        rig.now_ms += 10
        rig.went(f"r{n}", 0, hold(DOLLAR, f"v{n}"))
    rig.went("again", 0, hold(DOLLAR, "v0"))
    assert len(allowances(rig)) == 16
    rig.passes(10)
    rig.remote.away()
    assert rig.went("x", 1, hold(DOLLAR, "v0"))
    assert not rig.went("y", 1, hold(DOLLAR, "v1"))
    rig.remote.back()
    assert rig.standing(DOLLAR, "v1") == (0, 0)


# -- ending ---------------------------------------------------------------------------------------


def test_one_with_a_request_in_flight_is_kept_alive_and_settled_when_that_ends(rig: Rig) -> None:
    rig.went("a", 0, hold(DOLLAR))
    rig.remote.away()
    assert rig.went("x", 40_000, hold(DOLLAR))
    rig.remote.back()
    for _ in range(8):
        rig.passes(200_000)
        rig.ledger.renew("x", rig.now_ms + 900_000)
        assert rig.standing(DOLLAR)[0] == 0
        assert rig.standing(DOLLAR)[1] >= 50_000
        rig.went(f"r{rig.now_ms}", 0, hold(DOLLAR))
    rig.end("x", 33_000)
    rig.passes(1_000)
    assert rig.standing(DOLLAR) == (33_000, 50_000)


def test_an_end_that_cannot_be_told_is_told_later(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.went("a", 0, hold(DOLLAR))
    rig.remote.away()
    assert rig.went("x", 40_000, hold(DOLLAR))
    rig.end("x", 40_000)
    rig.remote.back()
    with monkeypatch.context() as broken:

        def flush() -> None:
            raise LedgerUnavailableError("the disk is full")

        rig.ledger._contact.tend(rig.now_ms)
        rig.remote.run()
        broken.setattr(rig.remote, "flush", flush)
        rig.ledger._allowances.tend(rig.now_ms)
    assert rig.ledger.emergency["ending"] == 1
    rig.passes(1_000)
    assert rig.ledger.emergency["ending"] == 0
    assert rig.standing(DOLLAR)[0] == 40_000


def test_a_process_that_ends_gives_back_what_it_holds(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.went("a", 0, hold(DOLLAR))
    rig.end("a", 0)
    rig.close()
    assert rig.remote.closed
    assert rig.standing(DOLLAR) == (0, 0)


def test_F66_a_process_that_starts_settles_what_it_finds_and_spends_none_of_it(rig: Rig) -> None:
    rig.went("a", 0, hold(DOLLAR))
    rig.went("b", 0, hold(DOLLAR, "untouched"))
    rig.remote.away()
    assert rig.went("x", 20_000, hold(DOLLAR))
    rig.end("x", 15_000)
    rig.kill()
    assert not rig.went("y", 1, hold(DOLLAR))
    rig.remote.back()
    rig.passes(1_000)
    rig.passes(CALM_MS)
    rig.passes(CALM_MS)
    assert rig.standing(DOLLAR) == (15_000, 50_000)
    assert rig.standing(DOLLAR, "untouched") == (0, 0)


def test_F63_the_store_may_hear_of_one_after_the_process_was_killed(rig: Rig) -> None:
    rig.remote.away(Fate.LATE)
    rig.went("a", 0, hold(DOLLAR))
    rig.remote.late = [each for each in rig.remote.late if each[0].startswith(PREFIX)]
    rig.remote.back()
    rig.kill()
    rig.passes(1_000)
    rig.remote.land_late()
    assert rig.standing(DOLLAR) == (0, 50_000)
    rig.passes(CALM_MS)
    assert rig.standing(DOLLAR) == (0, 0)


def test_a_clock_that_steps_back_over_a_restart_repeats_no_id(rig: Rig) -> None:
    rig.went("a", 0, hold(DOLLAR))
    rig.kill()
    rig.went("b", 0, hold(DOLLAR))
    assert len(rig.remote.asked) == 2
    one = next(iter(rig.ledger._allowances._ending))
    assert rig.remote.asked[0] != one


def test_a_late_settlement_changes_the_book_alone_and_a_restart_is_not_confused(rig: Rig) -> None:
    rig.went("a", 0, hold(DOLLAR))
    rig.end("a", 0)
    rig.remote.away()
    assert rig.went("x", 20_000, hold(DOLLAR))
    rig.now_ms += 900_000
    rig.remote.back()
    rig.tend()
    assert rig.standing(DOLLAR)[0] == 20_000
    assert rig.ledger.settle("x", (1, 0, 0, 0, 5_000, 5_000), rig.now_ms, {}).late
    rig.ledger.flush()
    rig.kill()
    for _ in range(3):
        rig.passes(CALM_MS)
    assert rig.standing(DOLLAR)[0] == 20_000
    assert booked(rig) == []
