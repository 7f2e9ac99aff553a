"""Amazon's binary event stream: messages with a length, headers, and a checksum over each."""

from __future__ import annotations

import json
import struct
from binascii import crc32

from extproc.demo.asked import Json

CONTENT_TYPE = "application/vnd.amazon.eventstream"

_STRING = 7
"""The type of a header's value; Bedrock sends no other."""


def event_message(name: str, payload: Json) -> bytes:
    """An event."""
    return _message({":event-type": name, ":message-type": "event"}, payload)


def exception_message(name: str, payload: Json) -> bytes:
    """An exception inside the stream, the last message of it."""
    return _message({":exception-type": name, ":message-type": "exception"}, payload)


def _message(headers: dict[str, str], payload: Json) -> bytes:
    head = b"".join(
        _header(name, value)
        for name, value in {":content-type": "application/json", **headers}.items()
    )
    body = json.dumps(payload, separators=(",", ":")).encode()
    # The length counts everything: itself, the headers' length, and both checksums.
    prelude = struct.pack(">II", 16 + len(head) + len(body), len(head))
    message = prelude + struct.pack(">I", crc32(prelude)) + head + body
    return message + struct.pack(">I", crc32(message))


def _header(name: str, value: str) -> bytes:
    coded = value.encode()
    return (
        struct.pack(">B", len(name))
        + name.encode()
        + struct.pack(">BH", _STRING, len(coded))
        + coded
    )
