"""Amazon's binary event stream framing, incrementally.

A message is a prelude (its length, its headers' length, a checksum of both), headers, a payload and
a checksum of everything before. Both checksums are verified: a damaged stream is no stream.
"""

from __future__ import annotations

from binascii import crc32
from collections.abc import Mapping
from functools import lru_cache
from struct import unpack_from
from typing import NamedTuple

from extproc.dialects.codec import StreamError

_PRELUDE_BYTES = 12
_CHECKSUM_BYTES = 4
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
"""Amazon's own bound on a payload; messages of a model are some hundred bytes."""
KNOWN_BYTES = 256
"""Of headers that are remembered; those of events have about a hundred."""
_STRING = 7
_FIXED_BYTES = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
"""Header values by type: true, false, byte, short, integer, long, timestamp, UUID."""


class Message(NamedTuple):
    """One message. Only its string headers are kept: the type of event or exception."""

    headers: Mapping[str, str]
    payload: bytes


class EventStreamReader:
    """Cuts a stream into messages, however its bytes come."""

    __slots__ = ("_unread",)

    def __init__(self) -> None:
        self._unread = b""

    def feed(self, data: bytes) -> list[Message]:
        """Takes the next bytes. Raises ``StreamError`` for what is no event stream."""
        buffer = self._unread + data if self._unread else data
        at = 0
        messages = []
        while len(buffer) - at >= _PRELUDE_BYTES:
            total, headers_bytes, checksum = unpack_from(">III", buffer, at)
            if crc32(buffer[at : at + 8]) != checksum:
                raise StreamError("the checksum of a prelude is wrong")
            payload_at = _PRELUDE_BYTES + headers_bytes
            if not payload_at + _CHECKSUM_BYTES <= total <= MAX_MESSAGE_BYTES:
                raise StreamError("the length of a message is impossible")
            if len(buffer) - at < total:
                break
            message = buffer[at : at + total]
            if crc32(message[:-_CHECKSUM_BYTES]) != unpack_from(">I", message, total - 4)[0]:
                raise StreamError("the checksum of a message is wrong")
            head = message[_PRELUDE_BYTES:payload_at]
            headers = _known(head) if len(head) <= KNOWN_BYTES else _headers(head)
            messages.append(Message(headers, message[payload_at:-_CHECKSUM_BYTES]))
            at += total
        self._unread = buffer[at:]
        return messages

    @property
    def between_messages(self) -> bool:
        """No message is half read."""
        return not self._unread


@lru_cache(maxsize=64)
def _known(head: bytes) -> Mapping[str, str]:
    """Headers that were read before: those of all deltas are the same bytes."""
    return _headers(head)


def _headers(data: bytes) -> Mapping[str, str]:
    headers = {}
    at = 0
    try:
        while at < len(data):
            name_end = at + 1 + data[at]
            name, kind = data[at + 1 : name_end].decode(), data[name_end]
            at = name_end + 1
            size = _FIXED_BYTES.get(kind)
            if size is None:
                if kind not in (6, _STRING):
                    raise StreamError("a header is of an unknown type")
                (size,) = unpack_from(">H", data, at)
                at += 2
            if at + size > len(data):
                raise StreamError("a header is longer than the headers")
            if kind == _STRING:
                headers[name] = data[at : at + size].decode()
            at += size
    except (IndexError, UnicodeDecodeError, ValueError) as error:
        raise StreamError("the headers of a message cannot be read") from error
    return headers
