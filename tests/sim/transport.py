"""One simulated sidecar process and the way messages take to and from its services.

As the real transport does, it hands over all messages of one read, then has the journal flushed,
and only then lets the answers leave.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from schedule import ProcessLoop, Schedule

from extproc.edge.answer_service import AnswerService
from extproc.edge.services import AccessLogService, AttemptService, RequestService, Sidecar
from extproc.edge.sidecar_process import _tend

Answered = Callable[[bytes, bool], None]


class SimStream:
    """Envoy's end of one stream, and the service's."""

    def __init__(self, transport: Transport, answered: Answered, failed: Callable[[], None]):
        self.state: Any = None
        self.ended = False
        self.answered = answered
        self.failed = failed
        self.serial = transport.serial
        self._transport = transport

    # -- the service's side -----------------------------------------------------------------------

    def send(self, message: bytes, *, end: bool = False) -> None:
        """See ``Stream``."""
        if not self.ended:
            self.ended = end
            self._transport.answer(self, message, end)

    def fail(self) -> None:
        """See ``Stream``."""
        if not self.ended:
            self.ended = True
            self._transport.answer(self, None, True)

    # -- Envoy's side -----------------------------------------------------------------------------

    def deliver(self, data: bytes, then: Callable[[], None] | None = None) -> None:
        """Sends a message; ``then`` is called when the service has taken it in."""
        self._transport.receive(self, data, then)

    def reset(self) -> None:
        """Gives the stream up."""
        self._transport.receive(self, None, None)


class Transport:
    """One socket of the sidecar with one service."""

    def __init__(self, schedule: Schedule, loop: ProcessLoop, draw: Random, service: Any) -> None:
        self.serial = 0
        self._schedule = schedule
        self._loop = loop
        self._draw = draw
        self._service = service
        self._streams: set[SimStream] = set()
        self._order: list[SimStream] = []
        self._inbox: list[tuple[SimStream, bytes | None, Callable[[], None] | None]] = []
        self._out: list[tuple[SimStream, bytes | None, bool]] = []
        self._reading = False
        self._awaits_read = self._awaits_flush = False

    def open(self, answered: Answered, failed: Callable[[], None]) -> SimStream:
        """A new stream."""
        stream = SimStream(self, answered, failed)
        self._order.append(stream)
        if len(self._order) > 1_000:
            self._order = [known for known in self._order if not known.ended]
        return stream

    def receive(
        self, stream: SimStream, data: bytes | None, then: Callable[[], None] | None
    ) -> None:
        """Envoy writes. What is written until the process reads arrives in one read."""
        if not self._loop.alive:
            return
        self._inbox.append((stream, data, then))
        if not self._awaits_read:
            self._awaits_read = True
            self._schedule.after(self._draw.randint(0, 2), "read", self._read, process=self._loop)

    def _read(self) -> None:
        self._awaits_read = False
        inbox, self._inbox = self._inbox, []
        self._reading = True
        for stream, data, then in inbox:
            self._loop.may_die("before a message")
            if stream.ended:
                continue
            if data is None:
                stream.ended = True
                self._service.closed(stream)
                continue
            try:
                self._service.message(stream, data)
            except Exception:
                stream.fail()
            if then is not None and not self._loop.dying:
                then()
        self._reading = False
        self._flush()

    def answer(self, stream: SimStream, message: bytes | None, end: bool) -> None:
        """The service answers, or (None) fails the stream."""
        self._out.append((stream, message, end))
        if not self._reading and not self._awaits_flush:
            self._awaits_flush = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._awaits_flush = False
        out, self._out = self._out, []
        if not out:
            return
        if any(message is not None for _, message, _ in out):
            try:
                self._service.before_write()
            except Exception:
                out = [(stream, None, True) for stream, _, _ in out]
        self._loop.may_die("before the answers leave")
        for stream, message, end in out:
            if message is None:
                stream.ended = True
                self._schedule.after(1, "stream fails", stream.failed)
            else:
                self._schedule.after(1, "answer", stream.answered, message, end)

    def connection_lost(self) -> None:
        """The process died: every open stream fails."""
        for stream in self._order:
            if not stream.ended:
                stream.ended = True
                self._schedule.after(2, "stream fails", stream.failed)


class Process:
    """One life of a sidecar, from its start to its death."""

    def __init__(
        self, serial: int, schedule: Schedule, loop: ProcessLoop, draw: Random, sidecar: Sidecar
    ) -> None:
        self.serial = serial
        self.loop = loop
        self.sidecar = sidecar
        self.requests = Transport(schedule, loop, draw, RequestService(sidecar))
        self.attempts = Transport(schedule, loop, draw, AttemptService(sidecar))
        self.answers = Transport(schedule, loop, draw, AnswerService(sidecar))
        self.logs = Transport(schedule, loop, draw, AccessLogService(sidecar))
        for transport in (self.requests, self.attempts, self.answers, self.logs):
            transport.serial = serial
        self._upkeep = _tend(sidecar)
        loop.create_task(self._upkeep)

    @property
    def generation(self) -> int:
        """The active policy generation."""
        return self.sidecar.gate.generation.number

    def end(self) -> None:
        """No step of it happens any more."""
        self.loop.alive = False
        self._upkeep.close()

    def died(self) -> None:
        """Its sockets close."""
        self._upkeep.close()
        for transport in (self.requests, self.attempts, self.answers, self.logs):
            transport.connection_lost()
