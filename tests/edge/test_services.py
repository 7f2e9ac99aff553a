"""What the services make of a ledger that answers later, or not at all."""

from __future__ import annotations

import asyncio
import json
from asyncio import Future
from random import Random
from typing import Any

import pytest
from fake_stream import FakeStream
from gateway import KEY, chat
from policies import HOLDER
from world import compiled

from extproc.core.gate import LEASE_MS, Gate
from extproc.core.generation import Generation
from extproc.edge.clock import Clock
from extproc.edge.services import RequestService, Sidecar
from extproc.ledger.memory import MemoryLedger
from extproc.ledger.port import LedgerUnavailableError
from extproc.pb import extproc_pb2 as pb
from extproc.values.refusal import RefusalCode

VELOCITY = """
name: v
type: gateway-budget-config
velocity: [{id: fast, scope: user, max_usd_per_minute: 1}]
budgets: [{id: all, ceiling_usd: 1, window: daily}]
"""


class LaterLedger(MemoryLedger):
    """Answers what it is asked for when the test says so; or never can."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[tuple[Future[Any], Any]] = []
        self.away = False

    def _later(self, answer: Any) -> Any:
        if self.away:
            raise LedgerUnavailableError("away")
        future: Future[Any] = asyncio.get_running_loop().create_future()
        self.waiting.append((future, answer))
        return future

    def flush(self) -> None:
        """Nothing to write."""

    def peek(self, holds: Any, now_ms: int) -> Any:
        return self._later(lambda: super(LaterLedger, self).peek(holds, now_ms))

    def reserve(self, *arguments: Any) -> Any:
        return self._later(lambda: super(LaterLedger, self).reserve(*arguments))

    async def answer(self, error: Exception | None = None) -> None:
        for future, answer in self.waiting:
            if error is None:
                future.set_result(answer())
            else:
                future.set_exception(error)
        self.waiting.clear()
        await asyncio.sleep(0)


def headers(path: str, end: bool) -> bytes:
    message = pb.ProcessingRequest()
    message.request_headers.end_of_stream = end
    for name, value in (
        (":path", path),
        ("authorization", f"Bearer {KEY}"),
        ("content-type", "application/json"),
        ("x-request-id", "r1"),
        ("x-tfy-user-id", "u"),
    ):
        header = message.request_headers.headers.headers.add()
        header.key, header.raw_value = name, value.encode()
    return message.SerializeToString()


def body(**fields: Any) -> bytes:
    message = pb.ProcessingRequest()
    message.request_body.body = json.dumps(chat(**fields)).encode()
    message.request_body.end_of_stream = True
    return message.SerializeToString()


MCP = """
name: m
type: gateway-config
mcp_servers: {docs: {url: "http://h/mcp", tools: {deny: [secret]}}}
---
name: r
type: gateway-rate-limit-config
rules: [{id: calls, limit: {tool_calls: 1, window: 1h}, scope: credential}]
"""


def mcp_headers() -> bytes:
    message = pb.ProcessingRequest.FromString(headers("/mcp/docs", False))
    header = message.request_headers.headers.headers.add()
    header.key, header.raw_value = ":method", b"POST"
    return message.SerializeToString()


def mcp_body(method: str, **params: Any) -> bytes:
    message = pb.ProcessingRequest()
    document = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    message.request_body.body = json.dumps(document).encode()
    message.request_body.end_of_stream = True
    return message.SerializeToString()


class Rig:
    """A service over a ledger that answers later."""

    def __init__(self, policy: str = VELOCITY) -> None:
        self.ledger = LaterLedger()
        self.sidecar = Sidecar(Gate(Generation(compiled(policy))), self.ledger, Clock(), Random(1))
        self.service = RequestService(self.sidecar)
        self.stream = FakeStream()

    def ask_budget(self) -> None:
        self.service.message(self.stream, headers("/v1/budget/effective?model=intent-fast", True))

    def code(self) -> str:
        (answer,) = self.stream.sent
        document = json.loads(answer.immediate_response.body)
        return str(document["error"]["code"])


LIMITED_HOLDER = (
    HOLDER
    + """---
name: b
type: gateway-budget-config
budgets: [{id: all, ceiling_usd: 1, window: daily}]
"""
)


@pytest.mark.parametrize("fault", ["refused", "broken"])
def test_what_is_granted_and_does_not_leave_is_given_back(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = MemoryLedger()
    gate = Gate(Generation(compiled(LIMITED_HOLDER)))
    service, stream = RequestService(Sidecar(gate, ledger, Clock(), Random(1))), FakeStream()
    if fault == "broken":

        def breaks(*_: Any) -> Any:
            raise ValueError

        monkeypatch.setattr("extproc.core.machine.rewrite", breaks)
    service.message(stream, headers("/v1/chat/completions", False))
    service.message(stream, body(model="holder", generationConfig="x"))
    refused = stream.sent[-1].immediate_response
    assert refused.status.code == (400 if fault == "refused" else 503)
    assert not gate.in_flight
    assert ledger.expire(Clock().now_ms() + 2 * LEASE_MS) == []


def test_counters_that_are_elsewhere_are_waited_for() -> None:
    async def scenario() -> None:
        rig = Rig()
        rig.ask_budget()
        assert rig.stream.sent == []
        await rig.ledger.answer()
        (answer,) = rig.stream.sent
        assert answer.immediate_response.status.code == 200
        document = json.loads(answer.immediate_response.body)
        assert document["usd_remaining"] == "1.00"
        assert rig.sidecar.metrics.refused == {}

    asyncio.run(scenario())


@pytest.mark.parametrize("later", [False, True])
def test_counters_that_cannot_be_read_are_a_refusal(later: bool) -> None:
    async def scenario() -> None:
        rig = Rig()
        rig.ledger.away = not later
        rig.ask_budget()
        await rig.ledger.answer(LedgerUnavailableError("away"))
        assert rig.code() == "store_unavailable"
        assert rig.sidecar.metrics.refused == {RefusalCode.STORE_UNAVAILABLE: 1}

    asyncio.run(scenario())


def test_a_fault_of_ours_is_an_answer_too() -> None:
    async def scenario() -> None:
        rig = Rig()
        rig.ask_budget()
        await rig.ledger.answer(ValueError("a bug"))
        assert rig.code() == "internal_error"
        assert rig.sidecar.metrics.internal_errors == 1

    asyncio.run(scenario())


def test_nobody_is_answered_who_left() -> None:
    async def scenario() -> None:
        rig = Rig()
        rig.ask_budget()
        rig.service.closed(rig.stream)
        await rig.ledger.answer()
        assert rig.stream.sent == []

    asyncio.run(scenario())


def test_who_left_before_the_reservation_counts_for_no_velocity() -> None:
    async def scenario() -> None:
        rig = Rig()
        rig.service.message(rig.stream, headers("/v1/chat/completions", False))
        rig.service.message(rig.stream, body(max_tokens=1_000))
        meter = rig.sidecar.gate.velocity.meter("fast", "u")
        assert meter is not None
        now_ms = rig.sidecar.clock.now_ms()
        assert meter.rate(now_ms) > 0
        rig.service.closed(rig.stream)
        await rig.ledger.answer()
        assert meter.rate(rig.sidecar.clock.now_ms()) == 0
        assert rig.ledger._entries["r1/1"].ended == "released"
        assert rig.sidecar.gate.in_flight == {}

    asyncio.run(scenario())


def test_what_went_out_is_not_taken_back_by_a_fault_afterwards() -> None:
    """The attempt's count ends with the attempt, once."""

    async def scenario() -> None:
        rig = Rig()
        rig.service.message(rig.stream, headers("/v1/chat/completions", False))
        rig.service.message(rig.stream, body(max_tokens=1_000))
        machine = rig.stream.state
        await rig.ledger.answer()
        meter = rig.sidecar.gate.velocity.meter("fast", "u")
        assert meter is not None
        before = meter.rate(rig.sidecar.clock.now_ms())
        assert before > 0
        machine.refuse_internal_error()
        assert meter.rate(rig.sidecar.clock.now_ms()) == before

    asyncio.run(scenario())


def test_a_call_of_a_tool_waits_for_a_ledger_that_is_elsewhere() -> None:
    async def scenario() -> None:
        rig = Rig(MCP)
        rig.service.message(rig.stream, mcp_headers())
        rig.service.message(rig.stream, mcp_body("tools/call", name="search"))
        assert len(rig.stream.sent) == 1
        await rig.ledger.answer()
        _, verdict = rig.stream.sent
        assert verdict.request_body.response.clear_route_cache
        assert rig.sidecar.metrics.tool_calls == {("docs", "other", "admitted"): 1}
        again = FakeStream()
        rig.service.message(again, mcp_headers())
        rig.service.message(again, mcp_body("tools/call", name="search"))
        await rig.ledger.answer(LedgerUnavailableError("away"))
        document = json.loads(again.sent[-1].immediate_response.body)
        refusal = document["result"]["_meta"]["tokenweir/refusal"]
        assert refusal["code"] == "store_unavailable"

    asyncio.run(scenario())


def test_a_fault_of_ours_lets_no_call_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(MCP)
    rig.service.message(rig.stream, mcp_headers())
    monkeypatch.setattr("extproc.core.tool_calls.parse_message", lambda _: 1 / 0)
    rig.service.message(rig.stream, mcp_body("tools/list"))
    answer = rig.stream.sent[-1].immediate_response
    assert answer.status.code == 503
    assert json.loads(answer.body)["error"]["data"]["code"] == "internal_error"
