"""The top level of a JSON object, split into raw values that are never rebuilt.

What the provider receives must be what was priced, byte for byte where nothing was decided, so the
body is not parsed into Python values and written out again: that would change numbers, key order
and escapes, and break prompt-cache keys and signatures. Instead the places of the top-level values
are found, and single values are replaced in the bytes.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping

import msgspec

from extproc.values.refusal import RefusalCode
from extproc.wire.errors import WireError

MAX_TOP_LEVEL_KEYS = 1_000
"""Every published request has fewer than fifty. The walk costs half a microsecond per key."""

MAX_OTHER_BYTES = 1024 * 1024
"""What a body may hold outside the fields that carry prompts and tools. The parser allocates for
every key before keys can be counted, some 400 ns each: 32 MiB of keys would stop the event loop for
a second."""

_UTF8_STEP_BYTES = 64 * 1024
"""UTF-8 is checked in steps, so that no copy of a 32 MiB body at four bytes a character is made."""

_WHITESPACE = b" \t\n\r"
_KEY = re.compile(rb'[ \t\n\r]*("[^"\\]*(?:\\.[^"\\]*)*")[ \t\n\r]*:[ \t\n\r]*')
_SPACE = re.compile(rb"[ \t\n\r]*")
_COMMA = 0x2C
_CLOSING_BRACE = 0x7D

_ABSENT = msgspec.Raw(b"")


class _Prompts(msgspec.Struct):
    """The fields of all dialects that may be long. Everything else is skipped without a copy."""

    messages: msgspec.Raw = _ABSENT
    input: msgspec.Raw = _ABSENT
    prompt: msgspec.Raw = _ABSENT
    system: msgspec.Raw = _ABSENT
    instructions: msgspec.Raw = _ABSENT
    tools: msgspec.Raw = _ABSENT
    functions: msgspec.Raw = _ABSENT
    params: msgspec.Raw = _ABSENT
    arguments: msgspec.Raw = _ABSENT
    """With ``params``, of a message to an MCP server: a tool may be given a whole file."""


_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_prompts = msgspec.json.Decoder(_Prompts).decode
_decode_key = msgspec.json.Decoder(str).decode


class JsonObject:
    """A JSON object's bytes and its top-level values. Made by ``split_object`` only."""

    __slots__ = ("_places", "body", "values")

    def __init__(
        self,
        body: bytes,
        values: dict[str, msgspec.Raw],
        places: dict[str, tuple[int, int]] | None,
    ) -> None:
        self.body = body
        self.values = values
        """Keys in the order of the body; the values share its memory."""
        self._places = places
        """Start and end of each value; None for a compact body, whose places add up."""

    def raw(self, key: str) -> bytes | None:
        """The exact bytes of a value; None when the key is absent."""
        value = self.values.get(key)
        return None if value is None else bytes(value)

    def replaced(self, key: str, value: bytes) -> bytes:
        """The body with the value of a present key replaced. Every other byte stays as it was."""
        start, end = self._place(key)
        view = memoryview(self.body)
        return b"".join((view[:start], value, view[end:]))

    def renamed(self, key: str, name: str) -> bytes:
        """The body with a present plain key under another plain name. Unchanged if the body writes
        the key with escapes."""
        start, _ = self._place(key)
        quoted = b'"%b"' % key.encode()
        at = self.body.rfind(quoted, 0, start)
        if at < 0 or self.body[at + len(quoted) : start].strip(_WHITESPACE) != b":":
            return self.body
        view = memoryview(self.body)
        return b"".join((view[:at], b'"%b"' % name.encode(), view[at + len(quoted) :]))

    def patched(self, values: Mapping[str, bytes]) -> bytes:
        """The body with some top-level values replaced, and absent keys added at the end.

        Every other byte stays as it was. ``values`` are JSON texts.
        """
        view = memoryview(self.body)
        present = [
            (*self._place(key), value) for key, value in values.items() if key in self.values
        ]
        parts: list[bytes | memoryview] = []
        done = 0
        for start, end, value in sorted(present):
            parts += (view[done:start], value)
            done = end
        added = [
            b"%s:%s" % (msgspec.json.encode(key), value)
            for key, value in values.items()
            if key not in self.values
        ]
        if added:
            brace = self.body.rindex(b"}")
            parts += (view[done:brace], b"," if self.values else b"", b",".join(added))
            done = brace
        parts.append(view[done:])
        return b"".join(parts)

    def _place(self, wanted: str) -> tuple[int, int]:
        """Start and end of a present value."""
        if self._places is not None:
            return self._places[wanted]
        start = 1
        for key, raw in self.values.items():
            start += len(key) + 3  # two quotes and the colon
            length = len(memoryview(raw))
            if key == wanted:
                return start, start + length
            start += length + 1  # the comma
        raise KeyError(wanted)


def split_object(body: bytes, name: str | None = None) -> JsonObject:
    """Finds the top-level values of a JSON object.

    Raises ``WireError``, naming the field or header ``name`` (None: the body itself), for anything
    that is not one strict UTF-8 JSON object with unique keys, at most ``MAX_TOP_LEVEL_KEYS`` of
    them. The parser itself refuses ``NaN``, unpaired surrogate escapes, control characters,
    trailing bytes and (as ``RecursionError``) nesting beyond some hundreds of levels.
    """
    if body[:1] != b"{" and body.lstrip(_WHITESPACE)[:1] != b"{":
        raise _invalid(name, "is not a JSON object")
    try:
        if len(body) > MAX_OTHER_BYTES:
            _check_shape(body, name)
        values = _decode_object(body)
        if not body.isascii():
            _check_utf8(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _invalid(name, "is not valid JSON, or it is nested too deeply") from None
    if len(values) > MAX_TOP_LEVEL_KEYS:
        raise _invalid(name, f"has more than {MAX_TOP_LEVEL_KEYS} top-level keys")
    # Without whitespace, escaped keys and duplicates, as SDKs write it, a body is exactly as long
    # as its keys and values and five characters of punctuation less one comma. Whitespace, an
    # escape, a dropped duplicate or a key outside ASCII can each only make it longer.
    value_bytes = sum([len(memoryview(raw)) for raw in values.values()])
    compact_bytes = 1 + 4 * len(values) + sum(map(len, values)) + value_bytes
    return JsonObject(
        body, values, None if compact_bytes == len(body) else _walk(body, values, name)
    )


def _check_shape(body: bytes, name: str | None) -> None:
    prompts = _decode_prompts(body)
    carried = sum(len(memoryview(getattr(prompts, field))) for field in _Prompts.__struct_fields__)
    if len(body) - carried > MAX_OTHER_BYTES:
        raise _invalid(name, f"holds more than {MAX_OTHER_BYTES} bytes outside its prompt")


def _check_utf8(body: bytes) -> None:
    view = memoryview(body)
    at = 0
    while at < len(body):
        last = at + _UTF8_STEP_BYTES >= len(body)
        at += codecs.utf_8_decode(view[at : at + _UTF8_STEP_BYTES], "strict", last)[1]


def _walk(
    body: bytes, values: dict[str, msgspec.Raw], name: str | None
) -> dict[str, tuple[int, int]]:
    """The place of each value. The parser keeps the last of duplicate keys, so walking the body
    with the values it kept finds a duplicate as soon as a key comes twice or a value differs."""
    places: dict[str, tuple[int, int]] = {}
    at = body.index(b"{") + 1
    key = ""
    for _ in values:
        match = _KEY.match(body, at)
        if match is None:
            break
        key = _decode_key(match[1])
        raw = values[key]
        start = match.end()
        if key in places or not body.startswith(raw, start):
            raise _duplicate(key, name)
        end = start + len(memoryview(raw))
        places[key] = (start, end)
        space = _SPACE.match(body, end)
        assert space is not None, "the pattern matches the empty string"
        at = space.end()
        if body[at] != _COMMA:
            break
        at += 1
    if values and body[at] != _CLOSING_BRACE:
        match = _KEY.match(body, at)
        raise _duplicate(_decode_key(match[1]) if match else key, name)
    return places


def _invalid(name: str | None, problem: str) -> WireError:
    return WireError(f"{name or 'The body'} {problem}.", param=name)


def _duplicate(key: str, name: str | None) -> WireError:
    # Parsers disagree on which of two wins: the provider could run another model than we priced.
    known = key if key.isascii() and key.isidentifier() and len(key) <= 64 else "a key"
    return WireError(
        f"{name or 'The body'} names {known} more than once at its top level.",
        code=RefusalCode.DUPLICATE_KEY,
        param=name or known,
    )
