from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
from ledger_words import NOW, amounts, hold, limit

from extproc.ledger import redis_part
from extproc.ledger.port import Account
from extproc.ledger.redis_batch import ABANDONED, AccountPlan, Asked, Told
from extproc.ledger.redis_names import Names
from extproc.ledger.redis_part import Memory, Part
from extproc.values.limit import NOTHING

NAMES = Names("t")
ONLY = hold(limit("only", 100, "1h"), "user:a b")


def book(part: Part, name: str, tokens: int, now: int = NOW) -> None:
    plan = AccountPlan(Account([ONLY], {}), NAMES, "e", now)
    loop = asyncio.new_event_loop()
    part.book(Asked(name, plan, amounts(tokens), 9_000, now + 9_000, loop.create_future()), now)
    loop.close()


def again(part: Part, folder: Path) -> Part:
    part.ledger.close()
    return Part(folder, "redis")


def ends(part: Part) -> list[tuple[str, str, int]]:
    return [(told.id, told.kind, told.amounts[1]) for told in part.undelivered]


def test_it_remembers_store_members_and_its_own_name(tmp_path: Path) -> None:
    part = Part(tmp_path, "redis")
    assert part.memory == Memory("", 0, {})
    assert part.empty
    name = part.name
    part.note_seen("e", 5, {"a": 9, name: 7})
    part.note_sequence(8)
    part = again(part, tmp_path)
    assert part.memory == Memory("e", 8, {"a": 9, name: 7})
    assert part.name == name
    part.ledger.close()


def test_F66_ends_are_known_until_the_store_has_confirmed_them(tmp_path: Path) -> None:
    part = Part(tmp_path, "redis")
    part.note_seen("e", 1, {})
    for name in "abcd":
        book(part, name, 10)
    part.ledger.settle("a", amounts(4), NOW, {})
    part.ledger.release("b", NOW, "")
    part.ledger.settle("c", amounts(6), NOW, {})
    part.note_delivered(["a"])
    part.note_undelivered(Told("unknown", ABANDONED, NOTHING))
    part = again(part, tmp_path)
    assert ends(part) == [("b", "l", 0), ("c", "s", 6), ("unknown", "a", 0)]
    assert part.ledger.open_count == 1
    part.note_delivered(["b", "c", "unknown"])
    part = again(part, tmp_path)
    assert ends(part) == []
    part.ledger.close()


def test_F66_a_new_segment_of_the_journal_still_tells_of_them(tmp_path: Path) -> None:
    part = Part(tmp_path, "redis")
    part.note_seen("e", 3, {"a": 1})
    book(part, "a", 10)
    part.ledger.settle("a", amounts(4), NOW, {})
    told = Told("a", "s", amounts(4))
    part.journal._segment_bytes = 1
    part.ledger.flush()
    part.undelivered.append(told)
    part.keep()
    part.ledger.tend(NOW)
    part.journal._segment_bytes = 10**9
    part = again(part, tmp_path)  # killed before the new segment had its notes
    assert part.memory == Memory("e", 3, {"a": 1})
    assert ends(part) == [("a", "s", 4)]
    part.note_seen(*part.memory)
    part.note_undelivered(told)
    part.ledger.tend(NOW)
    (tmp_path / "store.json").unlink()
    part = again(part, tmp_path)
    assert part.memory == Memory("e", 3, {"a": 1})
    assert ends(part) == [("a", "s", 4)]
    part.ledger.close()


def test_what_was_counted_without_a_store_is_pushed_not_told(tmp_path: Path) -> None:
    part = Part(tmp_path, "redis")
    book(part, "a", 10)
    part.ledger.settle("a", amounts(4), NOW, {})
    part = again(part, tmp_path)
    assert ends(part) == []
    assert not part.empty
    part.ledger.close()


def test_its_chunks_hold_counters_and_open_reservations(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(redis_part, "CHUNK_ITEMS", 1)
    part = Part(tmp_path, "redis")
    book(part, "a", 10)
    book(part, "b", 20, NOW + 120_000)
    book(part, "late", 7, NOW + 120_000)
    part.ledger.settle("a", amounts(4), NOW, {})
    part.ledger.expire(NOW + 9_000)
    counters, *records = part.chunks(NAMES, "f", NOW + 120_000)
    key = NAMES.counter("f", "only", "user:a b")
    window = ONLY.limit.window
    one, two = window.slot(NOW), window.slot(NOW + 120_000)
    assert counters[0] == [key]
    assert msgspec.msgpack.decode(counters[1][0]) == [
        "s3600000", two, window.slot_ends_ms(two), one, 4, 0, two, 27, 27,
    ]  # fmt: skip
    assert [chunk[2] for chunk in records] == [
        [NAMES.record("f", "b")], [NAMES.record("f", "late")],
    ]  # fmt: skip
    words = msgspec.msgpack.decode(records[0][3][0])
    assert words == ["o", 9_000, 9_000 + redis_part.LATE_MS, list(amounts(20)),
                     [key.decode(), 1, two, 0]]  # fmt: skip
    part.ledger.expire(NOW + 200_000)
    charged = [msgspec.msgpack.decode(chunk[3][0])[0] for chunk in part.chunks(NAMES, "f", NOW)[1:]]
    assert charged == ["x", "x"]
    assert part.until_ms(NOW) == window.leaves_ms(two)
    part.ledger.close()


def test_what_nobody_was_told_of_is_unbooked(tmp_path: Path) -> None:
    part = Part(tmp_path, "redis")
    book(part, "a", 10)
    part.give_up("a", NOW)
    part.give_up("never", NOW)
    assert part.ledger.open_count == 0
    part.ledger.close()
