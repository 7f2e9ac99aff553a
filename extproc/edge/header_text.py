"""Values of the headers that we write: no text of a policy or of a caller breaks out of one."""

from __future__ import annotations

from collections.abc import Iterable

from extproc.pb import extproc_pb2 as pb

_UNSAFE = {ord(c): None for c in "\r\n\0"}
_OVERWRITE = 2  # HeaderValueOption.append_action = OVERWRITE_IF_EXISTS_OR_ADD
MAX_HEADER_CHARACTERS = 1_024
"""Values of answer headers are ours, but rule ids are the policy's: longer ones are cut."""


def safe_text(value: str) -> str:
    """The value without what would end a header."""
    return value.translate(_UNSAFE)


def header_text(value: str) -> str:
    """The same for what people read, in a length that no client refuses."""
    return value.translate(_UNSAFE)[:MAX_HEADER_CHARACTERS]


def set_headers(mutation: pb.HeaderMutation, headers: Iterable[tuple[str, str]]) -> None:
    """Sets headers in a message that the protobuf library writes."""
    for name, value in headers:
        option = mutation.set_headers.add()
        option.header.key = name
        option.header.raw_value = value.encode()
        option.append_action = _OVERWRITE
