"""The answer of one attempt until its first token, and the clock that gives it up.

While an answer is held back nothing is sent, so that Envoy still may go on to the next target.
"""

from __future__ import annotations

import asyncio

from extproc.core.answer_passage import AnswerPassage
from extproc.core.attempt import AttemptMachine
from extproc.edge import codec
from extproc.edge.clock import Clock
from extproc.edge.immediate_codec import encode_refuse
from extproc.edge.metrics import Metrics
from extproc.edge.stream import Stream
from extproc.pb import extproc_pb2 as pb


class AnswerStage:
    """One attempt's answer. Takes the place of its machine in the stream's state."""

    __slots__ = ("_alarm", "_clock", "_machine", "_metrics", "_passage")

    def __init__(self, machine: AttemptMachine, clock: Clock, metrics: Metrics) -> None:
        assert machine.answer is not None
        self._machine = machine
        self._passage: AnswerPassage = machine.answer
        self._clock = clock
        self._metrics = metrics
        self._alarm: asyncio.TimerHandle | None = None

    def message(self, stream: Stream, message: pb.ProcessingRequest, phase: str) -> None:
        """The next piece."""
        if phase == "response_headers":
            self._headers(stream, message.response_headers)
        elif phase != "response_body":
            stream.fail()
        elif self._passage.is_held:
            piece = message.response_body
            if self._passage.on_body(piece.body, self._clock.now_ms(), end=piece.end_of_stream):
                self._let_go(stream)

    def closed(self) -> None:
        """Envoy waits for nothing more."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _headers(self, stream: Stream, headers: pb.HttpHeaders) -> None:
        status, content_type, error_name, _ = codec.decode_answer_headers(headers)
        goes_on = self._passage.on_headers(status, content_type, error_name)
        if goes_on or headers.end_of_stream:
            self._let_go(stream)
            return
        wait_ms = self._passage.deadline_ms - self._clock.now_ms()
        if wait_ms <= 0:
            self._late(stream)
        else:
            loop = asyncio.get_running_loop()
            self._alarm = loop.call_later(wait_ms / 1000, self._late, stream)

    def _let_go(self, stream: Stream) -> None:
        """Envoy sends on what it has and what comes, and asks no more: bytes that are still here
        when the provider is done are what it dies of (see ``answer_filter``)."""
        self.closed()
        stream.send(codec.encode_let_go(), end=True)

    def _late(self, stream: Stream) -> None:
        self._alarm = None
        if not self._passage.is_held:
            return
        self._metrics.first_token_timeouts += 1
        refuse = self._machine.on_first_token_late()
        if refuse is None:
            stream.send(codec.encode_given_up(), end=True)
        else:
            self._metrics.refused[refuse.refusal.code] += 1
            stream.send(encode_refuse(refuse), end=True)
