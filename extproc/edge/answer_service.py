"""What Envoy calls with the answers of requests whose chain has targets of another dialect, and
with lists of tools: a translated attempt's answer is translated, a list is filtered, everybody
else's goes on as it is."""

from __future__ import annotations

import logging

from extproc.core.tool_list import ListFilter
from extproc.dialects.codec import AnswerTranslation, StreamError
from extproc.edge import codec
from extproc.edge.services import Sidecar
from extproc.edge.stream import Stream, StreamKind
from extproc.pb import extproc_pb2 as pb
from extproc.wire.errors import WireError

_log = logging.getLogger(__name__)


class AnswerService:
    """ext_proc on the listener, for answers: one stream per request. Its state is the answer's
    translation, or None before the answer's headers."""

    kind = StreamKind.BIDIRECTIONAL

    def __init__(self, sidecar: Sidecar) -> None:
        self._sidecar = sidecar

    def before_write(self) -> None:
        """Nothing is reserved here."""

    def closed(self, stream: Stream) -> None:
        """The caller left, or Envoy ended the answer; the access log tells."""
        stream.state = None

    def message(self, stream: Stream, data: bytes) -> None:
        """Headers, then the body in pieces. What cannot be read cuts the answer: a wrong one never
        leaves."""
        message = pb.ProcessingRequest.FromString(data)
        translation: AnswerTranslation | None = stream.state
        try:
            if message.HasField("response_headers") and translation is None:
                self._headers(stream, message)
            elif message.HasField("response_body") and translation is not None:
                piece = message.response_body
                written = translation.on_body(piece.body, end=piece.end_of_stream)
                stream.send(codec.encode_answer_body(written), end=piece.end_of_stream)
            else:
                stream.fail()
        except (WireError, StreamError) as error:
            self._sidecar.metrics.untranslatable_answers += 1
            _log.warning("an answer could not be translated, and was cut: %s", error)
            stream.fail()

    def _headers(self, stream: Stream, message: pb.ProcessingRequest) -> None:
        request_id, is_providers = codec.decode_answer_origin(message)
        if not is_providers:
            # Ours or Envoy's: written for the caller already.
            stream.send(codec.encode_answer_headers(""), end=True)
            return
        gate = self._sidecar.gate
        translation: AnswerTranslation | None
        allowed = gate.listings.pop(request_id, None)
        if allowed is not None:
            translation = ListFilter(allowed)
        else:
            entry = gate.in_flight.get(request_id)
            if entry is None or not entry.attempts:
                # Nobody knows whose words these are.
                stream.fail()
                return
            # Answers of earlier attempts stay with Envoy.
            translation = entry.attempts[max(entry.attempts)].translation
            if translation is None:
                stream.send(codec.encode_answer_headers(""), end=True)
                return
        stream.state = translation
        headers = message.response_headers
        content_type = translation.on_headers(*codec.decode_answer_headers(headers))
        end = headers.end_of_stream
        stream.send(codec.encode_answer_headers(content_type), end=end)
