"""What a policy sets otherwise in the requests to one target: fields of the body, and headers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from extproc.wire.json_object import JsonObject, split_object


@dataclass(frozen=True, slots=True)
class Params:
    """Fields of a JSON object to set or to remove."""

    fields: Mapping[str, bytes | None] = field(default_factory=dict)
    """The JSON text that replaces a field, whatever it held; None removes it."""
    inside: Mapping[str, Params] = field(default_factory=dict)
    """Fields of objects that hold others' settings too, by the object's name."""

    @property
    def added_bytes(self) -> int:
        """The most by which a body can grow."""
        grown = sum(len(key) + len(text) + 4 for key, text in self.fields.items() if text)
        return grown + sum(len(key) + 6 + each.added_bytes for key, each in self.inside.items())


@dataclass(frozen=True, slots=True)
class Overrides:
    """Everything that is set otherwise for one target."""

    params: Params = Params()
    set_headers: tuple[tuple[str, str], ...] = ()
    """Names in lower case."""
    removed_headers: tuple[str, ...] = ()

    @property
    def headers_only(self) -> Overrides:
        """Without the fields of the body."""
        return Overrides(Params(), self.set_headers, self.removed_headers)


def overridden(body: bytes, params: Params) -> bytes:
    """The body with its fields set otherwise; the texts of all other fields stay byte for byte.

    Raises ``WireError`` where the body, or what should hold fields, is no JSON object.
    """
    if not (params.fields or params.inside):
        return body
    return _overridden(split_object(body), params)


def _overridden(split: JsonObject, params: Params) -> bytes:
    changed: dict[str, bytes] = {}
    removed = []
    for key, text in params.fields.items():
        if text is not None:
            changed[key] = text
        elif key in split.values:
            removed.append(key)
    for key, inner in params.inside.items():
        raw = split.raw(key)
        holder = split_object(b"{}" if raw is None or raw == b"null" else raw, key)
        changed[key] = _overridden(holder, inner)
    if not removed:
        return split.patched(changed)
    kept = {key: bytes(raw) for key, raw in split.values.items() if key not in removed}
    fields = [b"%b:%b" % (msgspec.json.encode(key), raw) for key, raw in (kept | changed).items()]
    return b"{%b}" % b",".join(fields)
