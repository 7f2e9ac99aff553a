"""Streamed chat completions: chunks to events and back."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import orjson

from extproc.dialects.answer import (
    Delta,
    Ended,
    Event,
    Failed,
    PartEnded,
    PartKind,
    PartStarted,
    Ping,
    ProviderError,
    Signature,
    Started,
    Stop,
    Stopped,
)
from extproc.dialects.codec import Context, StreamError
from extproc.dialects.conversation import Json
from extproc.dialects.openai_chat.answers import (
    FINISH_REASON,
    completion_id,
    error_document,
    stop_of,
    usage_of,
    written_usage,
)
from extproc.dialects.sse import ServerSentEvent, SseReader, sse_event
from extproc.values.usage import TokenUsage

_DONE = b"[DONE]"
_PING = b": ping\n\n"
"""A comment: OpenAI has no ping, and every client skips comments."""
_ERROR_STATUS = 502
"""Of an error that a provider reports inside its stream, after its 200."""
MAX_WAITING_CALLS = 512
"""Tool calls whose pieces came while another was open; parallel calls are a handful."""


class ChatStreamReader:
    """One stream of a provider."""

    def __init__(self, context: Context) -> None:
        self._sse = SseReader()
        self._context = context
        self._started = False
        self._part = -1
        self._open: PartKind | None = None
        self._number = -1
        self._call_id = ""
        """The provider's number and id of the tool call that is open."""
        self._written = ""
        """Its arguments so far."""
        self._waiting: dict[int, list[Json]] = {}
        """Pieces of calls that came before the open one was over."""
        self._usage: TokenUsage | None = None
        self._stop: Stop | None = None
        self._over = False

    def feed(self, data: bytes) -> Sequence[Event]:
        """See ``StreamReader``."""
        return self._read(self._sse.feed(data))

    def end(self) -> Sequence[Event]:
        """See ``StreamReader``."""
        events: list[Event] = []
        with suppress(StreamError):  # half an event: the stream was cut inside it
            events = self._read(self._sse.end())
        if not self._over:
            self._finish(events)
        return events

    def _read(self, read: Sequence[ServerSentEvent]) -> list[Event]:
        events: list[Event] = []
        for event in read:
            if self._over:
                break
            if event.data == _DONE:
                self._finish(events)
            else:
                self._chunk(event.data, events)
        return events

    def _chunk(self, data: bytes, events: list[Event]) -> None:
        try:
            chunk = orjson.loads(data)
        except orjson.JSONDecodeError:
            raise StreamError("an event is not JSON") from None
        if not isinstance(chunk, dict):
            raise StreamError("an event is no chunk")
        if isinstance(chunk.get("error"), dict):
            events.append(Failed(_stream_error(chunk["error"])))
            self._over = True
            return
        if not self._started:
            self._started = True
            created = chunk.get("created")
            events.append(
                Started(
                    str(chunk.get("id") or self._context.request_id),
                    str(chunk.get("model") or ""),
                    None,
                    created if type(created) is int else 0,
                )
            )
        usage = usage_of(chunk.get("usage"))
        if usage is not None:
            self._usage = usage
        for choice in chunk.get("choices") or ():
            if choice.get("index", 0) == 0:  # further choices cannot be told apart by most clients
                self._choice(choice, events)

    def _choice(self, choice: Json, events: list[Event]) -> None:
        delta = choice.get("delta") or {}
        logprobs = tuple((choice.get("logprobs") or {}).get("content") or ())
        for key, kind in (
            ("reasoning_content", PartKind.THINKING),
            ("reasoning", PartKind.THINKING),
            ("content", PartKind.TEXT),
            ("refusal", PartKind.REFUSED),
        ):
            text = delta.get(key)
            if isinstance(text, str) and text:
                self._text(kind, text, logprobs, events)
        for call in delta.get("tool_calls") or ():
            self._tool_call(call, events)
        reason = choice.get("finish_reason")
        if reason is not None:
            self._stop = stop_of(reason)

    def _text(
        self, kind: PartKind, text: str, logprobs: tuple[Json, ...], events: list[Event]
    ) -> None:
        if self._open is not kind:
            self._begin(PartStarted(self._part + 1, kind), events)
        events.append(Delta(self._part, text, logprobs if kind is PartKind.TEXT else ()))

    def _tool_call(self, call: Json, events: list[Event]) -> None:
        """Pieces of one call after the other, which is how nearly all providers send them; where
        they interleave, a call waits until the arguments of the open one are whole."""
        number = call.get("index", 0)
        call_id = call.get("id") or ""
        in_call = self._open is PartKind.TOOL_CALL
        if number == self._number and in_call and call_id in ("", self._call_id):
            self._arguments(call, events)
        elif call_id and number not in self._waiting and not (in_call and self._incomplete()):
            self._begin_call(number, call, events)
        else:
            if len(self._waiting) >= MAX_WAITING_CALLS:
                raise StreamError("too many tool calls at once")
            self._waiting.setdefault(number, []).append(call)
        while self._waiting and not self._incomplete():
            self._next_call(events)

    def _begin_call(self, number: int, call: Json, events: list[Event]) -> None:
        self._number, self._call_id = number, str(call.get("id") or "")
        name = str((call.get("function") or {}).get("name") or "")
        started = PartStarted(self._part + 1, PartKind.TOOL_CALL, self._call_id, name)
        self._begin(started, events)
        self._written = ""
        self._arguments(call, events)

    def _next_call(self, events: list[Event]) -> None:
        number = next(iter(self._waiting))
        first, *rest = self._waiting.pop(number)
        self._begin_call(number, first, events)
        for piece in rest:
            self._arguments(piece, events)

    def _incomplete(self) -> bool:
        """Whether the open call's arguments are known to go on."""
        if not self._written:
            return False
        try:
            orjson.loads(self._written)
        except orjson.JSONDecodeError:
            return True
        return False

    def _arguments(self, call: Json, events: list[Event]) -> None:
        text = (call.get("function") or {}).get("arguments")
        if text:
            self._written += text
            events.append(Delta(self._part, text))

    def _begin(self, started: PartStarted, events: list[Event]) -> None:
        self._close(events)
        self._part = started.part
        self._open = started.kind
        events.append(started)

    def _close(self, events: list[Event]) -> None:
        if self._open is not None:
            events.append(PartEnded(self._part))
            self._open = None

    def _finish(self, events: list[Event]) -> None:
        self._over = True
        while self._waiting:
            self._next_call(events)
        self._close(events)
        if self._stop is None:
            # Cut: no reason was given and no [DONE] came with one. The caller is told, not lied to.
            cut = ProviderError(_ERROR_STATUS, "api", "The provider's stream ended early.")
            events.append(Failed(cut))
            return
        events.append(Stopped(self._stop, usage=self._usage))
        events.append(Ended(self._usage))


class ChatStreamWriter:
    """One stream to a caller."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._head: Json = {}
        self._calls = -1
        self._kind = PartKind.TEXT
        self._refused = False

    def write(self, events: Sequence[Event]) -> bytes:
        """See ``StreamWriter``."""
        return b"".join([self._event(event) for event in events])

    def _event(self, event: Event) -> bytes:
        if isinstance(event, Delta):
            return self._delta(event)
        if isinstance(event, Started):
            self._head = {
                "id": completion_id(event.answer_id, self._context),
                "object": "chat.completion.chunk",
                "created": event.created_s or self._context.now_s,
                "model": event.model or self._context.asked_model,
            }
            return self._chunk({"role": "assistant", "content": ""})
        if isinstance(event, PartStarted):
            return self._part(event)
        if isinstance(event, Stopped):
            reason = FINISH_REASON[event.stop]
            if self._refused and event.stop is Stop.REFUSAL:
                reason = "stop"
            return self._chunk({}, reason)
        if isinstance(event, Ended):
            return self._end(event)
        if isinstance(event, Ping):
            return _PING
        if isinstance(event, Failed):
            return sse_event(orjson.dumps(error_document(event.error)))
        assert isinstance(event, PartEnded | Signature)  # nothing a chat chunk could say
        return b""

    def _part(self, event: PartStarted) -> bytes:
        self._kind = event.kind
        if event.kind is PartKind.REFUSED:
            self._refused = True
        if event.kind is not PartKind.TOOL_CALL:
            return b""
        self._calls += 1
        function = {"name": event.name, "arguments": ""}
        call = {
            "index": self._calls,
            "id": event.call_id,
            "type": "function",
            "function": function,
        }
        return self._chunk({"tool_calls": [call]})

    def _delta(self, event: Delta) -> bytes:
        kind = self._kind
        if kind is PartKind.TOOL_CALL:
            call = {"index": self._calls, "function": {"arguments": event.text}}
            return self._chunk({"tool_calls": [call]})
        if kind is PartKind.THINKING:
            return self._chunk({"reasoning_content": event.text})
        if kind is PartKind.REFUSED:
            return self._chunk({"refusal": event.text})
        logprobs = {"content": list(event.logprobs), "refusal": None} if event.logprobs else None
        return self._chunk({"content": event.text}, None, logprobs)

    def _end(self, event: Ended) -> bytes:
        done = sse_event(_DONE)
        if event.usage is None or not self._context.include_usage:
            return done
        usage = {**self._head, "choices": [], "usage": written_usage(event.usage)}
        return sse_event(orjson.dumps(usage)) + done

    def _chunk(self, delta: Json, reason: str | None = None, logprobs: Any = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return sse_event(orjson.dumps({**self._head, "choices": [choice]}))


def _stream_error(error: Json) -> ProviderError:
    code = error.get("code")
    status = code if type(code) is int and 400 <= code < 600 else _ERROR_STATUS
    return ProviderError(
        status,
        "api",
        str(error.get("message") or ""),
        str(error.get("param") or ""),
        str(error.get("code") or error.get("type") or ""),
    )
