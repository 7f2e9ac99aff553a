"""Streamed chat completions: chunks to events and back."""

from __future__ import annotations

from collections.abc import Sequence
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
    Shown,
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
    written_image,
    written_usage,
)
from extproc.dialects.reading_streams import (
    BROKEN_STATUS,
    PartSequence,
    SseStreamReader,
    ended_early,
)
from extproc.dialects.sse import sse_event
from extproc.dialects.unsayable import unshown
from extproc.dialects.usage import StreamedUsage

_DONE = b"[DONE]"
_PING = b": ping\n\n"
"""A comment: OpenAI has no ping, and every client skips comments."""
MAX_WAITING_CALLS = 512
"""Tool calls whose pieces came while another was open; parallel calls are a handful."""


class ChatStreamReader(SseStreamReader):
    """One stream of a provider."""

    api = "OpenAI's"

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self._started = False
        self._parts = PartSequence()
        self._number = -1
        self._call_id = ""
        """The provider's number and id of the tool call that is open."""
        self._written = ""
        """Its arguments so far."""
        self._waiting: dict[int, list[Json]] = {}
        """Pieces of calls that came before the open one was over."""
        self._usage = StreamedUsage()
        self._stop: Stop | None = None
        self._refused = False

    def _take(self, data: bytes, events: list[Event]) -> None:
        if data == _DONE:
            self._over = True
            self._body_over(events)
            return
        chunk = orjson.loads(data)
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
        for choice in chunk.get("choices") or ():
            if choice.get("index", 0) == 0:  # further choices cannot be told apart by most clients
                self._choice(choice, events)
        if chunk.get("usage") is not None and self._stop is not None:
            # Counts that come while the answer goes on (vLLM's) are none to bill by.
            self._usage.take(usage_of(chunk["usage"]))

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
        self._refused |= kind is PartKind.REFUSED
        self._parts.go_on(kind, events)
        events.append(Delta(self._parts.number, text, logprobs if kind is PartKind.TEXT else ()))

    def _tool_call(self, call: Json, events: list[Event]) -> None:
        """Pieces of one call after the other, which is how nearly all providers send them; where
        they interleave, a call waits until the arguments of the open one are whole."""
        number = call.get("index", 0)
        call_id = call.get("id") or ""
        in_call = self._parts.open is PartKind.TOOL_CALL
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
        self._parts.begin(PartKind.TOOL_CALL, events, self._call_id, name)
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
            events.append(Delta(self._parts.number, text))

    def _body_over(self, events: list[Event]) -> None:
        while self._waiting:
            self._next_call(events)
        self._parts.close(events)
        if self._stop is None:
            # Cut: no reason was given and no [DONE] came with one. The caller is told, not lied to.
            events.append(ended_early())
            return
        # OpenAI ends a refusal with a plain "stop".
        refused = self._refused and self._stop is Stop.END
        stop = Stop.REFUSAL if refused else self._stop
        usage = self._usage.latest
        events += (Stopped(stop, usage=usage), Ended(usage))


class ChatStreamWriter:
    """One stream to a caller."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._head: Json = {}
        self._calls = -1
        self._images = -1
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
        if isinstance(event, Shown):
            return self._media(event)
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

    def _media(self, event: Shown) -> bytes:
        if event.media.kind != "image":
            return self._chunk({"content": unshown(event.media)})
        self._images += 1
        return self._chunk({"images": [written_image(event.media, self._images)]})

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
    status = code if type(code) is int and 400 <= code < 600 else BROKEN_STATUS
    return ProviderError(
        status,
        "api",
        str(error.get("message") or ""),
        str(error.get("param") or ""),
        str(error.get("code") or error.get("type") or ""),
    )
