"""What Envoy calls with the answers of requests whose chain has targets of another dialect, and
with lists of tools: a translated attempt's answer is translated, a list is filtered, everybody
else's goes on as it is."""

from __future__ import annotations

import logging
from dataclasses import dataclass

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

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Answer:
    """One on its way."""

    request_id: str
    dialect: Dialect | None
    """The caller's; None: a list of tools, which is cut."""
    generation: int
    translation: AnswerTranslation
    begun: bool = False
    """The caller has some of it."""


class AnswerService:
    """ext_proc on the listener, for answers: one stream per request."""

    kind = StreamKind.BIDIRECTIONAL

    def __init__(self, sidecar: Sidecar) -> None:
        self._sidecar = sidecar

    def before_write(self) -> None:
        """Nothing is reserved here."""

    def closed(self, stream: Stream) -> None:
        """The caller left, or Envoy ended the answer; the access log tells."""
        stream.state = None

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
        status, content_type, error_name = codec.decode_answer_headers(headers)
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
            # Answers of earlier attempts stay with Envoy.
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
        stream.send(codec.encode_answer_headers(seen), end=headers.end_of_stream)

    def _body(self, stream: Stream, piece: pb.HttpBody, answer: _Answer) -> None:
        try:
            written = answer.translation.on_body(piece.body, end=piece.end_of_stream)
        except (WireError, StreamError) as error:
            self._sidecar.metrics.untranslatable_answers += 1
            _log.warning("an answer could not be translated, and was cut: %s", error)
            if answer.begun or answer.dialect is None:
                stream.fail()
            else:
                refusal, name = UNREADABLE_ANSWER, answer.request_id
                refuse = Refuse(refusal, answer.dialect, name, answer.generation, "")
                stream.send(encode_refuse(refuse), end=True)
            return
        answer.begun = answer.begun or bool(written)
        stream.send(codec.encode_answer_body(written), end=piece.end_of_stream)
