"""The queue on an event loop: alarms ring, turns are taken a few at a time, remote ledgers."""

from __future__ import annotations

import asyncio
import json
from asyncio import Future
from collections.abc import Coroutine
from random import Random
from typing import Any

import pytest
from fake_stream import FakeStream
from gateway import HEADERS, chat
from world import World

from extproc.core.gate import Gate
from extproc.core.machine import State
from extproc.core.waiting import Left, Turn, Waiter, WaitingRoom
from extproc.edge import codec
from extproc.edge.clock import Clock
from extproc.edge.queue import TURNS_AT_ONCE, Queue
from extproc.edge.services import RequestService, Sidecar
from extproc.ledger.memory import MemoryLedger
from extproc.ledger.port import LedgerUnavailableError
from extproc.pb import extproc_pb2 as pb

COUNTER = ("rule/requests", "")


def run(scenario: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(10):
            await scenario

    asyncio.run(limited())


class Waiters:
    """A room with its queue; every waiter that is called leaves, and is noted."""

    def __init__(self) -> None:
        self.room = WaitingRoom()
        self.clock = Clock()
        self.queue = Queue(self.room, self.clock)
        self.calls: list[tuple[Waiter, Turn]] = []

    def wait(self, wait_ms: int, *, ready_ms: int = 0, most: int = 100, who: str = "i") -> Waiter:
        now_ms = self.clock.now_ms()
        waiter = Waiter(who, 1, now_ms, now_ms + wait_ms)

        def resume(turn: Turn) -> None:
            self.calls.append((waiter, turn))
            self.room.leave(waiter, Left.SERVED)

        waiter.resume = resume
        ready_at_ms = now_ms + ready_ms if ready_ms else 0
        assert self.room.enter(waiter, COUNTER, now_ms + wait_ms, ready_at_ms, most)
        self.queue.look_at_alarms()
        return waiter


def test_a_deadline_rings() -> None:
    async def scenario() -> None:
        waiters = Waiters()
        later, soon = waiters.wait(60), waiters.wait(20)
        await asyncio.sleep(0.04)
        # The line's next may try when the first has left it: perhaps there is room.
        assert waiters.calls[0] == (soon, Turn.OVER)
        await asyncio.sleep(0.05)
        assert [waiter for waiter, _ in waiters.calls] == [soon, later]

    run(scenario())


def test_the_time_at_which_capacity_returns_rings() -> None:
    async def scenario() -> None:
        waiters = Waiters()
        waiter = waiters.wait(5_000, ready_ms=30)
        await asyncio.sleep(0.015)
        assert waiters.calls == []
        await asyncio.sleep(0.04)
        assert waiters.calls == [(waiter, Turn.NEXT)]

    run(scenario())


def test_a_crowd_is_called_a_few_at_a_time_in_one_turn_of_the_loop() -> None:
    async def scenario() -> None:
        waiters = Waiters()
        for _ in range(3 * TURNS_AT_ONCE):
            waiters.wait(5_000)
        waiters.queue.anything_may_have_changed()
        for turn in range(1, 4):
            await asyncio.sleep(0)
            assert len(waiters.calls) == turn * TURNS_AT_ONCE
        await asyncio.sleep(0.01)
        assert waiters.room.count == 0

    run(scenario())


def test_a_crowd_whose_deadline_comes_is_called_a_few_at_a_time() -> None:
    async def scenario() -> None:
        waiters = Waiters()
        for _ in range(5 * TURNS_AT_ONCE):
            waiters.wait(20)
        await asyncio.sleep(0.1)
        assert len(waiters.calls) == 5 * TURNS_AT_ONCE

    run(scenario())


def test_the_displaced_are_told_at_once() -> None:
    async def scenario() -> None:
        waiters = Waiters()
        crowd = [waiters.wait(5_000, most=3) for _ in range(3)]
        waiters.wait(5_000, most=3, who="other")
        await asyncio.sleep(0)
        assert (crowd[2], Turn.DISPLACED) in waiters.calls

    run(scenario())


def test_stopping_tells_everybody() -> None:
    async def scenario() -> None:
        waiters = Waiters()
        everybody = [waiters.wait(5_000) for _ in range(100)]
        waiters.queue.stop()
        assert waiters.calls == [(waiter, Turn.STOPPED) for waiter in everybody]
        assert waiters.room.closed

    run(scenario())


def test_without_waiters_nothing_is_scheduled() -> None:
    # No loop runs here: whatever would be scheduled would raise.
    queue = Queue(WaitingRoom(), Clock())
    queue.freed(())
    queue.anything_may_have_changed()
    queue.look_soon()
    queue.stop()


# -- a ledger that answers later ------------------------------------------------------------------

POLICY = """
name: limits
type: gateway-rate-limit-config
rules:
  - {id: q, limit: {usd: 0.01, window: 1h}, on_breach: queue_then_429, max_wait: 2s}
"""
BODY = json.dumps(chat(max_tokens=1_000)).encode()  # 0.0073 dollars: one fits at a time


class RemoteLedger(MemoryLedger):
    """Answers after a turn of the loop or when told; sometimes not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.slow: Future[None] | None = None
        self.broken = False
        self.fault = ""

    def reserve(self, *question: Any) -> Any:
        self.asked += 1
        if self.fault == "the ledger":
            raise RuntimeError("a bug")
        answer: Future[Any] = asyncio.get_running_loop().create_future()

        def decide(_: Any = None) -> None:
            if self.fault:
                answer.set_result("nonsense")
            elif self.broken:
                answer.set_exception(LedgerUnavailableError("away"))
            else:
                answer.set_result(MemoryLedger.reserve(self, *question))

        if self.slow is None:
            asyncio.get_running_loop().call_soon(decide)
        else:
            self.slow.add_done_callback(decide)
        return answer

    def flush(self) -> None:
        """Everything is durable at once."""

    def held(self) -> int:
        return sum(not entry.ended for entry in self._entries.values())


class SoundStream(FakeStream):
    """One that nothing may fail."""

    def fail(self) -> None:
        raise AssertionError("the stream failed")


class Remote:
    """The request service over a remote ledger."""

    def __init__(self) -> None:
        self.ledger = RemoteLedger()
        self.gate: Gate = World(POLICY).gate
        self.sidecar = Sidecar(self.gate, self.ledger, Clock(), Random(1))
        self.service = RequestService(self.sidecar)
        self.requests = 0

    def ask(self) -> SoundStream:
        self.requests += 1
        stream = SoundStream()
        names = {
            **HEADERS, ":path": "/v1/chat/completions", "x-request-id": f"r{self.requests}",
        }  # fmt: skip
        message = pb.ProcessingRequest()
        for name, value in names.items():
            message.request_headers.headers.headers.add(key=name, raw_value=value.encode())
        self.service.message(stream, message.SerializeToString())
        body = pb.ProcessingRequest(request_body=pb.HttpBody(body=BODY, end_of_stream=True))
        self.service.message(stream, body.SerializeToString())
        return stream

    async def holding(self) -> None:
        """One request that holds the money."""
        assert (await self.answered(self.ask())).HasField("request_body")

    async def answered(self, stream: SoundStream) -> pb.ProcessingResponse:
        while not stream.ended:
            await asyncio.sleep(0.005)
        return stream.sent[-1]

    async def waiting(self) -> SoundStream:
        stream = self.ask()
        while self.gate.waiting.count == 0:
            await asyncio.sleep(0)
        return stream


def test_envoy_is_told_once_to_wait() -> None:
    async def scenario() -> None:
        remote = Remote()
        await remote.holding()
        stream = await remote.waiting()
        assert stream.sent[-1] == pb.ProcessingResponse.FromString(codec.encode_hold(2_000))
        refusal = await remote.answered(stream)
        assert refusal.immediate_response.status.code == 429
        assert len(stream.sent) == 3  # await the body, wait longer, the refusal
        assert remote.gate.waiting.left[Left.TIMED_OUT] == 1

    run(scenario())


def test_what_another_sidecar_frees_is_found_by_asking_again_at_a_bounded_rate() -> None:
    async def scenario() -> None:
        remote = Remote()
        await remote.holding()
        asked = remote.ledger.asked
        stream = await remote.waiting()
        await asyncio.sleep(0.55)
        assert 4 <= remote.ledger.asked - asked <= 16  # in full, and at its shortest
        remote.ledger.release("r1/1", 0, "elsewhere")
        answer = await remote.answered(stream)
        assert answer.HasField("request_body")
        assert remote.ledger.held() == 1

    run(scenario())


def test_F48_a_client_that_leaves_while_the_ledger_is_asked_leaves_nothing_reserved() -> None:
    async def scenario() -> None:
        remote = Remote()
        await remote.holding()
        first, second = await remote.waiting(), remote.ask()
        remote.ledger.release("r1/1", 0, "over")
        remote.ledger.slow = asyncio.get_running_loop().create_future()
        remote.sidecar.queue.anything_may_have_changed()
        await asyncio.sleep(0.01)
        remote.service.closed(first)
        assert remote.gate.waiting.left[Left.ABANDONED] == 1
        asked, remote.ledger.slow = remote.ledger.slow, None
        asked.set_result(None)
        assert (await remote.answered(second)).HasField("request_body")
        assert remote.ledger._entries["r2/1"].ended == "released"
        assert remote.ledger.held() == 1
        assert remote.gate.waiting.count == 0

    run(scenario())


def test_a_ledger_that_is_gone_when_its_turn_comes_refuses() -> None:
    async def scenario() -> None:
        remote = Remote()
        await remote.holding()
        stream = await remote.waiting()
        remote.ledger.broken = True
        refusal = await remote.answered(stream)
        assert refusal.immediate_response.status.code == 503
        assert remote.gate.waiting.count == 0

    run(scenario())


def test_stopping_while_the_ledger_is_asked_refuses_when_it_has_answered() -> None:
    async def scenario() -> None:
        remote = Remote()
        await remote.holding()
        stream = await remote.waiting()
        remote.ledger.slow = asyncio.get_running_loop().create_future()
        remote.sidecar.queue.anything_may_have_changed()
        await asyncio.sleep(0.01)
        remote.sidecar.queue.stop()
        assert not stream.ended
        remote.ledger.slow.set_result(None)
        assert (await remote.answered(stream)).immediate_response.status.code == 429
        assert remote.gate.waiting.count == 0

    run(scenario())


@pytest.mark.parametrize("where", ["the machine", "the ledger's answer", "the ledger"])
def test_a_fault_of_ours_ends_the_wait_with_503(where: str, caplog) -> None:
    async def scenario() -> None:
        remote = Remote()
        await remote.holding()
        stream = await remote.waiting()
        if where == "the machine":
            stream.state.state = State.DONE  # it cannot be called in this state
        else:
            remote.ledger.fault = where
        remote.sidecar.queue.anything_may_have_changed()
        answer = await remote.answered(stream)
        assert answer.immediate_response.status.code == 503
        assert remote.gate.waiting.count == 0
        assert remote.sidecar.metrics.internal_errors == 1

    run(scenario())
