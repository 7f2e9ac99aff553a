from __future__ import annotations

import asyncio

import hiredis
import msgspec
from ledger_words import NOW, amounts, hold, limit

from extproc.ledger.port import Account, Denied, Granted, Hold
from extproc.ledger.redis_batch import (
    CORRECTED,
    RENEWED,
    SETTLED,
    AccountPlan,
    Asked,
    Batch,
    Question,
    Told,
    bulk,
    outcome,
    standings,
)
from extproc.ledger.redis_names import Names
from extproc.values.limit import NO_CEILING, Unit

NAMES = Names("t")


def plan(*holds: Hold) -> AccountPlan:
    return AccountPlan(Account(holds, {}), NAMES, "e", NOW)


def asked(name: str, of: AccountPlan) -> Asked:
    loop = asyncio.new_event_loop()
    try:
        return Asked(name, of, amounts(5), 900_000, NOW + 900_000, loop.create_future())
    finally:
        loop.close()


def read(command: bytes) -> tuple[list[bytes], list[bytes]]:
    """The command's keys and arguments, as a server reads them."""
    reader = hiredis.Reader()
    reader.feed(command)
    words = reader.gets()
    assert reader.gets() is False  # one command, its length told right
    assert words[0] == b"EVALSHA"
    keys = int(words[2])
    return words[3 : 3 + keys], words[3 + keys :]


def test_every_key_is_declared_and_an_account_is_sent_once() -> None:
    two = plan(hold(limit("a", 10)), hold(limit("b", 10), "x"))
    other = plan(hold(limit("c", 10)))
    foreign = Told("old", SETTLED, amounts(1))
    foreign.keys = bulk(NAMES.counter("e", "d", ""))
    batch = Batch(
        [
            asked("r1", two),
            asked("r2", two),
            Told("r0", SETTLED, amounts(3), two),
            Told("r3", RENEWED, amounts(3), other, lease_ms=7),
            foreign,
        ],
        "e",
    )
    keys, arguments = read(batch.encode(b"f" * 40, NAMES, 9, NOW))
    counters = [NAMES.counter("e", key, value) for key, value in (("a", ""), ("b", "x"))]
    assert keys[:4] == [NAMES.meta, NAMES.leases("e"), *counters]
    assert keys[4:9] == [NAMES.record("e", name) for name in ("r1", "r2", "r0", "r3", "old")]
    assert set(keys[9:]) == {NAMES.counter("e", "c", ""), NAMES.counter("e", "d", "")}
    assert arguments[:3] == [b"e", b"9", b"1"]
    operations = [msgspec.msgpack.decode(word) for word in arguments[4:]]
    assert operations == [
        ["r", 1, 900_000, list(amounts(5))],
        ["r", 1, 900_000, list(amounts(5))],
        ["e", "s", list(amounts(3))],
        ["b", 7, list(amounts(3))],
        ["e", "s", list(amounts(1))],
    ]


def test_a_correction_is_of_its_limits_unit() -> None:
    money = limit("money", 10, unit=Unit.MICRO_USD)
    batch = Batch([Told("k", CORRECTED, (-7,) * 6, plan(Hold(money, "", NO_CEILING)))], "e")
    _, arguments = read(batch.encode(b"f" * 40, NAMES, 0, NOW))
    assert msgspec.msgpack.decode(arguments[-1]) == ["k", 1, -7]


def test_F71_a_calendar_is_sent_with_its_next_period_and_fitted_again() -> None:
    january, february, march = 1_767_225_600_000, 1_769_904_000_000, 1_772_323_200_000
    monthly = AccountPlan(Account([hold(limit("m", 5, "monthly"))], {}), NAMES, "e", january)

    def sent() -> list[object]:
        return msgspec.msgpack.decode(monthly.shape.split(b"\r\n", 1)[1][:-2])

    assert sent() == [1, 5, 0, january, february, march, "cmonthly@UTC", ""]
    assert monthly.valid_until_ms == february
    Batch([asked("r", monthly)], "e").encode(b"f" * 40, NAMES, 0, february)
    assert sent()[3:5] == [february, march]


def test_an_answer_shows_the_tightest_of_each_kind() -> None:
    holds = (
        hold(limit("requests", 10, unit=Unit.REQUESTS)),
        hold(limit("wide", 1_000)),
        hold(limit("narrow", 100)),
        hold(limit("usd", 5_000, "daily", Unit.MICRO_USD)),
        Hold(limit("shadow", 50), "", NO_CEILING),
    )
    question = asked("r", plan(*holds))
    granted = outcome(question, 1, [99, 4, 300, 80, 6_000, 70], 1, NOW)
    assert isinstance(granted, Granted)
    shown = [(one.hold.limit.key, one.amount) for one in granted.remaining]
    assert shown == [("requests", 6), ("narrow", 20), ("usd", 0)]
    assert granted.would_block == ["shadow"]
    assert granted.money_left_micro_usd == -1_000
    assert granted.likely_left_micro_usd == NO_CEILING


def test_a_refusal_says_when_it_fits_by_time_alone() -> None:
    minute = hold(limit("minute", 100))
    slot = minute.limit.window.slot(NOW)
    denied = outcome(asked("r", plan(minute)), [[0, 60, 38, slot]], [98], 0, NOW)
    assert isinstance(denied, Denied)
    assert denied.standings[0][1:] == (60, 38, minute.limit.window.leaves_ms(slot))
    never = outcome(asked("r", plan(minute)), [[0, 60, 38, -1]], [98], 0, NOW)
    assert isinstance(never, Denied)
    assert never.standings[0].resets_at_ms is None


def test_a_question_is_answered_hold_by_hold() -> None:
    loop = asyncio.new_event_loop()
    one, two = hold(limit("a", 100)), hold(limit("b", 10))
    question = Question(plan(one, two), loop.create_future())
    loop.close()
    found = standings(question, [[0, 20, 5, -1], [1, 30, 0, 7]], NOW)
    assert [standing[:3] for standing in found] == [(one, 20, 5), (two, 30, 0)]
    assert found[0].resets_at_ms == one.limit.window.slot_ends_ms(one.limit.window.slot(NOW))
    assert found[1].resets_at_ms == two.limit.window.leaves_ms(7)
