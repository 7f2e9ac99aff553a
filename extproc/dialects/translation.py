"""One attempt's answer as it arrives, from its target's dialect to its caller's.

Pure: the edge feeds it bytes and sends on what it gives. What a provider answers that cannot be
read raises (``WireError``, ``StreamError``) and is never guessed at.
"""

from __future__ import annotations

from collections.abc import Iterator

from extproc.dialects.answer import (
    Answer,
    Delta,
    Ended,
    Event,
    Failed,
    PartEnded,
    PartKind,
    PartStarted,
    Ping,
    Shown,
    Signature,
    Started,
    Stopped,
)
from extproc.dialects.codec import (
    CallerDialect,
    Context,
    StreamReader,
    StreamWriter,
    TargetDialect,
)
from extproc.dialects.conversation import Media, Part, Refused, Text, Thinking, ToolCall
from extproc.dialects.provider_error import without_keys
from extproc.dialects.soundness import EventOrder, check_answer
from extproc.values.usage import TokenUsage
from extproc.wire.errors import WireError

MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""A whole answer is held until its end. The longest are some megabytes, with images some tens."""
_STREAMS = ("text/event-stream", "application/vnd.amazon.eventstream")


class AnswerTranslator:
    """The answer of one attempt."""

    def __init__(
        self, caller: CallerDialect, target: TargetDialect, context: Context, *, stream: bool
    ) -> None:
        self._caller = caller
        self._target = target
        self._context = context
        self._stream = stream
        """The caller asked for a stream."""
        self._status, self._error_name = 200, ""
        self._reader: StreamReader | None = None
        self._writer: StreamWriter | None = None
        self._order = EventOrder()
        self._held: list[bytes] = []
        self._held_bytes = 0
        self.usage: TokenUsage | None = None
        """As the provider reported it last."""
        self.complete = False
        """The answer ended as answers do: its usage is the provider's last word."""
        self.speaks = False
        """The stream has said more than that it begins."""

    @property
    def is_whole(self) -> bool:
        """Known with the headers: nothing goes on before the answer's end."""
        return self._reader is None

    def on_headers(self, status: int, content_type: str, error_name: str = "") -> str:
        """The provider's status and type, and what its headers call an error; the content type that
        the caller gets."""
        self._status, self._error_name = status, error_name
        answered = status < 400
        if answered and content_type.partition(";")[0].strip().lower() in _STREAMS:
            self._reader = self._target.stream_reader(self._context)
        if answered and (self._stream or self._reader is not None):
            self._writer = self._caller.stream_writer(self._context)
            return self._caller.stream_content_type
        return self._caller.content_type

    def on_body(self, data: bytes, *, end: bool) -> bytes:
        """The next bytes of the answer, to the next bytes for the caller."""
        reader, writer = self._reader, self._writer
        if reader is not None and writer is not None:
            events = list(reader.feed(data))
            if end:
                events += reader.end()
            self._order.check(events)
            self._note(events)
            return writer.write(events)
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes > MAX_ANSWER_BYTES:
            raise WireError(f"The provider's answer is longer than {MAX_ANSWER_BYTES} bytes.")
        return self._whole(b"".join(self._held)) if end else b""

    def _whole(self, body: bytes) -> bytes:
        if self._status >= 400:
            error = self._target.read_error(self._status, body, self._error_name)
            error = without_keys(error)
            return self._caller.write_error(error, self._context)
        answer = self._target.read_answer(body, self._context)
        check_answer(answer)
        self.usage, self.complete = answer.usage, True
        if self._writer is not None:
            # Asked for as a stream, answered whole.
            return self._writer.write(list(events_of(answer)))
        return self._caller.write_answer(answer, self._context)

    def _note(self, events: list[Event]) -> None:
        for place, event in enumerate(events):
            if isinstance(event, Failed):
                events[place] = Failed(without_keys(event.error))
            if not isinstance(event, Started | Ping):
                self.speaks = True
            if isinstance(event, Started | Stopped | Ended):
                # Also None: a last report that cannot be read makes the earlier ones wrong.
                self.usage = event.usage
            if isinstance(event, Ended):
                self.complete = True


def events_of(answer: Answer) -> Iterator[Event]:
    """A whole answer as the stream that it might have been."""
    yield Started(answer.answer_id, answer.model, answer.usage, answer.created_s)
    number = 0
    for part in answer.parts:
        events = list(_part_events(number, part))
        number += bool(events)
        yield from events
    yield Stopped(answer.stop, answer.stop_sequence, answer.usage)
    yield Ended(answer.usage)


def _part_events(number: int, part: Part) -> Iterator[Event]:
    if isinstance(part, Text):
        yield PartStarted(number, PartKind.TEXT)
        yield Delta(number, part.text)
    elif isinstance(part, Refused):
        yield PartStarted(number, PartKind.REFUSED)
        yield Delta(number, part.text)
    elif isinstance(part, ToolCall):
        yield PartStarted(number, PartKind.TOOL_CALL, part.call_id, part.name)
        yield Delta(number, part.arguments)
    elif isinstance(part, Thinking):
        yield PartStarted(number, PartKind.THINKING, redacted=part.signature * part.redacted)
        if not part.redacted:
            yield Delta(number, part.text)
            if part.signature:
                yield Signature(number, part.signature)
    elif isinstance(part, Media):
        yield Shown(number, part)
        return
    else:
        return  # a tool's result: no answer holds one
    yield PartEnded(number)
