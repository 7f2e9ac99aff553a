"""What Envoy calls with the answers of requests whose chain has targets of another dialect, and
with lists of tools: a translated attempt's answer is translated, a list is filtered, everybody
else's goes on as it is."""

from __future__ import annotations

import asyncio
import logging

from extproc.core.commands import Refuse
from extproc.core.refusals import UNREADABLE_ANSWER
from extproc.core.tool_list import ListFilter
from extproc.dialects.codec import AnswerTranslation, StreamError
from extproc.edge import codec
from extproc.edge.immediate_codec import encode_refuse
from extproc.edge.services import Sidecar
from extproc.edge.stream import Stream, StreamKind
from extproc.pb import extproc_pb2 as pb
from extproc.values.dialect import Dialect
from extproc.wire.errors import WireError

HELD_S = 0.5
"""So long an answer's headers wait for its body, that what cannot be read still can be refused.
Providers send the two together; and Envoy asks for an answer within ``MESSAGE_TIMEOUT_S``."""
HELD_BYTES = 64 * 1024
"""So much of a whole answer is waited for (of a stream: its first piece). Envoy sends no more than
it may keep until we answer, so a longer one would never end."""

_PLAIN = ("", "identity")
"""Encodings of a body that can be read. Of an error's the status is enough."""

_log = logging.getLogger(__name__)


class _Answer:
    """One on its way."""

    __slots__ = (
        "alarm",
        "begun",
        "dialect",
        "generation",
        "held",
        "held_bytes",
        "request_id",
        "translation",
    )

    def __init__(
        self,
        request_id: str,
        dialect: Dialect | None,
        generation: int,
        translation: AnswerTranslation,
    ) -> None:
        """``dialect``: the caller's; None: a list of tools, which is cut."""
        self.request_id = request_id
        self.dialect = dialect
        self.generation = generation
        self.translation = translation
        self.begun = False
        """The caller has some of it, if only its headers."""
        self.held: list[bytes] = []
        """What Envoy is told, as soon as it is known that the answer can be read."""
        self.held_bytes = 0
        """Of its body."""
        self.alarm: asyncio.TimerHandle | None = None
        """When it goes on unread."""

    def stop_alarm(self) -> None:
        """It went on, or nobody waits for it."""
        if self.alarm is not None:
            self.alarm.cancel()
            self.alarm = None


class AnswerService:
    """ext_proc on the listener, for answers: one stream per request."""

    kind = StreamKind.BIDIRECTIONAL

    def __init__(self, sidecar: Sidecar) -> None:
        self._sidecar = sidecar

    def before_write(self) -> None:
        """Nothing is reserved here."""

    def closed(self, stream: Stream) -> None:
        """The caller left, or Envoy ended the answer; the access log tells."""
        answer: _Answer | None = stream.state
        stream.state = None
        if answer is not None:
            answer.stop_alarm()

    def message(self, stream: Stream, data: bytes) -> None:
        """Headers, then the body in pieces. A wrong answer never leaves: what cannot be read is
        refused, or cut where the caller has its beginning."""
        message = pb.ProcessingRequest.FromString(data)
        answer: _Answer | None = stream.state
        if message.HasField("response_headers") and answer is None:
            self._headers(stream, message)
        elif message.HasField("response_body") and answer is not None:
            self._body(stream, message.response_body, answer)
        else:
            stream.fail()

    def _headers(self, stream: Stream, message: pb.ProcessingRequest) -> None:
        request_id, is_providers = codec.decode_answer_origin(message)
        if not is_providers:
            # Ours or Envoy's: written for the caller already.
            stream.send(codec.encode_answer_headers(""), end=True)
            return
        gate = self._sidecar.gate
        headers = message.response_headers
        status, content_type, error_name, encoding = codec.decode_answer_headers(headers)
        answer: _Answer | None
        allowed = gate.listings.pop(request_id, None)
        if allowed is not None:
            answer = _Answer(request_id, None, 0, ListFilter(allowed))
        else:
            entry = gate.in_flight.get(request_id)
            if entry is None or not entry.attempts:
                # Nobody knows whose words these are.
                stream.fail()
                return
            # Answers of earlier attempts stay with Envoy: this is the last one.
            gate.let_go(entry)
            translation = entry.attempts[max(entry.attempts)].translation
            answer = None
            if translation is not None:
                dialect, generation = entry.operation.dialect, entry.generation.number
                answer = _Answer(request_id, dialect, generation, translation)
        if answer is None or 300 <= status < 400:
            # No redirect is an answer: it ends further on.
            stream.send(codec.encode_answer_headers(""), end=True)
            return
        stream.state = answer
        seen = answer.translation.on_headers(status, content_type, error_name)
        if encoding not in _PLAIN and (status < 300 or answer.dialect is None):
            self._unreadable(stream, answer, "it is compressed, though nobody asked for that")
            return
        if headers.end_of_stream and answer.dialect is not None:
            self._no_body(stream, answer, status, seen)
            return
        answer.held.append(codec.encode_answer_headers(seen))
        if headers.end_of_stream:
            self._let_go(stream, answer, end=True)
        else:
            loop = asyncio.get_running_loop()
            answer.alarm = loop.call_later(HELD_S, self._let_go, stream, answer)

    def _no_body(self, stream: Stream, answer: _Answer, status: int, content_type: str) -> None:
        """Headers were all: no answer, or an error of which only the status is known."""
        if status < 300:
            self._unreadable(stream, answer, "it is empty")
        else:
            written = answer.translation.on_body(b"", end=True)
            stream.send(codec.encode_empty_error(content_type, written), end=True)

    def _body(self, stream: Stream, piece: pb.HttpBody, answer: _Answer) -> None:
        end = piece.end_of_stream
        try:
            written = answer.translation.on_body(piece.body, end=end)
        except (WireError, StreamError) as error:
            self._unreadable(stream, answer, str(error))
            return
        said = codec.encode_answer_body(written)
        if answer.begun:
            stream.send(said, end=end)
            return
        answer.held.append(said)
        answer.held_bytes += len(piece.body)
        if end or answer.held_bytes > HELD_BYTES or not answer.translation.is_whole:
            self._let_go(stream, answer, end=end)

    def _let_go(self, stream: Stream, answer: _Answer, *, end: bool = False) -> None:
        """The answer goes on, with its headers and what came of its body."""
        answer.stop_alarm()
        answer.begun = True
        last = answer.held.pop()
        for said in answer.held:
            stream.send(said)
        answer.held.clear()
        stream.send(last, end=end)

    def _unreadable(self, stream: Stream, answer: _Answer, why: str) -> None:
        answer.stop_alarm()
        self._sidecar.metrics.untranslatable_answers += 1
        _log.warning("an answer could not be translated: %s", why)
        if answer.begun or answer.dialect is None:
            stream.fail()
            return
        refusal, name = UNREADABLE_ANSWER, answer.request_id
        refuse = Refuse(refusal, answer.dialect, name, answer.generation, "")
        stream.send(encode_refuse(refuse), end=True)
