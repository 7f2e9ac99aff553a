"""The top level of a JSON object, split into raw values that are never rebuilt.

What the provider receives must be what was priced, byte for byte where nothing was decided, so the
body is not parsed into Python values and written out again: that would change numbers, key order
and escapes, and break prompt-cache keys and signatures. Instead the places of the top-level values
are found, and single values are replaced in the bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from extproc.values.refusal import RefusalCode
from extproc.wire.errors import WireError

MAX_TOP_LEVEL_KEYS = 1_000
"""Every published request has fewer than fifty. The walk costs half a microsecond per key."""

_WHITESPACE = b" \t\n\r"
_KEY = re.compile(rb'[ \t\n\r]*("(?:[^"\\]|\\.)*")[ \t\n\r]*:[ \t\n\r]*', re.DOTALL)
_SPACE = re.compile(rb"[ \t\n\r]*")
_LONE_SURROGATE = re.compile(
    rb"(?<!\\)(?:\\\\)*(?:"
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2})"
)
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_key = msgspec.json.Decoder(str).decode


class JsonObject:
    """A JSON object's bytes and the places of its top-level values."""

    __slots__ = ("body", "places")

    def __init__(self, body: bytes, places: dict[str, tuple[int, int]]) -> None:
        self.body = body
        self.places = places

    def __contains__(self, key: str) -> bool:
        return key in self.places

    def raw(self, key: str) -> bytes | None:
        """The exact bytes of a value; None when the key is absent."""
        place = self.places.get(key)
        return None if place is None else self.body[place[0] : place[1]]

    def patched(self, values: Mapping[str, bytes]) -> bytes:
        """The body with some top-level values replaced, and absent keys added at the end.

        Every other byte stays as it was. ``values`` are JSON texts.
        """
        body = self.body
        replaced = sorted((self.places[key], value) for key, value in values.items() if key in self)
        parts: list[bytes] = []
        done = 0
        for (start, end), value in replaced:
            parts += (body[done:start], value)
            done = end
        added = [
            b"%s:%s" % (msgspec.json.encode(key), value)
            for key, value in values.items()
            if key not in self
        ]
        if added:
            brace = body.rindex(b"}")
            separator = b"," if self.places else b""
            parts += (body[done:brace], separator, b",".join(added))
            done = brace
        parts.append(body[done:])
        return b"".join(parts)


def split_object(body: bytes) -> JsonObject:
    """Finds the top-level values of a JSON object.

    Raises ``WireError`` for anything that is not one strict UTF-8 JSON object with unique keys.
    """
    if body[:1] != b"{" and body.lstrip(_WHITESPACE)[:1] != b"{":
        raise WireError("The body is not a JSON object.")
    try:
        values = _decode_object(body)
        if not body.isascii():
            body.decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise WireError("The body is not valid JSON, or it is nested too deeply.") from None
    if len(values) > MAX_TOP_LEVEL_KEYS:
        raise WireError(f"The body has more than {MAX_TOP_LEVEL_KEYS} top-level keys.")
    if (b"\\ud" in body or b"\\uD" in body) and _LONE_SURROGATE.search(body):
        raise WireError("The body holds an unpaired surrogate escape.")
    return JsonObject(body, _compact_places(body, values) or _walk(body, values))


def _compact_places(
    body: bytes, values: dict[str, msgspec.Raw]
) -> dict[str, tuple[int, int]] | None:
    """The places when the body has no whitespace, no escaped key and no duplicate: what SDKs send.

    Adding up what the parser kept gives the body's length only then, because whitespace, escapes
    and dropped duplicates can each only make the body longer.
    """
    places = {}
    at = 1
    for key, raw in values.items():
        start = at + len(key) + 3
        at = start + len(memoryview(raw))
        places[key] = (start, at)
        at += 1
    return places if at == len(body) and places else None


def _walk(body: bytes, values: dict[str, msgspec.Raw]) -> dict[str, tuple[int, int]]:
    """The place of each value. The parser keeps the last of duplicate keys, so walking the body
    with the values it kept finds a duplicate as soon as a key comes twice or a value differs."""
    places: dict[str, tuple[int, int]] = {}
    at = body.index(b"{") + 1
    for _ in range(len(values)):
        match = _KEY.match(body, at)
        if match is None:
            break
        token = match[1]
        key = token[1:-1].decode() if b"\\" not in token else _decode_key(token)
        raw = values.get(key)
        start = match.end()
        if raw is None or key in places or not body.startswith(raw, start):
            raise _duplicate(key)
        end = start + len(memoryview(raw))
        places[key] = (start, end)
        at = end
        if body[at] != 0x2C:  # not a comma: whitespace first, or the end
            space = _SPACE.match(body, at)
            assert space is not None
            at = space.end()
            if body[at] != 0x2C:
                break
        at += 1
    if body[at] == 0x7D or (not values):
        return places
    match = _KEY.match(body, at)
    raise _duplicate(_decode_key(match[1]) if match else "")


def _duplicate(key: str) -> WireError:
    # Parsers disagree on which of two wins: the provider could run another model than we priced.
    name = key if key.isidentifier() and len(key) <= 64 else "a key"
    return WireError(
        f"The body names {name} more than once at its top level.",
        code=RefusalCode.DUPLICATE_KEY,
        param=name,
    )
