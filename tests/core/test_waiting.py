"""The waiting room: bounds, turns, deadlines; nobody is lost and nobody is called twice."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from policies import limits
from policies import rule as rate_rule

from extproc.core.waiting import (
    MAX_IDENTITY_BYTES,
    MAX_WAITING_BYTES,
    Left,
    Waiter,
    WaitingRoom,
)
from extproc.ledger.port import Hold
from extproc.values.limit import Amounts, Limit

NOW = 1_000_000
RULE = "{id: q, limit: {requests: 10, window: 1h}, on_breach: queue_then_429, max_wait: 5s}"


def limit(**changes: str) -> Limit:
    text = RULE
    for old, new in changes.items():
        text = text.replace(old, new)
    (found,) = limits(q=rate_rule(text)).values()
    return found


LIMIT = limit()


def hold(value: str = "") -> Hold:
    return Hold(LIMIT, value, LIMIT.ceiling)


def counter(value: str = "") -> tuple[str, str]:
    return (LIMIT.key, value)


def enter(
    room: WaitingRoom,
    identity: str = "i",
    *,
    value: str = "",
    size: int = 100,
    deadline: int = NOW + 5_000,
    ready: int = 0,
    most: int = 100,
) -> Waiter | None:
    """A newcomer; None when it was not let in."""
    waiter = Waiter(identity, size, NOW, deadline)
    return waiter if room.enter(waiter, counter(value), deadline, ready, most) else None


def must_enter(room: WaitingRoom, identity: str = "i", **more: object) -> Waiter:
    waiter = enter(room, identity, **more)  # type: ignore[arg-type]
    assert waiter is not None
    return waiter


def served(room: WaitingRoom, value: str = "") -> list[Waiter]:
    """Everybody of a line, in the order of being served, when there is room for all."""
    room.freed([hold(value)])
    order = []
    while (waiter := room.call()) is not None:
        order.append(waiter)
        room.leave(waiter, Left.SERVED)
    return order


# -- turns ----------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=40))
def test_identities_take_turns_and_each_is_first_come_first_served(arrivals: list[str]) -> None:
    room = WaitingRoom()
    waiters = [must_enter(room, identity) for identity in arrivals]
    order = served(room)
    assert sorted(map(id, order)) == sorted(map(id, waiters))
    for identity in set(arrivals):
        own = [waiter for waiter in waiters if waiter.identity == identity]
        assert [waiter for waiter in order if waiter.identity == identity] == own
    turns, left = Counter[str](), Counter(arrivals)
    for waiter in order:
        turns[waiter.identity] += 1
        left[waiter.identity] -= 1
        still = [turns[identity] for identity in left if left[identity] > 0]
        assert not still or max(still) - min(still) <= 1
    assert room.lines == {}


def test_who_finds_the_counter_still_full_stays_first() -> None:
    room = WaitingRoom()
    first, second, third = (must_enter(room, name) for name in "aab")
    room.freed([hold()])
    assert room.call() is first
    assert room.enter(first, counter(), first.deadline_ms, 0, 100)
    assert room.call() is None  # nobody tries behind one that did not fit
    room.freed([hold()])
    assert room.call() is first
    room.leave(first, Left.SERVED)
    assert room.call() is third
    assert room.call() is None  # one of a line at a time
    room.leave(third, Left.SERVED)
    assert room.call() is second


def test_one_that_finds_another_counter_full_moves_there_and_the_next_is_called() -> None:
    room = WaitingRoom()
    first, second = must_enter(room, "a"), must_enter(room, "b")
    other = must_enter(room, "c", value="x")
    room.freed([hold()])
    assert room.call() is first
    assert room.enter(first, counter("x"), first.deadline_ms, 0, 100)
    assert room.call() is second
    room.leave(second, Left.SERVED)
    assert list(room.lines) == [counter("x")]
    assert served(room, "x") == [other, first]


def test_capacity_that_returns_while_one_is_asking_is_not_forgotten() -> None:
    room = WaitingRoom()
    first = must_enter(room)
    room.freed([hold()])
    assert room.call() is first
    room.freed([hold()])
    assert room.call() is None
    room.enter(first, counter(), first.deadline_ms, 0, 100)
    assert room.call() is first


def test_only_the_lines_of_freed_counters_are_called_unless_anything_may_have_changed() -> None:
    room = WaitingRoom()
    here, there = must_enter(room, value="x"), must_enter(room, value="y")
    room.freed([hold("x"), hold("z")])
    assert room.call() is here
    assert room.call() is None
    room.leave(here, Left.SERVED)
    room.anything_may_have_changed()
    assert room.call() is there


def test_newcomers_stand_behind_those_who_wait_for_a_counter_they_need() -> None:
    room = WaitingRoom()
    one: Amounts = (1, 0, 0, 0, 0, 0)
    assert room.line_ahead([hold("x")], one) is None
    must_enter(room, value="x")
    assert room.line_ahead([hold("y"), hold("x")], one) == hold("x")
    assert room.line_ahead([hold("y")], one) is None
    # What can never fit is not kept: the ledger will say so.
    assert room.line_ahead([hold("x")], (11, 0, 0, 0, 0, 0)) is None
    # The rule may have another action in a newer policy.
    blocks = limit(queue_then_429="hard_block")
    assert room.line_ahead([Hold(blocks, "x", 10)], one) is None


# -- bounds ---------------------------------------------------------------------------------------


def test_no_more_wait_than_may() -> None:
    room = WaitingRoom()
    must_enter(room, "a", most=2)
    must_enter(room, "b", most=2)
    assert enter(room, "c", most=2) is None
    assert enter(room, "a", most=2) is None
    assert room.count == 2


def test_in_a_full_room_the_largest_identity_makes_room_for_a_smaller_one() -> None:
    room = WaitingRoom()
    crowd = [must_enter(room, "crowd", most=4) for _ in range(4)]
    assert enter(room, "crowd", most=4) is None
    other = must_enter(room, "other", most=4)
    assert room.turned_away == [crowd[3]]  # its newest
    again = must_enter(room, "other", most=4)
    assert room.turned_away == [crowd[3], crowd[2]]
    assert enter(room, "other", most=4) is None  # two and two
    assert room.left[Left.DISPLACED] == 2
    assert served(room) == [crowd[0], other, crowd[1], again]


def test_bytes_are_bounded_in_all_and_for_each_identity() -> None:
    room = WaitingRoom()
    must_enter(room, "a", size=MAX_IDENTITY_BYTES)
    assert enter(room, "a", size=1) is None
    for name in "bcd":
        must_enter(room, name, size=MAX_IDENTITY_BYTES)
    assert room.bytes == MAX_WAITING_BYTES
    assert enter(room, "e", size=1) is None


def test_nobody_enters_a_closed_room_and_all_who_wait_are_told() -> None:
    room = WaitingRoom()
    waiters = [must_enter(room, name) for name in "ab"]
    room.freed([hold()])
    called = room.call()
    room.closed = True
    assert enter(room) is None
    assert room.everyone() == [waiters[1]]
    assert called is waiters[0]
    assert not room.enter(waiters[0], counter(), NOW + 5_000, 0, 100)


# -- time -----------------------------------------------------------------------------------------


def test_deadlines_come_in_order_and_each_once() -> None:
    room = WaitingRoom()
    late = must_enter(room, deadline=NOW + 300)
    soon = must_enter(room, deadline=NOW + 100)
    middle = must_enter(room, deadline=NOW + 200)
    assert room.next_alarm_ms() == NOW + 100
    assert room.due(NOW + 99, 10) == []
    assert room.due(NOW + 250, 10) == [soon, middle]
    assert room.next_alarm_ms() == NOW + 300
    assert room.due(NOW + 400, 10) == [late]
    assert room.due(NOW + 400, 10) == []
    for waiter in (soon, middle, late):
        room.leave(waiter, Left.TIMED_OUT)
    assert (room.count, room.lines) == (0, {})


def test_not_more_are_due_at_once_than_asked_for() -> None:
    room = WaitingRoom()
    waiters = [must_enter(room) for _ in range(5)]
    assert room.due(NOW + 5_000, 3) == waiters[:3]
    assert room.due(NOW + 5_000, 3) == waiters[3:]


def test_time_alone_brings_a_turn() -> None:
    room = WaitingRoom()
    waiter = must_enter(room, ready=NOW + 700)
    assert room.next_alarm_ms() == NOW + 700
    assert room.due(NOW + 700, 10) == []
    assert room.call() is waiter
    # Still full, until later.
    room.enter(waiter, counter(), waiter.deadline_ms, NOW + 900, 100)
    assert room.next_alarm_ms() == NOW + 900


def test_a_deadline_that_passes_while_the_ledger_is_asked_is_not_forgotten() -> None:
    room = WaitingRoom()
    waiter = must_enter(room, deadline=NOW + 100)
    room.freed([hold()])
    assert room.call() is waiter
    assert room.due(NOW + 150, 10) == []
    room.enter(waiter, counter(), waiter.deadline_ms, 0, 100)
    assert room.due(NOW + 150, 10) == [waiter]


def test_a_deadline_may_come_nearer_and_never_moves_away() -> None:
    room = WaitingRoom()
    waiter = must_enter(room, deadline=NOW + 1_000)
    for deadline in (NOW + 500, NOW + 2_000):
        room.freed([hold()])
        assert room.call() is waiter
        room.enter(waiter, counter(), deadline, 0, 100)
    assert room.due(NOW + 500, 10) == [waiter]


def test_alarms_are_bounded() -> None:
    room = WaitingRoom()
    waiter = must_enter(room)
    for number in range(10_000):
        room.freed([hold()])
        assert room.call() is waiter
        room.enter(waiter, counter(), waiter.deadline_ms, NOW + 1_000 + number % 61, 100)
        passing = must_enter(room, "b")
        room.leave(passing, Left.ABANDONED)
    assert len(room._alarms) < 200


# -- all together ---------------------------------------------------------------------------------

MOST = 6
VALUES = st.sampled_from(["", "x", "y"])


class Room(RuleBasedStateMachine):
    """Anything may happen in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.room = WaitingRoom()
        self.now = NOW
        self.inside: dict[Waiter, str] = {}
        """Waiters to the counter that they wait for."""
        self.called: list[Waiter] = []

    @rule(
        identity=st.sampled_from("abc"),
        value=VALUES,
        wait=st.integers(1, 50),
        ready=st.integers(0, 60),
    )
    def comes(self, identity: str, value: str, wait: int, ready: int) -> None:
        full = len(self.inside) >= MOST
        waiter = enter(
            self.room, identity, value=value, deadline=self.now + wait,
            ready=self.now + ready if ready else 0, most=MOST,
        )  # fmt: skip
        assert full or waiter is not None
        for displaced in self.room.turned_away:
            assert displaced.identity != identity
            del self.inside[displaced]
        self.room.turned_away.clear()
        if waiter is not None:
            self.inside[waiter] = value

    @rule(value=VALUES)
    def frees(self, value: str) -> None:
        self.room.freed([hold(value)])

    @rule()
    def anything(self) -> None:
        self.room.anything_may_have_changed()

    @rule()
    def calls(self) -> None:
        waiter = self.room.call()
        if waiter is not None:
            assert waiter in self.inside
            assert waiter not in self.called
            self.called.append(waiter)

    @precondition(lambda self: self.called)
    @rule(value=VALUES, data=st.data())
    def still_full(self, value: str, data: st.DataObject) -> None:
        waiter = data.draw(st.sampled_from(self.called))
        if waiter.deadline_ms > self.now:
            self.called.remove(waiter)
            assert self.room.enter(waiter, counter(value), waiter.deadline_ms, 0, MOST)
            self.inside[waiter] = value

    @precondition(lambda self: self.inside)
    @rule(how=st.sampled_from(Left), data=st.data())
    def leaves(self, how: Left, data: st.DataObject) -> None:
        waiter = data.draw(st.sampled_from(list(self.inside)))
        self.room.leave(waiter, how)
        self.room.leave(waiter, how)
        del self.inside[waiter]
        if waiter in self.called:
            self.called.remove(waiter)

    @rule(ms=st.integers(0, 30), most=st.integers(1, 4))
    def time_passes(self, ms: int, most: int) -> None:
        self.now += ms
        over = self.room.due(self.now, most)
        assert all(before.deadline_ms <= after.deadline_ms for before, after in pairwise(over))
        for waiter in over:
            assert waiter.deadline_ms <= self.now
            assert waiter in self.inside
            assert waiter not in self.called
            self.called.append(waiter)

    @invariant()
    def nobody_is_lost_or_there_twice(self) -> None:
        standing = [
            (waiter, key[1])
            for key, line in self.room.lines.items()
            for waiters in line.turns.values()
            for waiter in waiters
        ]
        expected = {waiter: at for waiter, at in self.inside.items() if waiter not in self.called}
        assert len(standing) == len(expected)
        assert dict(standing) == expected

    @invariant()
    def the_bounds_hold(self) -> None:
        assert self.room.count == len(self.inside) <= MOST
        assert self.room.bytes == 100 * len(self.inside)
        assert self.room._most == max(
            Counter(waiter.identity for waiter in self.inside).values(), default=0
        )
        assert self.room.entered == self.room.count + sum(self.room.left.values())

    @invariant()
    def somebody_will_look_before_any_deadline(self) -> None:
        deadlines = [w.deadline_ms for w in self.inside if w not in self.called]
        if deadlines:
            alarm_ms = self.room.next_alarm_ms()
            assert alarm_ms is not None
            assert alarm_ms <= min(deadlines)

    @invariant()
    def no_line_is_empty(self) -> None:
        for line in self.room.lines.values():
            assert line.turns or line.called is not None


Room.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestRoom = Room.TestCase
