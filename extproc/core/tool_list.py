"""Lists of tools without those that their reader may not call.

A model that does not know of a tool does not ask for it. What is left out here is refused at the
call too, so this is a kindness, not the lock.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from extproc.dialects.sse import SseReader
from extproc.policy.mcp_server import McpServer, Patterns
from extproc.wire.errors import WireError
from extproc.wire.json_object import split_object

MAX_LIST_BYTES = 1024 * 1024
"""Of one answer, or of one event of a stream: hundreds of tools with their schemas. A longer list
could not be read, so it is cut."""

_TOO_LONG = f"a list of tools is longer than {MAX_LIST_BYTES} bytes"
_PRIVATE = b'"private"'


class _Tool(msgspec.Struct):
    name: str


_decode_tools = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_tool = msgspec.json.Decoder(_Tool).decode


class ToolFilter(NamedTuple):
    """Which tools of a server a credential may call."""

    server: McpServer
    granted: Patterns | None
    """By the credential; None: all that the server allows."""

    def allows(self, tool: str) -> bool:
        """Whether the tool may be called."""
        return self.server.serves(tool) and (self.granted is None or self.granted.holds(tool))


class ListFilter:
    """One answer to ``tools/list``, as it arrives."""

    __slots__ = ("_allowed", "_held", "_kind")

    def __init__(self, allowed: ToolFilter) -> None:
        self._allowed = allowed
        self._kind = ""
        self._held = b""
        """What is not complete yet: a JSON body to its end, or the last event of a stream."""

    @property
    def is_whole(self) -> bool:
        """Known with the headers: nothing goes on before the answer's end."""
        return self._kind == "json"

    def on_headers(self, _status: int, content_type: str, _error_name: str = "") -> str:
        """What kind of answer it is, which it stays. What is neither JSON nor a stream holds no
        list."""
        for kind in ("json", "event-stream"):
            if kind in content_type.lower():
                self._kind = kind
        return content_type

    def on_body(self, data: bytes, *, end: bool) -> bytes:
        """The next bytes for the caller. Raises ``WireError`` for what cannot be read."""
        if not self._kind:
            return data
        held = self._held + data
        if self._kind == "json":
            self._held = b"" if end else held
            _check_length(self._held)
            return filtered(held, self._allowed) if end and held.strip() else b""
        whole = held if end else held[: _end_of_events(held)]
        self._held = held[len(whole) :]
        _check_length(self._held)
        return b"".join([self._event(event) for event in _events(whole)])

    def _event(self, event: bytes) -> bytes:
        reader = SseReader()
        found = reader.feed(event) + reader.end()
        if not found:
            return event
        data = filtered(found[0].data, self._allowed)
        if data == found[0].data:
            return event
        # Its id and its type stay: a stream is taken up again by them.
        lines = [line for line in event.splitlines() if line and not line.startswith(b"data")]
        return b"".join([line + b"\n" for line in lines]) + b"data: %b\n\n" % data


def filtered(message: bytes, allowed: ToolFilter) -> bytes:
    """A JSON-RPC message without the tools that are not allowed; every other byte as it was. Raises
    ``WireError``."""
    if not message.strip():
        return message
    found = split_object(message, "the answer")
    result = found.raw("result")
    if result is None or not result.startswith(b"{"):
        return message
    listing = split_object(result, "the answer")
    tools = listing.raw("tools")
    if tools is None:
        return message
    try:
        every = _decode_tools(tools)
        kept = [bytes(tool) for tool in every if allowed.allows(_decode_tool(tool).name)]
    except msgspec.DecodeError:
        raise WireError("the answer holds no list of tools") from None
    patches = {}
    if len(kept) < len(every):
        patches["tools"] = b"[%b]" % b",".join(kept)
    if listing.raw("cacheScope") not in (None, _PRIVATE):
        patches["cacheScope"] = _PRIVATE  # the list is this caller's own
    return found.replaced("result", listing.patched(patches)) if patches else message


def _check_length(held: bytes) -> None:
    if len(held) > MAX_LIST_BYTES:
        raise WireError(_TOO_LONG)


def _end_of_events(text: bytes) -> int:
    """Where the last whole event ends."""
    return max(
        (text.rfind(mark) + len(mark) for mark in (b"\n\n", b"\r\n\r\n", b"\r\r") if mark in text),
        default=0,
    )


def _events(text: bytes) -> list[bytes]:
    """Whole events, each with the blank line that ends it."""
    events = []
    begin = 0
    lines = text.splitlines(keepends=True)
    at = 0
    for line in lines:
        at += len(line)
        if not line.strip(b"\r\n"):
            events.append(text[begin:at])
            begin = at
    if begin < len(text):
        events.append(text[begin:])
    return events
