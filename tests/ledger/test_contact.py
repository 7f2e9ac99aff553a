"""Whether the store answers, and the ends that are told twice."""

from __future__ import annotations

import asyncio

import pytest
from distant_ledger import DistantLedger, Fate
from emergency_rig import NOW, QUOTA, hold, limit, money

from extproc.ledger import contact as contact_module
from extproc.ledger.contact import CALM_MS, Contact
from extproc.ledger.memory import MemoryLedger
from extproc.ledger.port import Account

ONLY = hold(limit("only", 100, QUOTA, 10))


@pytest.fixture
def remote():
    loop = asyncio.new_event_loop()
    yield DistantLedger(MemoryLedger(), loop)
    loop.close()


def test_a_store_that_is_away_is_asked_every_second_until_it_answers(remote: DistantLedger) -> None:
    contact = Contact(remote)
    contact.tend(NOW)
    contact.lost((ONLY,))
    for fate in (Fate.REFUSED, Fate.REQUEST_LOST):
        remote.fate = fate
        contact.tend(NOW)
        remote.run()
        assert contact.away
    remote.fate = Fate.ANSWERED
    contact.tend(NOW + 1_000)
    remote.run()
    assert not contact.away


def test_one_question_at_a_time_asks_whether_the_store_is_back(remote: DistantLedger) -> None:
    contact = Contact(remote)
    contact.lost((ONLY, ONLY))
    remote.at_once = False
    contact.tend(NOW)
    contact.tend(NOW + 1_000)
    assert len(remote.waiting) == 1
    remote.waiting[0][0].cancel()
    remote.run()
    assert contact.away
    contact.tend(NOW + 2_000)
    remote.waiting.pop(0)
    remote.answer()
    assert not contact.away


def test_a_store_in_this_process_may_answer_at_once() -> None:
    contact = Contact(MemoryLedger())
    contact.lost(())
    contact.tend(NOW)
    assert not contact.away


def test_F63_a_doubtful_question_is_ended_at_once_and_again_when_all_is_calm(
    remote: DistantLedger,
) -> None:
    contact = Contact(remote)
    contact.tend(NOW)
    contact.lost((ONLY,))
    contact.doubt("x", NOW, "test")
    remote.flush()
    # Heard after its end: the store was paused, and had the question in a buffer.
    remote.store.reserve("x", Account((ONLY,), {}), money(5), NOW, NOW + 900_000)
    contact.tend(NOW)
    remote.run()
    assert not contact.away
    assert contact.doubts("x")
    contact.tend(NOW + CALM_MS - 1)
    remote.flush()
    assert remote.store.peek([ONLY], NOW)[0].reserved == 5
    assert not contact.calm(NOW + CALM_MS - 1)
    assert contact.calm(NOW + CALM_MS)
    contact.tend(NOW + CALM_MS)
    remote.flush()
    assert remote.store.peek([ONLY], NOW)[0][1:3] == (0, 0)
    assert not contact.doubts("x")


def test_a_process_that_has_just_started_is_not_calm(remote: DistantLedger) -> None:
    contact = Contact(remote)
    assert not contact.calm(NOW)
    contact.tend(NOW)
    assert not contact.calm(NOW)
    assert contact.calm(NOW + CALM_MS)


def test_few_ends_are_told_again_at_a_time(
    remote: DistantLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contact_module, "REPEATED_AT_ONCE", 3)
    contact = Contact(remote)
    contact.tend(NOW)
    for n in range(7):
        contact.doubt(str(n), NOW, "test")
    told = []
    for _ in range(4):
        remote.buffer.clear()
        contact.tend(NOW + CALM_MS)
        told.append(len(remote.buffer))
    assert told == [3, 3, 1, 0]


def test_doubts_are_bounded(remote: DistantLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contact_module, "MAX_DOUBTS", 3)
    contact = Contact(remote)
    for n in range(10):
        contact.doubt(str(n), NOW, "test")
    assert [n for n in range(10) if contact.doubts(str(n))] == [7, 8, 9]
