"""Streamed messages: Anthropic's events to the shared ones and back."""

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
from extproc.dialects.anthropic.answers import (
    STOP_REASON,
    error_document,
    own_name,
    read_error,
    shown_id,
    stop_of,
    usage_of,
    written_head,
    written_usage,
)
from extproc.dialects.codec import Context
from extproc.dialects.conversation import Json, Thinking, Vendor
from extproc.dialects.reading_streams import BROKEN_STATUS, SseStreamReader, ended_early
from extproc.dialects.sse import sse_event
from extproc.dialects.thinking import given_signature
from extproc.dialects.unsayable import unshown
from extproc.values.usage import TokenUsage

_ERROR_STATUS = {"overloaded_error": 529, "rate_limit_error": 429}
_KINDS = {
    "text": PartKind.TEXT,
    "thinking": PartKind.THINKING,
    "redacted_thinking": PartKind.THINKING,
    "tool_use": PartKind.TOOL_CALL,
}


class MessageStreamReader(SseStreamReader):
    """One stream of a provider."""

    api = "Anthropic's"

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self._parts: dict[int, int] = {}
        """Anthropic's index of an open block to ours: blocks of its own tools have none."""
        self._next_part = 0
        self._usage: Json = {}
        self._shrunk = False
        self._stopped = False

    def _body_over(self, events: list[Event]) -> None:
        if self._stopped:
            events.append(Ended(self._usage_so_far()))
        else:
            events += [*map(PartEnded, self._parts.values()), ended_early()]

    def _take(self, data: bytes, events: list[Event]) -> None:
        event = orjson.loads(data)
        kind = event["type"]
        if kind == "content_block_delta":
            self._delta(event["index"], event["delta"], events)
        elif kind == "content_block_start":
            self._block(event["index"], event["content_block"], events)
        elif kind == "content_block_stop":
            part = self._parts.pop(event["index"], None)
            if part is not None:
                events.append(PartEnded(part))
        elif kind == "message_start":
            message = event["message"]
            usage = message.get("usage")
            self._usage = dict(usage) if isinstance(usage, dict) else {}
            events.append(Started(str(message["id"]), str(message["model"]), usage_of(self._usage)))
        elif kind == "message_delta":
            self._message_delta(event, events)
        elif kind == "message_stop":
            self._over = True
            events.append(Ended(self._last_usage()))
        elif kind == "ping":
            events.append(Ping())
        elif kind == "error":
            self._over = True
            events.append(Failed(_stream_error(event)))
        # Events that Anthropic adds later say nothing that could be told elsewhere.

    def _usage_so_far(self) -> TokenUsage | None:
        return None if self._shrunk else usage_of(self._usage)

    def _last_usage(self) -> TokenUsage | None:
        """Counts before the reason to stop are those of a beginning."""
        return self._usage_so_far() if self._stopped else None

    def _block(self, index: int, block: Json, events: list[Event]) -> None:
        kind = _KINDS.get(block["type"])
        if kind is None:
            return
        part = self._parts[index] = self._next_part
        self._next_part += 1
        if kind is PartKind.TOOL_CALL:
            events.append(PartStarted(part, kind, str(block["id"]), str(block["name"])))
            if block.get("input"):
                events.append(Delta(part, orjson.dumps(block["input"]).decode()))
        elif block["type"] == "redacted_thinking":
            events.append(PartStarted(part, kind, redacted=str(block["data"])))
        else:
            events.append(PartStarted(part, kind))
            text = block.get("text") or block.get("thinking")
            if text:
                events.append(Delta(part, text))

    def _delta(self, index: int, delta: Json, events: list[Event]) -> None:
        part = self._parts.get(index)
        if part is None:
            return
        kind = delta["type"]
        if kind == "signature_delta":
            events.append(Signature(part, delta["signature"]))
            return
        key = {"text_delta": "text", "input_json_delta": "partial_json"}.get(kind, "thinking")
        text = delta.get(key)
        if text:
            events.append(Delta(part, text))

    def _message_delta(self, event: Json, events: list[Event]) -> None:
        counts = event.get("usage") or {}
        for key, value in counts.items():
            before = self._usage.get(key)
            if type(value) is int and type(before) is int and value < before:
                self._shrunk = True  # totals only grow
            elif value is not None:
                self._usage[key] = value
        delta = event.get("delta") or {}
        if delta.get("stop_reason") is None:
            return
        if (event.get("usage") or {}).get("output_tokens") is None:
            self._usage.pop("output_tokens", None)  # what the start said of it was a beginning
        self._stopped = True
        if type(counts.get("output_tokens")) is not int:
            self._shrunk = True  # what was told at the start is no count of the answer
        events.append(
            Stopped(
                stop_of(delta["stop_reason"]),
                str(delta.get("stop_sequence") or ""),
                self._usage_so_far(),
            )
        )


class MessageStreamWriter:
    """One stream to a caller."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._kind = PartKind.TEXT
        self._unsigned = False
        """A thought is open, and its signature has not come."""
        self._stopped: Stopped | None = None

    def write(self, events: Sequence[Event]) -> bytes:
        """See ``StreamWriter``."""
        return b"".join([self._event(event) for event in events])

    def _event(self, event: Event) -> bytes:
        if isinstance(event, Delta):
            return self._delta(event)
        if isinstance(event, PartStarted):
            return self._start(event)
        if isinstance(event, PartEnded):
            signature = self._signature(event.part, "") if self._unsigned else b""
            return signature + _written("content_block_stop", {"index": event.part})
        if isinstance(event, Signature):
            return self._signature(event.part, event.signature)
        if isinstance(event, Started):
            return self._message(event)
        if isinstance(event, Stopped):
            # Kept until the usage is known: OpenAI tells it after the reason to stop.
            self._stopped = event
            return b""
        if isinstance(event, Ended):
            return self._end(event)
        if isinstance(event, Shown):
            number, text = event.part, unshown(event.media)
            told = (PartStarted(number, PartKind.TEXT), Delta(number, text), PartEnded(number))
            return self.write(told)
        if isinstance(event, Ping):
            return _written("ping", {})
        assert isinstance(event, Failed)
        document = error_document(event.error, self._context)
        return sse_event(orjson.dumps(document), "error")

    def _message(self, event: Started) -> bytes:
        message = {
            **written_head(event.answer_id, event.model, self._context),
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": written_usage(event.usage or TokenUsage(0, 0)),
        }
        return _written("message_start", {"message": message})

    def _signature(self, part: int, signature: str) -> bytes:
        self._unsigned = False
        thinking = Thinking("", signature, self._context.vendor)
        given = given_signature(thinking, Vendor.ANTHROPIC)
        delta = {"type": "signature_delta", "signature": given}
        return _written("content_block_delta", {"index": part, "delta": delta})

    def _start(self, event: PartStarted) -> bytes:
        self._kind = event.kind
        vendor = self._context.vendor
        self._unsigned = event.kind is PartKind.THINKING and not event.redacted
        block: Json
        if event.kind is PartKind.TOOL_CALL:
            name, call_id = own_name(event.name, self._context), shown_id(event.call_id, vendor)
            block = {"type": "tool_use", "id": call_id, "name": name, "input": {}}
        elif event.redacted:
            thinking = Thinking("", event.redacted, vendor, redacted=True)
            data = given_signature(thinking, Vendor.ANTHROPIC)
            block = {"type": "redacted_thinking", "data": data}
        elif event.kind is PartKind.THINKING:
            block = {"type": "thinking", "thinking": "", "signature": ""}
        else:
            block = {"type": "text", "text": ""}
        return _written("content_block_start", {"index": event.part, "content_block": block})

    def _delta(self, event: Delta) -> bytes:
        delta: Json
        if self._kind is PartKind.TOOL_CALL:
            delta = {"type": "input_json_delta", "partial_json": event.text}
        elif self._kind is PartKind.THINKING:
            delta = {"type": "thinking_delta", "thinking": event.text}
        else:
            delta = {"type": "text_delta", "text": event.text}
        return _written("content_block_delta", {"index": event.part, "delta": delta})

    def _end(self, event: Ended) -> bytes:
        stopped = self._stopped or Stopped(Stop.END)
        usage = event.usage or stopped.usage or TokenUsage(0, 0)
        delta = {
            "stop_reason": STOP_REASON[stopped.stop],
            "stop_sequence": stopped.stop_sequence or None,
        }
        counts = written_usage(usage)
        del counts["cache_creation"]  # told at the start only
        return _written("message_delta", {"delta": delta, "usage": counts}) + _written(
            "message_stop", {}
        )


def _written(kind: str, fields: dict[str, Any]) -> bytes:
    return sse_event(orjson.dumps({"type": kind, **fields}), kind)


def _stream_error(event: Json) -> ProviderError:
    kind = str((event.get("error") or {}).get("type"))
    return read_error(_ERROR_STATUS.get(kind, BROKEN_STATUS), orjson.dumps(event))
