"""A request that has to wait, as a conversation: denied, kept, called, served or refused."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from gateway import chat
from world import NOW, World, compiled, targets

from extproc.core.commands import Forward, Refuse, Reserve, Wait
from extproc.core.events import Reserved
from extproc.core.generation import Generation
from extproc.core.queueing import QueueingMachine
from extproc.core.waiting import Left, Turn
from extproc.ledger.embedded import EmbeddedLedger
from extproc.ledger.journal import Journal
from extproc.values.refusal import RefusalCode

POLICY = """
name: limits
type: gateway-rate-limit-config
rules:
  - {id: q, limit: {requests: 2, window: 10s}, on_breach: queue_then_429, max_wait: 20s}
  - {id: user, limit: {requests: 3, window: 1h}, scope: user, on_breach: hard_block}
---
name: budgets
type: gateway-budget-config
budgets:
  - id: money
    scope: {metadata: {X-TFY-Project: p2}}
    ceiling_usd: 0.01
    window: daily
    on_exceed: queue_then_429
    max_wait: 2s
  - id: cheaper
    scope: {metadata: {X-TFY-Workflow-Tag: cheaper}}
    ceiling_usd: 0.005
    window: daily
    on_exceed: fallback_to_cheaper
---
name: mixed
type: gateway-load-balancing-config
rules:
  - {id: dear, weight: 1, target: {provider: openai, model: gpt-4o}}
fallbacks:
  - {provider: openai, model: gpt-4o-mini}
"""
ROLLS_MS = 10_167
"""When the first of a 10 s window has left it, with its slot."""


class Queue:
    """A world in which the two requests of the shared window are taken."""

    def __init__(self, policy: str = POLICY, taken: int = 2) -> None:
        self.world = World(policy)
        self.folder = TemporaryDirectory()
        self.world.ledger = EmbeddedLedger(Journal(Path(self.folder.name)))  # type: ignore[assignment]
        self.room = self.world.gate.waiting
        for number in range(taken):
            assert isinstance(self.ask(f"taken{number}"), Forward)

    def ask(self, user: str = "u", now: int = NOW, body: Any = None, **headers: str) -> Any:
        return self.world.ask(body, now=now, user_id=user, session_id="s", **headers)

    def wait(self, user: str = "u", **more: Any) -> tuple[QueueingMachine, Wait]:
        command = self.ask(user, **more)
        assert isinstance(command, Wait), command
        return self.world.machine, command

    def call(self, machine: QueueingMachine, now: int, turn: Turn = Turn.NEXT) -> Any:
        """The room calls the machine, which asks the ledger."""
        return self.world.go_on(machine, machine.on_called(turn, now), now)

    def next(self, now: int) -> Any:
        """Whoever the room calls must be the one that waits."""
        self.room.due(now, 10)
        assert self.room.call() is not None


DEAR = chat(max_tokens=1_000)
"""0.0073 dollars at worst: the budget holds one at a time."""


def waiting_for_money() -> tuple[Queue, QueueingMachine, Wait]:
    """One call holds the money, another waits for it."""
    queue = Queue(taken=0)
    assert isinstance(queue.ask("first", body=DEAR, project="p2"), Forward)
    machine, wait = queue.wait("second", body=DEAR, project="p2")
    return queue, machine, wait


def refused(command: Any) -> Refuse:
    assert isinstance(command, Refuse), command
    return command


def test_a_denied_request_waits_and_holds_nothing() -> None:
    queue = Queue()
    _, wait = queue.wait()
    assert wait.hold_ms == 20_000
    assert wait.waiter.deadline_ms == NOW + 20_000
    assert queue.world.ledger.peek(queue.world.reservations[0].account.holds, NOW)[0].reserved == 2
    assert (queue.room.count, queue.room.next_alarm_ms()) == (1, wait.waiter.ready_ms)
    assert NOW + 10_000 <= wait.waiter.ready_ms <= NOW + ROLLS_MS


def test_it_is_served_when_its_turn_comes_and_the_answer_says_how_long_it_took() -> None:
    queue = Queue()
    machine, _ = queue.wait()
    queue.next(NOW + ROLLS_MS)
    command = queue.call(machine, NOW + ROLLS_MS)
    assert isinstance(command, Forward)
    assert ("queued", str(ROLLS_MS)) in command.notes
    assert command.now_ms == NOW + ROLLS_MS
    assert queue.room.left[Left.SERVED] == 1
    assert (queue.room.count, queue.room.lines) == (0, {})


def test_the_lease_begins_when_the_reservation_is_made() -> None:
    queue = Queue()
    machine, _ = queue.wait()
    first = queue.world.reservations[-1]
    queue.next(NOW + ROLLS_MS)
    queue.call(machine, NOW + ROLLS_MS)
    again = queue.world.reservations[-1]
    assert again.reservation_id == first.reservation_id
    assert again.lease_until_ms == first.lease_until_ms + ROLLS_MS


def test_called_too_early_it_waits_on_and_envoy_is_not_told_twice() -> None:
    queue = Queue()
    machine, _ = queue.wait()
    queue.room.anything_may_have_changed()
    assert queue.room.call() is not None
    command = queue.call(machine, NOW + 1_000)
    assert isinstance(command, Wait)
    assert command.hold_ms == 0
    assert command.waiter.deadline_ms == NOW + 20_000


def test_at_its_deadline_it_is_tried_once_more() -> None:
    queue = Queue()
    machine, _ = queue.wait()
    assert len(queue.room.due(NOW + 20_000, 10)) == 1
    assert isinstance(queue.call(machine, NOW + 20_000, Turn.OVER), Forward)
    assert queue.room.left[Left.SERVED] == 1


def test_at_its_deadline_it_is_refused_with_the_state_of_that_moment() -> None:
    queue, machine, wait = waiting_for_money()
    assert queue.room.due(NOW + 2_000, 10) == [wait.waiter]
    refusal = refused(queue.call(machine, NOW + 2_000, Turn.OVER)).refusal
    assert refusal.code is RefusalCode.BUDGET_EXCEEDED
    assert refusal.limit is not None
    assert refusal.limit.rule_id == "money"
    assert refusal.limit.reserved > 7_000
    assert not refusal.retryable  # a day does not end within a minute
    assert queue.room.left[Left.TIMED_OUT] == 1
    assert queue.room.lines == {}


@pytest.mark.parametrize(
    ("headers", "hold_ms"),
    [
        ({"x-stainless-timeout": "600"}, 20_000),
        ({"x-stainless-read-timeout": "25.5"}, 12_750),
        ({"x-stainless-timeout": "600", "x-stainless-read-timeout": "30"}, 15_000),
        ({"x-stainless-timeout": "NOT_GIVEN"}, 20_000),
    ],
)
def test_half_of_the_clients_own_timeout_is_the_most(headers: dict[str, str], hold_ms: int) -> None:
    queue = Queue()
    queue.world.extra = [(name, value.encode()) for name, value in headers.items()]
    assert queue.wait()[1].hold_ms == hold_ms


@pytest.mark.parametrize("seconds", [b"0", b"11"])
def test_a_client_that_will_not_wait_so_long_is_refused_at_once(seconds: bytes) -> None:
    queue = Queue()
    queue.world.extra = [("x-stainless-timeout", seconds)]
    refused(queue.ask())
    # Nor does it stand behind others for nothing.
    queue.world.extra = []
    queue.wait("a")
    queue.world.extra = [("x-stainless-timeout", b"0")]
    refused(queue.ask("b"))
    assert queue.room.count == 1


def test_a_clients_patience_begins_with_its_headers_and_the_wait_with_the_body() -> None:
    queue = Queue(POLICY.replace("max_wait: 20s", "max_wait: 30s"))
    queue.world.upload_ms = 15_000
    assert queue.wait()[1].hold_ms == 30_000
    queue.world.extra = [("x-stainless-timeout", b"80")]
    assert queue.wait()[1].hold_ms == 25_000


def test_who_lost_hope_is_refused_before_its_deadline() -> None:
    queue, machine, _ = waiting_for_money()
    # The call that held the money spent it.
    queue.world.ledger.settle("r1/1", (1, 1, 1, 1, 9_000, 9_000), NOW + 5, {})
    queue.room.anything_may_have_changed()
    assert queue.room.call() is not None
    refusal = refused(queue.call(machine, NOW + 5)).refusal
    assert refusal.limit is not None
    assert (refusal.limit.spent, refusal.limit.reserved) == (9_000, 0)
    assert queue.room.left[Left.REFUSED] == 1
    refused(queue.ask("other", body=DEAR, project="p2"))
    assert queue.room.count == 0


def test_a_rule_that_blocks_blocks_at_once() -> None:
    queue = Queue(POLICY.replace("requests: 3", "requests: 1"))
    refusal = refused(queue.ask("taken0")).refusal
    assert refusal.limit is not None
    assert queue.room.count == 0


def test_whoever_comes_later_waits_behind_without_asking_the_ledger() -> None:
    queue = Queue()
    first, _ = queue.wait("a")
    second, _ = queue.wait("b", now=NOW + ROLLS_MS)  # it would fit
    assert queue.world.reservations == []
    queue.next(NOW + ROLLS_MS)
    assert isinstance(queue.call(first, NOW + ROLLS_MS), Forward)
    assert queue.room.call() is not None
    assert isinstance(queue.call(second, NOW + ROLLS_MS), Forward)
    assert isinstance(queue.ask("c", now=NOW + 2 * ROLLS_MS), Forward)


def test_a_full_room_refuses_with_the_time_by_which_it_is_empty() -> None:
    queue = Queue()
    queue.world.gate.generation = Generation(compiled(POLICY + "", 2))
    object.__setattr__(queue.world.gate.generation.policy, "max_waiting", 1)
    queue.wait("a")
    refusal = refused(queue.ask("b")).refusal
    assert (refusal.code, refusal.retry_after_s) == (RefusalCode.RATE_LIMIT_EXCEEDED, 20)
    assert ("rule_id", "q") in refusal.extra


def test_displaced_and_stopped_ones_are_refused_without_asking_the_ledger() -> None:
    queue = Queue()
    for turn, seconds in ((Turn.DISPLACED, 20), (Turn.STOPPED, 1)):
        machine, _ = queue.wait("a")
        command = machine.on_called(turn, NOW + 500)
        assert refused(command).refusal.retry_after_s == seconds
        assert queue.room.count == 0


def test_a_client_that_left_waits_no_more() -> None:
    queue = Queue()
    machine, _ = queue.wait("a")
    assert machine.on_caller_left()
    assert (queue.room.count, queue.room.left[Left.ABANDONED]) == (0, 1)
    assert not QueueingMachine(queue.world.gate).on_caller_left()


def test_a_ledger_that_fails_ends_the_wait() -> None:
    queue = Queue()
    machine, _ = queue.wait("a")
    queue.next(NOW + ROLLS_MS)
    assert isinstance(machine.on_called(Turn.NEXT, NOW + ROLLS_MS), Reserve)
    assert refused(machine.on_ledger_failed()).refusal.code is RefusalCode.STORE_UNAVAILABLE
    assert queue.room.count == 0


def test_a_budget_waits_for_what_is_reserved() -> None:
    queue, machine, wait = waiting_for_money()
    assert wait.hold_ms == 2_000
    queue.world.ledger.settle("r1/1", (1, 20, 10, 10, 60, 60), NOW + 5, {})
    queue.room.freed(queue.world.reservations[0].account.holds)
    assert queue.room.call() is wait.waiter
    assert isinstance(queue.call(machine, NOW + 5), Forward)


def test_a_fallback_comes_before_the_wait() -> None:
    queue = Queue()
    body = chat(model="mixed", max_tokens=2_000)
    # Both breached: the budget moves it to the cheaper model, and there it waits for the rule.
    machine, _ = queue.wait("u", body=body, workflow_tag="cheaper")
    queue.next(NOW + ROLLS_MS)
    command = queue.call(machine, NOW + ROLLS_MS)
    assert isinstance(command, Forward)
    assert targets(command) == ["openai/gpt-4o-mini"]


# -- a new policy ---------------------------------------------------------------------------------


def entered(queue: Queue, policy: str) -> None:
    queue.world.gate.enter(Generation(compiled(policy, 2)))
    queue.room.anything_may_have_changed()
    assert queue.room.call() is not None


def test_a_new_policy_decides_those_who_wait_as_if_they_came_now() -> None:
    queue = Queue()
    machine, _ = queue.wait("a")
    entered(queue, POLICY.replace("requests: 2", "requests: 9"))
    command = queue.call(machine, NOW + 100)
    assert isinstance(command, Forward)
    assert command.generation == 2
    assert ("queued", "100") in command.notes


def test_a_new_policy_that_is_as_full_changes_neither_place_nor_deadline() -> None:
    queue = Queue()
    machine, wait = queue.wait("a")
    other, _ = queue.wait("b")
    entered(queue, POLICY + "  # the same")
    command = queue.call(machine, NOW + 100)
    assert isinstance(command, Wait)
    assert (command.hold_ms, command.waiter) == (0, wait.waiter)
    assert command.waiter.deadline_ms == NOW + 20_000
    queue.next(NOW + ROLLS_MS)
    assert isinstance(queue.call(machine, NOW + ROLLS_MS), Forward)
    assert queue.room.call() is not None
    command = queue.call(other, NOW + ROLLS_MS)
    assert isinstance(command, Forward)
    assert command.generation == 2


def test_a_new_policy_that_blocks_refuses_those_who_wait() -> None:
    queue = Queue()
    machine, _ = queue.wait("a")
    entered(queue, POLICY.replace("queue_then_429, max_wait: 20s", "hard_block"))
    assert refused(queue.call(machine, NOW + 100)).generation == 2
    assert (queue.room.count, queue.room.lines) == (0, {})


def test_the_ledgers_late_answer_counts_for_the_generation_that_asked() -> None:
    queue = Queue()
    machine, _ = queue.wait("a")
    queue.next(NOW + ROLLS_MS)
    reserve = machine.on_called(Turn.NEXT, NOW + ROLLS_MS)
    assert isinstance(reserve, Reserve)
    outcome = queue.world.reserve(reserve)
    queue.world.gate.enter(Generation(compiled(POLICY + "  # the same", 2)))
    command = machine.on_reserved(Reserved(outcome, NOW + ROLLS_MS))
    assert isinstance(command, Forward)
    assert command.generation == 1
