"""The JSON Schemas that strict modes accept: every object says all that it may hold."""

from __future__ import annotations

from typing import Any, NamedTuple


class OpenObject(NamedTuple):
    """The first object of a schema that is not closed."""

    context: tuple[str, ...]
    """Where, as OpenAI says it: ``('properties', 'city')``."""
    missing: str
    """A property that ``required`` leaves out; empty: ``additionalProperties`` is not false."""


def open_object(schema: Any, *, all_required: bool) -> OpenObject | None:
    """The first one, or None."""
    stack: list[tuple[tuple[str, ...], Any]] = [((), schema)]
    while stack:
        context, value = stack.pop()
        if not isinstance(value, dict):
            continue
        if value.get("type") == "object" or "properties" in value:
            if value.get("additionalProperties") is not False:
                return OpenObject(context, "")
            required = value.get("required") or ()
            for name in value.get("properties") or ():
                if all_required and name not in required:
                    return OpenObject(context, name)
        for group in ("properties", "$defs", "definitions"):
            inner = value.get(group)
            if isinstance(inner, dict):
                stack += [((*context, group, name), shape) for name, shape in inner.items()]
        for several in ("anyOf", "oneOf", "allOf"):
            for place, shape in enumerate(value.get(several) or ()):
                stack.append(((*context, several, str(place)), shape))
        if "items" in value:
            stack.append(((*context, "items"), value["items"]))
    return None
