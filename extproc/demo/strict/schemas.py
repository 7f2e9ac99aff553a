"""The JSON Schemas that strict modes accept: every object says all that it may hold."""

from __future__ import annotations

from typing import Any, NamedTuple


class OpenObject(NamedTuple):
    """The first object of a schema that is not closed."""

    context: tuple[str, ...]
    """Where, as OpenAI says it: ``('properties', 'city')``."""
    missing: str
    """A property that ``required`` leaves out; empty: ``additionalProperties`` is not false."""


_BOUNDS = frozenset(
    (
        "exclusiveMaximum", "exclusiveMinimum", "maxItems", "maxLength", "maximum", "minLength",
        "minimum", "multipleOf",
    )
)  # fmt: skip


def bounded(schema: Any) -> tuple[str, str] | None:
    """The first type with a bound that Anthropic does not hold a model to, and which; or None."""
    stack = [schema]
    while stack:
        value = stack.pop()
        if isinstance(value, list):
            stack += value
        if not isinstance(value, dict):
            continue
        names = sorted(_BOUNDS.intersection(value))
        if value.get("minItems", 0) not in (0, 1):
            names.append("minItems")
        if names:
            return str(value.get("type")), names[0]
        for key, inner in value.items():
            if key in ("properties", "$defs", "definitions") and isinstance(inner, dict):
                stack += inner.values()
            elif key in ("items", "anyOf", "allOf", "oneOf"):
                stack.append(inner)
    return None


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
