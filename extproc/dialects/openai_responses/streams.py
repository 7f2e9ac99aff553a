"""Streamed responses: OpenAI's events to the shared ones and back."""

from __future__ import annotations

from collections.abc import Sequence

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
from extproc.dialects.codec import Context
from extproc.dialects.conversation import (
    Json,
    Media,
    Part,
    Refused,
    Text,
    Thinking,
    ToolCall,
    Vendor,
)
from extproc.dialects.openai_responses.answers import (
    answer_of,
    failed_error,
    written_end,
    written_head,
    written_id,
    written_item,
    written_logprobs,
)
from extproc.dialects.openai_responses.free_text import FreeText
from extproc.dialects.reading_streams import (
    BROKEN_STATUS,
    PartSequence,
    SseStreamReader,
    ended_early,
)
from extproc.dialects.sse import sse_event
from extproc.dialects.thinking import returned_thinking
from extproc.dialects.unsayable import unshown
from extproc.values.usage import TokenUsage

_PING = b": ping\n\n"
"""A comment: OpenAI has no ping, and every client skips comments."""
_FREE_TEXT = "response.custom_tool_call_input.delta"
_ENDS = ("response.completed", "response.incomplete")
_DELTAS = {
    "response.output_text.delta": PartKind.TEXT,
    "response.refusal.delta": PartKind.REFUSED,
    "response.reasoning_summary_text.delta": PartKind.THINKING,
    "response.reasoning_text.delta": PartKind.THINKING,
    "response.function_call_arguments.delta": PartKind.TOOL_CALL,
}


class ResponseStreamReader(SseStreamReader):
    """One stream of a provider. Items come one after the other."""

    api = "the Responses API"

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self._parts = PartSequence()

    def _body_over(self, events: list[Event]) -> None:
        self._parts.close(events)
        events.append(ended_early())

    def _take(self, data: bytes, events: list[Event]) -> None:
        event = orjson.loads(data)
        kind = event["type"]
        delta = _DELTAS.get(kind)
        if delta is not None:
            self._parts.text(delta, event["delta"], events)
        elif kind == "response.created":
            response = event["response"]
            created = response.get("created_at")
            created_s = int(created) if isinstance(created, int | float) else 0
            name, model = str(response["id"]), str(response.get("model") or "")
            events.append(Started(name, model, None, created_s))
        elif kind == "response.output_item.added":
            item = event["item"]
            if item["type"] == "function_call":
                call_id, name = str(item["call_id"]), str(item["name"])
                self._parts.begin(PartKind.TOOL_CALL, events, call_id, name)
        elif (
            kind == "response.reasoning_summary_part.added"
            and self._parts.open is PartKind.THINKING
        ):
            self._parts.text(PartKind.THINKING, "\n\n", events)
        elif kind == "response.output_item.done":
            self._item_done(event["item"], events)
        elif kind in _ENDS:
            self._finish(event["response"], events)
        elif kind in ("response.failed", "error"):
            self._over = True
            self._parts.close(events)
            events.append(Failed(_stream_error(event)))

    def _item_done(self, item: Json, events: list[Event]) -> None:
        encrypted = item.get("encrypted_content") if item["type"] == "reasoning" else None
        if encrypted:
            thinking = returned_thinking("", encrypted, Vendor.OPENAI)
            self._parts.go_on(PartKind.THINKING, events)
            events.append(Signature(self._parts.number, thinking.signature))
        self._parts.close(events)

    def _finish(self, response: Json, events: list[Event]) -> None:
        self._over = True
        self._parts.close(events)
        answer = answer_of(response, self._context)
        events += (Stopped(answer.stop, usage=answer.usage), Ended(answer.usage))


class ResponseStreamWriter:
    """One stream to a caller. Every event carries a number, and each part is told whole at its
    end, as OpenAI does it."""

    def __init__(self, context: Context, vendor: Vendor = Vendor.OTHER) -> None:
        self._context = context
        self._vendor = vendor
        """Who signs the thoughts of this stream."""
        self._sequence = -1
        self._head: Json = {}
        self._id = ""
        self._output: list[Json] = []
        self._part: Part = Text("")
        self._logprobs: list[Json] = []
        self._item_id = self._kind = ""
        self._free_text = FreeText()
        self._stopped = Stopped(Stop.END)

    def write(self, events: Sequence[Event]) -> bytes:
        """See ``StreamWriter``."""
        return b"".join([self._event(event) for event in events])

    def _event(self, event: Event) -> bytes:
        if isinstance(event, Delta):
            return self._delta(event)
        if isinstance(event, PartStarted):
            return self._start(event)
        if isinstance(event, PartEnded):
            return self._end_part()
        if isinstance(event, Signature):
            if isinstance(self._part, Thinking):
                self._part.signature += event.signature
            return b""
        if isinstance(event, Started):
            self._id = written_id(event.answer_id, self._context)
            self._head = written_head(self._id, event.model, event.created_s, self._context)
            created = self._written("response.created", {"response": self._head})
            return created + self._written("response.in_progress", {"response": self._head})
        if isinstance(event, Stopped):
            # Kept until the usage is known: some providers tell it after the reason to stop.
            self._stopped = event
            return b""
        if isinstance(event, Ended):
            return self._end(event.usage or self._stopped.usage)
        if isinstance(event, Shown):
            return self._shown(event.part, event.media)
        if isinstance(event, Ping):
            return _PING
        assert isinstance(event, Failed)
        # The provider may fail before it has begun.
        head = self._head or written_head(written_id("", self._context), "", 0, self._context)
        response = {**head, "status": "failed", "error": failed_error(event.error)}
        return self._written("response.failed", {"response": response})

    def _start(self, event: PartStarted) -> bytes:
        if event.kind is PartKind.TOOL_CALL:
            self._part = ToolCall(event.call_id, event.name, "")
        elif event.kind is PartKind.THINKING:
            redacted = bool(event.redacted)
            self._part = Thinking("", event.redacted, self._vendor, redacted=redacted)
        else:
            self._part = Refused("") if event.kind is PartKind.REFUSED else Text("")
        item = self._item()
        self._kind, self._item_id = item["type"], item["id"]
        self._free_text = FreeText()
        item["status"] = "in_progress"
        if item["type"] == "message":
            (content,) = item["content"]
            item["content"] = []
            added = self._added(item)
            return added + self._inside("response.content_part.added", 0, {"part": content})
        item.pop("encrypted_content", None)
        added = self._added(item)
        if isinstance(self._part, Thinking) and not self._part.redacted:
            part = {"type": "summary_text", "text": ""}
            added += self._summary("response.reasoning_summary_part.added", {"part": part})
        return added

    def _shown(self, number: int, media: Media) -> bytes:
        """An image, as OpenAI's own tool for images gives it."""
        if media.kind != "image":
            delta = Delta(number, unshown(media))
            return self.write((PartStarted(number, PartKind.TEXT), delta, PartEnded(number)))
        self._part = media
        item = self._item()
        self._item_id = item["id"]
        told = self._added({**item, "status": "in_progress", "result": None})
        told += self._inside("response.image_generation_call.completed", None, {})
        return told + self._end_part()

    def _delta(self, event: Delta) -> bytes:
        part = self._part
        if isinstance(part, ToolCall):
            part.arguments += event.text
            return self._call_delta(event.text)
        assert isinstance(part, Text | Refused | Thinking)
        part.text += event.text
        logprobs = written_logprobs(event.logprobs)
        self._logprobs += logprobs
        if isinstance(part, Thinking):
            return self._summary("response.reasoning_summary_text.delta", {"delta": event.text})
        if isinstance(part, Refused):
            return self._inside("response.refusal.delta", 0, {"delta": event.text})
        fields = {"delta": event.text, "logprobs": logprobs}
        return self._inside("response.output_text.delta", 0, fields)

    def _end_part(self) -> bytes:
        item, part = self._item(), self._part
        logprobs, self._logprobs = self._logprobs, []
        if isinstance(part, Text):
            item["content"][0]["logprobs"] = logprobs
        told = b""
        if isinstance(part, ToolCall):
            told = self._call_done(item)
        elif isinstance(part, Thinking) and not part.redacted:
            told = self._summary("response.reasoning_summary_text.done", {"text": part.text})
            summary = {"type": "summary_text", "text": part.text}
            told += self._summary("response.reasoning_summary_part.done", {"part": summary})
        elif isinstance(part, Text):
            fields = {"text": part.text, "logprobs": logprobs}
            told = self._inside("response.output_text.done", 0, fields)
        elif isinstance(part, Refused):
            told = self._inside("response.refusal.done", 0, {"refusal": part.text})
        if item["type"] == "message":
            content = {"part": item["content"][0]}
            told += self._inside("response.content_part.done", 0, content)
        done_item = {"output_index": len(self._output), "item": item}
        told += self._written("response.output_item.done", done_item)
        self._output.append(item)
        return told

    def _call_delta(self, arguments: str) -> bytes:
        if self._kind == "function_call":
            kind, delta = "response.function_call_arguments.delta", arguments
        elif self._kind == "custom_tool_call":
            kind, delta = _FREE_TEXT, self._free_text.feed(arguments)
        else:
            return b""
        return self._inside(kind, None, {"delta": delta}) if delta else b""

    def _call_done(self, item: Json) -> bytes:
        if self._kind == "function_call":
            done = {"arguments": item["arguments"]}
            return self._inside("response.function_call_arguments.done", None, done)
        if self._kind != "custom_tool_call":
            return b""
        rest = self._free_text.rest(item["input"])
        told = self._inside(_FREE_TEXT, None, {"delta": rest}) if rest else b""
        done = {"input": item["input"]}
        return told + self._inside("response.custom_tool_call_input.done", None, done)

    def _end(self, usage: TokenUsage | None) -> bytes:
        end = written_end(self._stopped.stop, self._output, usage)
        kind = f"response.{end['status']}"
        return self._written(kind, {"response": {**self._head, **end}})

    def _item(self) -> Json:
        known_as = self._context.known_as
        item = written_item(self._part, self._id, len(self._output), known_as)
        assert item is not None
        return item

    def _added(self, item: Json) -> bytes:
        fields = {"output_index": len(self._output), "item": item}
        return self._written("response.output_item.added", fields)

    def _inside(self, kind: str, content_index: int | None, fields: Json) -> bytes:
        """An event about the item that is open."""
        place: Json = {"item_id": self._item_id, "output_index": len(self._output)}
        if content_index is not None:
            place["content_index"] = content_index
        return self._written(kind, {**place, **fields})

    def _summary(self, kind: str, fields: Json) -> bytes:
        return self._inside(kind, None, {"summary_index": 0, **fields})

    def _written(self, kind: str, fields: Json) -> bytes:
        self._sequence += 1
        event = {"type": kind, "sequence_number": self._sequence, **fields}
        return sse_event(orjson.dumps(event), kind)


def _stream_error(event: Json) -> ProviderError:
    error = (event.get("response") or {}).get("error") or event.get("error") or event
    code = str(error.get("code") or "")
    kind = "rate_limit" if code == "rate_limit_exceeded" else "api"
    return ProviderError(BROKEN_STATUS, kind, str(error.get("message") or ""), code=code)
