"""The answer of one attempt on its way through the sidecar, and the clock that gives it up.

Each message of Envoy is answered once and in order. While an answer is held back nothing is sent,
so that Envoy still may go on to the next target.
"""

from __future__ import annotations

import asyncio

from extproc.core.answer_passage import AnswerPassage, Let
from extproc.core.attempt import AttemptMachine
from extproc.edge import codec
from extproc.edge.clock import Clock
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
        """The next piece. Raises ``WireError`` and ``StreamError`` for what cannot be read: the
        answer is then to be cut, as a wrong one must never leave."""
        if phase == "response_headers":
            self._headers(stream, message.response_headers)
        elif phase == "response_body":
            piece = message.response_body
            now_ms = self._clock.now_ms() if self._passage.is_held else 0
            let = self._passage.on_body(piece.body, now_ms, end=piece.end_of_stream)
            if let is not None:
                self._send(stream, let, end=piece.end_of_stream)
        else:
            stream.fail()

    def closed(self) -> None:
        """Envoy waits for nothing more."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _headers(self, stream: Stream, headers: pb.HttpHeaders) -> None:
        status, content_type = codec.decode_answer_headers(headers)
        let = self._passage.on_headers(status, content_type)
        if let is None and headers.end_of_stream:
            let = self._passage.on_body(b"", 0, end=True)
            assert let is not None
            let.pieces.clear()
        if let is not None:
            self._send(stream, let, end=headers.end_of_stream)
            return
        wait_ms = self._passage.deadline_ms - self._clock.now_ms()
        if wait_ms <= 0:
            self._late(stream)
        else:
            loop = asyncio.get_running_loop()
            self._alarm = loop.call_later(wait_ms / 1000, self._late, stream)

    def _send(self, stream: Stream, let: Let, *, end: bool) -> None:
        messages = [codec.encode_answer_headers(let.content_type)] if let.headers else []
        messages += [codec.encode_answer_body(piece) for piece in let.pieces]
        for message in messages[:-1]:
            stream.send(message)
        stream.send(messages[-1], end=end)
        if let.headers:
            self.closed()

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
            stream.send(codec.encode_refuse(refuse), end=True)
