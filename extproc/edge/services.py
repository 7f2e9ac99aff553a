"""What Envoy calls: the decision on a request, on a later attempt, and the access log.

One loop for all of it: message -> event -> machine -> command -> message. Whatever goes wrong, the
request does not pass: a fault of ours answers 503, and if even that fails the transport ends the
stream with an error.
"""

from __future__ import annotations

import logging
from asyncio import Future
from collections.abc import Sequence
from functools import partial
from random import Random
from typing import Any

from extproc.core import settlement
from extproc.core.attempt import AttemptMachine
from extproc.core.commands import (
    Command,
    EndCommand,
    Forward,
    ForwardCall,
    Peek,
    Refuse,
    RefuseCall,
    Reserve,
    SendAttempt,
    Settle,
    Verdict,
    Wait,
)
from extproc.core.events import AttemptStarted, Peeked, RequestBody, RequestHeaders, Reserved
from extproc.core.gate import Gate
from extproc.core.generation import Generation
from extproc.core.queueing import QueueingMachine
from extproc.core.tool_calls import ToolCallMachine, is_mcp
from extproc.core.waiting import Turn
from extproc.edge import codec, log_codec
from extproc.edge.answer_stage import AnswerStage
from extproc.edge.clock import Clock
from extproc.edge.metrics import Metrics
from extproc.edge.notices import Notify, log_notice
from extproc.edge.queue import Queue
from extproc.edge.stream import Stream, StreamKind
from extproc.envoy.ext_proc import ATTEMPT_HEADER, CLUSTER_ATTRIBUTE
from extproc.ledger.port import (
    Granted,
    Hold,
    Ledger,
    LedgerUnavailableError,
    Outcome,
    Standing,
)
from extproc.pb import extproc_pb2 as pb
from extproc.values.dialect import MCP_PREFIX
from extproc.values.limit import Unit
from extproc.values.wire_names import ATTEMPT_LOG

_log = logging.getLogger(__name__)

Machine = QueueingMachine | AttemptMachine | ToolCallMachine

_MCP = MCP_PREFIX.encode()

_parse_request = pb.ProcessingRequest.FromString
_parse_log = pb.StreamAccessLogsMessage.FromString


class Sidecar:
    """What the three services share: one gate, one ledger, one clock."""

    def __init__(self, gate: Gate, ledger: Ledger, clock: Clock, draw: Random) -> None:
        self.gate = gate
        self.ledger = ledger
        self.clock = clock
        self.draw = draw.random
        self.metrics = Metrics()
        self.notify: Notify = log_notice
        self.queue = Queue(gate.waiting, clock)

    def enter(self, generation: Generation) -> None:
        """Takes a new policy: requests that wait are decided by it, as if they came now."""
        self.gate.enter(generation)
        self.queue.anything_may_have_changed()

    def reserve(self, command: Reserve) -> Outcome | Future[Outcome] | None:
        """Asks the ledger; None when it cannot say, a future when it must be asked elsewhere."""
        try:
            return self.ledger.reserve(
                command.reservation_id,
                command.account,
                command.amounts,
                command.now_ms,
                command.lease_until_ms,
            )
        except LedgerUnavailableError:
            return None

    def end(self, commands: list[EndCommand], now_ms: int) -> None:
        """Carries out what a settlement decided."""
        for command in commands:
            if isinstance(command, Settle):
                about = command.about
                self.ledger.settle(command.reservation_id, command.amounts, now_ms, about)
                self.metrics.settled += 1
                self.metrics.settled_without_usage += "without_usage" in about
                self.metrics.suspect_usage += bool(about.get("suspect"))
            else:
                self.ledger.release(command.reservation_id, now_ms, command.reason)
                self.metrics.released += 1

    def fault(self, what: str) -> None:
        """Counts and logs an error of ours."""
        self.metrics.internal_errors += 1
        _log.exception("%s failed", what)


class _Service:
    """Flushes the journal before any answer leaves."""

    kind = StreamKind.BIDIRECTIONAL

    def __init__(self, sidecar: Sidecar) -> None:
        self._sidecar = sidecar

    def before_write(self) -> None:
        """See ``Service``: no answer leaves before its reservation is durable."""
        self._sidecar.ledger.flush()


class _DecidingService(_Service):
    """Carries a machine's commands out until one of them is an answer."""

    def closed(self, stream: Stream) -> None:
        """Envoy gave the stream up. What was reserved is settled by the access log, or by lease;
        what is being reserved is given back when the ledger answers."""
        machine: Machine | AnswerStage | None = stream.state
        stream.state = None
        if isinstance(machine, QueueingMachine) and machine.on_caller_left():
            self._sidecar.queue.look_soon()
        elif isinstance(machine, AnswerStage):
            machine.closed()

    def _go_on(
        self, stream: Stream, machine: Machine, command: Command, *, late: bool = False
    ) -> None:
        """``late``: not while a message is being read, so that the answer leaves at the end of the
        turn."""
        try:
            while isinstance(command, Reserve):
                outcome = self._sidecar.reserve(command)
                if isinstance(outcome, Future):
                    outcome.add_done_callback(partial(self._reserved, stream, machine, command))
                    return
                command = self._told(machine, command, outcome)
            if isinstance(command, Wait):
                self._wait(stream, machine, command)
                return
            if late and isinstance(command, Forward | SendAttempt | ForwardCall):
                # Until then a write of another connection could fail, and lose this one's record.
                self._sidecar.ledger.flush()
            self._answer(stream, command)
        except Exception:  # noqa: BLE001  fail closed, whatever it is
            self._fail_closed(stream, machine)

    def _reserved(
        self, stream: Stream, machine: Machine, command: Reserve, future: Future[Outcome]
    ) -> None:
        """A remote ledger has answered."""
        try:
            outcome = _result(future)
            if stream.state is None:
                machine.abandon()
                if isinstance(outcome, Granted):
                    now_ms = self._sidecar.clock.now_ms()
                    self._sidecar.ledger.release(command.reservation_id, now_ms, "caller left")
                    self._sidecar.queue.freed(command.account.holds)
                return
            following = self._told(machine, command, outcome)
        except Exception:  # noqa: BLE001  fail closed, whatever it is
            self._fail_closed(stream, machine)
            return
        self._go_on(stream, machine, following, late=True)
        self._sidecar.queue.ledger_answered_late()

    def _wait(self, stream: Stream, machine: Machine, command: Wait) -> None:
        """Keeps the request; Envoy is told once that its answer takes longer."""
        command.waiter.resume = partial(self._called, stream, machine)
        if command.hold_ms:
            stream.send(codec.encode_hold(command.hold_ms))
        self._sidecar.queue.look_at_alarms()

    def _called(self, stream: Stream, machine: Machine, turn: Turn) -> None:
        """The waiting room calls a request."""
        assert isinstance(machine, QueueingMachine)
        try:
            command: Command = machine.on_called(turn, self._sidecar.clock.now_ms())
        except Exception:  # noqa: BLE001  fail closed, whatever it is
            self._fail_closed(stream, machine)
            return
        self._go_on(stream, machine, command, late=True)

    def _told(self, machine: Machine, command: Reserve, outcome: Outcome | None) -> Command:
        """What the machine makes of the ledger's answer."""
        if outcome is None:
            return machine.on_ledger_failed()
        if isinstance(outcome, Granted):
            if outcome.would_block:
                self._sidecar.metrics.would_block.update(outcome.would_block)
            if outcome.degraded:
                self._sidecar.metrics.degraded += 1
                self._sidecar.metrics.degraded_micro_usd += command.amounts[Unit.MICRO_USD]
            if isinstance(machine, QueueingMachine):
                return self._granted(machine, command, outcome)
        else:
            self._sidecar.gate.watched.denied(outcome.standings, command.amounts)
        return machine.on_reserved(Reserved(outcome, command.now_ms))

    def _granted(self, machine: QueueingMachine, command: Reserve, granted: Granted) -> Command:
        """What leaves the listener. What does not after all is in no log, so its reservation ends
        here."""
        following: Command | None = None
        try:
            following = machine.on_reserved(Reserved(granted, command.now_ms))
            return following
        finally:
            if not isinstance(following, Forward):
                now_ms = self._sidecar.clock.now_ms()
                self._sidecar.ledger.release(command.reservation_id, now_ms, "not sent")
                self._sidecar.queue.freed(command.account.holds)

    def _answer(self, stream: Stream, command: Verdict) -> None:
        metrics = self._sidecar.metrics
        answer, end = codec.encode(command)
        if isinstance(command, Forward):
            metrics.admitted += 1
            if command.notes:
                keys = [key for key, _ in command.notes]
                metrics.breached_fallbacks += "overflow" in keys
                metrics.clamped += "clamped" in keys
        elif isinstance(command, SendAttempt):
            metrics.clamped += any(key == "clamped" for key, _ in command.notes)
            if command.reads_answer:
                end = False
                stream.state = AnswerStage(stream.state, self._sidecar.clock, metrics)
        elif isinstance(command, Refuse | RefuseCall):
            metrics.refused[command.refusal.code] += 1
            if isinstance(command, RefuseCall) and command.labels[0]:
                metrics.tool_calls[(*command.labels, command.refusal.code.value)] += 1
        elif isinstance(command, ForwardCall) and command.labels[0]:
            metrics.tool_calls[(*command.labels, "admitted")] += 1
        stream.send(answer, end=end)

    def _fail_closed(self, stream: Stream, machine: Machine) -> None:
        self._sidecar.fault("a decision")
        refuse = machine.refuse_internal_error()
        self._sidecar.metrics.refused[refuse.refusal.code] += 1
        stream.send(codec.encode(refuse)[0], end=True)


class RequestService(_DecidingService):
    """ext_proc on the listener: one stream per request."""

    def message(self, stream: Stream, data: bytes) -> None:
        """Headers, then the body."""
        machine: QueueingMachine | ToolCallMachine | None = stream.state
        event: RequestHeaders | RequestBody | None = None
        if machine is None:
            event = self._headers(data)
            # Searching the whole message costs less than looking for its path.
            if data.find(_MCP) >= 0 and event is not None and is_mcp(event):
                machine = stream.state = ToolCallMachine(self._sidecar.gate)
            else:
                machine = stream.state = QueueingMachine(self._sidecar.gate)
        else:
            event = self._body(data)
        if event is None:
            # A stream that begins with its response (Envoy's own local reply) or carries nothing:
            # there is nothing to decide and nothing to answer.
            stream.fail()
            return
        try:
            command: Command
            if isinstance(event, RequestHeaders):
                found = machine.on_headers(event)
                if isinstance(found, Peek):
                    assert isinstance(machine, QueueingMachine)
                    self._peek(stream, machine, found)
                    return
                command = found
            else:
                command = machine.on_body(event)
        except Exception:  # noqa: BLE001  fail closed, whatever it is
            self._fail_closed(stream, machine)
            return
        self._go_on(stream, machine, command)

    def _peek(self, stream: Stream, machine: QueueingMachine, command: Peek) -> None:
        """Reads counters for the caller's own eyes."""
        try:
            found = self._sidecar.ledger.peek(command.holds, command.now_ms)
        except LedgerUnavailableError:
            self._answer(stream, machine.on_ledger_failed())
            return
        if isinstance(found, Future):
            found.add_done_callback(partial(self._peeked, stream, machine, command))
        else:
            self._answer(stream, machine.on_peeked(Peeked(found, command.now_ms)))

    def _peeked(
        self,
        stream: Stream,
        machine: QueueingMachine,
        command: Peek,
        future: Future[Sequence[Standing]],
    ) -> None:
        """A remote ledger has answered."""
        if stream.state is None:
            return
        try:
            answer: Verdict = machine.on_peeked(Peeked(future.result(), command.now_ms))
        except LedgerUnavailableError:
            answer = machine.on_ledger_failed()
        except Exception:  # noqa: BLE001  fail closed, whatever it is
            self._fail_closed(stream, machine)
            return
        self._answer(stream, answer)

    def _headers(self, data: bytes) -> RequestHeaders | None:
        message = _parse_request(data)
        if not message.HasField("request_headers"):
            return None
        headers = message.request_headers
        # Of a slice: to go through the container itself ends with an exception.
        found = headers.headers.headers[:]
        pairs = [(header.key, header.raw_value) for header in found]
        return RequestHeaders(pairs, headers.end_of_stream, self._sidecar.clock.now_ms())

    def _body(self, data: bytes) -> RequestBody | None:
        body = codec.decode_body(data)
        if body is None:
            message = _parse_request(data)
            if not message.HasField("request_body"):
                return None
            body = message.request_body.body
        return RequestBody(body, self._sidecar.clock.now_ms(), self._sidecar.draw())


class AttemptService(_DecidingService):
    """ext_proc on a wrapper cluster: one stream per attempt after the first, and per attempt at
    targets whose first token is waited for."""

    def message(self, stream: Stream, data: bytes) -> None:
        """Headers, then the body as the first attempt left it; of some attempts then the answer, in
        pieces."""
        message = _parse_request(data)
        phase = _phase(message)
        if phase == "request_headers" and stream.state is None:
            stream.state = AttemptMachine(self._sidecar.gate, _attempt_started(message))
            stream.send(codec.AWAIT_BODY_MESSAGE)
            return
        machine: AttemptMachine | AnswerStage | None = stream.state
        if isinstance(machine, AnswerStage):
            machine.message(stream, message, phase)
            return
        if phase != "request_body" or machine is None:
            stream.fail()
            return
        try:
            body, now_ms = message.request_body.body, self._sidecar.clock.now_ms()
            command: Command = machine.on_body(body, now_ms)
        except Exception:  # noqa: BLE001  fail closed, whatever it is
            self._fail_closed(stream, machine)
            return
        self._go_on(stream, machine, command)


class AccessLogService(_Service):
    """Envoy's access logs: what became of requests and attempts."""

    kind = StreamKind.CLIENT

    def closed(self, stream: Stream) -> None:
        """Envoy opens another when it has more to tell."""
        stream.state = None

    def message(self, stream: Stream, data: bytes) -> None:
        """A batch of entries. One bad entry does not lose the others."""
        message = _parse_log(data)
        if message.HasField("identifier"):
            stream.state = message.identifier.log_name
        attempts = stream.state == ATTEMPT_LOG
        now_ms = self._sidecar.clock.now_ms()
        for entry in message.http_logs.log_entry[:]:
            try:
                self._entry(entry, attempts, now_ms)
            except LedgerUnavailableError:
                _log.error("a settlement could not be written; its lease will charge it")
            except Exception:  # noqa: BLE001  the other entries are owed their settlement
                self._sidecar.fault("a settlement")
        try:
            self._sidecar.ledger.flush()
        except LedgerUnavailableError:
            _log.error("settlements could not be written; their leases will charge them")

    def _entry(self, entry: Any, attempts: bool, now_ms: int) -> None:
        sidecar = self._sidecar
        if attempts:
            failed = log_codec.decode_attempt_failed(entry, now_ms)
            holds = self._waited_for(failed.request_id)
            sidecar.end(settlement.attempt_failed(sidecar.gate, failed), now_ms)
            sidecar.queue.freed(holds)
        elif entry.common_properties.intermediate_log_entry:
            goes_on = log_codec.decode_request_goes_on(entry, now_ms)
            for renew in settlement.request_goes_on(sidecar.gate, goes_on):
                sidecar.ledger.renew(renew.reservation_id, renew.lease_until_ms, renew.at_least)
        else:
            timed = sidecar.gate.generation.times_answers
            ended = log_codec.decode_request_ended(entry, now_ms, timed=timed)
            holds = self._waited_for(ended.request_id)
            sidecar.end(settlement.request_ended(sidecar.gate, ended), now_ms)
            sidecar.queue.freed(holds)

    def _waited_for(self, request_id: str) -> Sequence[Hold]:
        """The counters of a request that others may wait for; nothing when nobody waits."""
        gate = self._sidecar.gate
        if not gate.waiting.lines:
            return ()
        in_flight = gate.in_flight.get(request_id)
        return in_flight.plan.account.holds if in_flight is not None else ()


def _result(future: Future[Outcome]) -> Outcome | None:
    """What a future brought; None when the ledger could not say."""
    try:
        return future.result()
    except LedgerUnavailableError:
        return None


def _phase(message: pb.ProcessingRequest) -> str:
    for phase in ("response_body", "request_headers", "request_body", "response_headers"):
        if message.HasField(phase):
            return phase
    return ""


def _attempt_started(message: pb.ProcessingRequest) -> AttemptStarted:
    request_id = number = ""
    pairs = [(header.key, header.raw_value) for header in message.request_headers.headers.headers]
    for name, value in pairs:
        if name == "x-request-id":
            request_id = value.decode("ascii", "replace")
        elif name == ATTEMPT_HEADER:
            number = value.decode("ascii", "replace")
    cluster = ""
    for attributes in message.attributes.values():
        if CLUSTER_ATTRIBUTE in attributes.fields:
            cluster = attributes.fields[CLUSTER_ATTRIBUTE].string_value
    started = int(number) if number.isdigit() else 0
    return AttemptStarted(request_id, started, cluster, pairs)
