"""The shape of a request: which fields an object has, and of what type each one is.

A shape is a function that raises ``Misfit`` for a value that does not fit, and says where.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

Path = tuple[str | int, ...]
Shape = Callable[[Any, Path], None]
Why = Literal["unknown", "missing", "type", "value"]


class Misfit(Exception):  # noqa: N818
    """A value at ``path`` does not fit. Each dialect says it in its own words."""

    def __init__(self, path: Path, why: Why, wanted: str = "", value: Any = None) -> None:
        super().__init__(f"{path}: {why} {wanted}")
        self.path = path
        self.why = why
        self.wanted = wanted
        """In words: a type, or what a value must be."""
        self.value = value


def anything(_value: Any, _path: Path) -> None:
    """Any JSON value."""


def _of(kinds: tuple[type, ...], name: str) -> Shape:
    def check(value: Any, path: Path) -> None:
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise Misfit(path, "type", name, value)

    return check


TEXT = _of((str,), "string")
NUMBER = _of((int, float), "number")
INTEGER = _of((int,), "integer")
BOOLEAN = _of((bool,), "boolean")
OBJECT = _of((dict,), "object")
"""An object whose insides are the caller's own."""
_LIST = _of((list,), "array")


def base64_text(value: Any, path: Path) -> None:
    """Bytes in base64, at least one."""
    TEXT(value, path)
    try:
        decoded = base64.b64decode(value.replace("-", "+").replace("_", "/"), validate=True)
    except (binascii.Error, ValueError):
        decoded = b""
    if not decoded:
        raise Misfit(path, "value", "base64", value)


def number(least: float | None = None, most: float | None = None, *, whole: bool = False) -> Shape:
    """A number within bounds, both allowed."""

    def check(value: Any, path: Path) -> None:
        (INTEGER if whole else NUMBER)(value, path)
        if least is not None and value < least:
            raise Misfit(path, "value", f">= {least}", value)
        if most is not None and value > most:
            raise Misfit(path, "value", f"<= {most}", value)

    return check


def text(pattern: str = "", most: int | None = None, least: int = 0) -> Shape:
    """A string that matches as a whole and is not too long or short."""
    compiled = re.compile(pattern) if pattern else None

    def check(value: Any, path: Path) -> None:
        TEXT(value, path)
        if most is not None and len(value) > most:
            raise Misfit(path, "value", f"at most {most} characters", value)
        if len(value) < least:
            raise Misfit(path, "value", f"at least {least} characters", value)
        if compiled is not None and not compiled.fullmatch(value):
            raise Misfit(path, "value", f"pattern '^{pattern}$'", value)

    return check


def one_of(*values: str) -> Shape:
    """One of these strings."""

    def check(value: Any, path: Path) -> None:
        TEXT(value, path)
        if value not in values:
            named = ", ".join(f"'{known}'" for known in values)
            raise Misfit(path, "value", named, value)

    return check


def list_of(shape: Shape, least: int = 0, most: int | None = None) -> Shape:
    """A list of them."""

    def check(value: Any, path: Path) -> None:
        _LIST(value, path)
        if len(value) < least:
            raise Misfit(path, "value", f"at least {least} items", value)
        if most is not None and len(value) > most:
            raise Misfit(path, "value", f"at most {most} items", value)
        for place, inner in enumerate(value):
            shape(inner, (*path, place))

    return check


def map_of(shape: Shape) -> Shape:
    """An object with any names and such values."""

    def check(value: Any, path: Path) -> None:
        OBJECT(value, path)
        for name, inner in value.items():
            shape(inner, (*path, name))

    return check


def record(
    required: Mapping[str, Shape], optional: Mapping[str, Shape] | None = None, *, null: bool = True
) -> Shape:
    """An object with these fields and no others. ``null``: a null is a field left out."""
    known = {**required, **(optional or {})}

    def check(value: Any, path: Path) -> None:
        OBJECT(value, path)
        for name in value:
            if name not in known:
                raise Misfit((*path, name), "unknown")
        for name in required:
            if value.get(name) is None and not (name in value and not null):
                raise Misfit((*path, name), "missing")
        for name, shape in known.items():
            if name in value and not (null and value[name] is None):
                shape(value[name], (*path, name))

    return check


def tagged(variants: Mapping[str, Shape], tag: str = "type", default: str = "") -> Shape:
    """An object whose ``tag`` says which shape it has; ``default`` is of an object without."""

    def check(value: Any, path: Path) -> None:
        OBJECT(value, path)
        kind = value.get(tag, default)
        if not kind:
            raise Misfit((*path, tag), "missing")
        if kind not in variants:
            named = ", ".join(f"'{known}'" for known in variants)
            raise Misfit((*path, tag), "value", named, kind)
        variants[kind](value, path)

    return check


def exactly_one(members: Mapping[str, Shape], extra: Mapping[str, Shape] | None = None) -> Shape:
    """An object with exactly one of ``members``, and any of ``extra`` beside it."""
    shape = record({}, {**members, **(extra or {})})

    def check(value: Any, path: Path) -> None:
        shape(value, path)
        given = [name for name in members if value.get(name) is not None]
        if len(given) != 1:
            raise Misfit(path, "value", f"exactly one of {', '.join(members)}", value)

    return check


def either(*shapes: Shape) -> Shape:
    """The first shape whose type the value has: a string or a list, for instance."""

    def check(value: Any, path: Path) -> None:
        for shape in shapes[:-1]:
            try:
                shape(value, path)
            except Misfit as misfit:
                if misfit.path == path and misfit.why == "type":
                    continue
                raise
            return
        shapes[-1](value, path)

    return check


def maybe(shape: Shape) -> Shape:
    """The shape, or null."""

    def check(value: Any, path: Path) -> None:
        if value is not None:
            shape(value, path)

    return check


def dotted(path: Path) -> str:
    """``messages.0.content``."""
    return ".".join(str(step) for step in path)


def bracketed(path: Path) -> str:
    """``messages[0].content``."""
    written = ""
    for step in path:
        written += f"[{step}]" if isinstance(step, int) else f".{step}" if written else step
    return written
