"""A value that follows a JSON Schema, roughly: arguments for a tool, the text of a JSON answer."""

from __future__ import annotations

from typing import Any

MAX_DEPTH = 12
"""A schema may refer to itself."""

_FORMATS = {
    "date": "2026-11-25",
    "date-time": "2026-11-25T12:00:00Z",
    "time": "12:00:00Z",
    "email": "someone@example.com",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


def sample(schema: Any, word: str = "sample") -> Any:
    """The value; its free strings are ``word``. Always the same for the same schema and word."""
    return _value(schema, schema, word, 0)


def _value(schema: Any, root: Any, word: str, depth: int) -> Any:
    if not isinstance(schema, dict) or depth > MAX_DEPTH:
        return word
    if "$ref" in schema:
        return _value(_referred(root, schema["$ref"]), root, word, depth + 1)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    for several in ("anyOf", "oneOf"):
        if schema.get(several):
            return _value(schema[several][0], root, word, depth + 1)
    if schema.get("allOf"):
        merged: dict[str, Any] = {}
        for part in schema["allOf"]:
            value = _value(part, root, word, depth + 1)
            merged.update(value if isinstance(value, dict) else {})
        return merged
    return _of_kind(schema, root, word, depth)


def _of_kind(schema: dict[str, Any], root: Any, word: str, depth: int) -> Any:
    kind = schema.get("type", "object" if "properties" in schema else "string")
    kind = kind[0] if isinstance(kind, list) and kind else kind
    kind = kind.lower() if isinstance(kind, str) else "string"  # Google writes OBJECT
    if kind == "object":
        properties = schema.get("properties") or {}
        names = schema.get("required") or list(properties)[:1]
        return {name: _value(properties.get(name), root, word, depth + 1) for name in names}
    if kind == "array":
        count = max(1, schema.get("minItems") or 0)
        return [_value(schema.get("items"), root, word, depth + 1)] * count
    if kind in ("integer", "number"):
        least = schema.get("minimum", schema.get("exclusiveMinimum", 0) + 1)
        return min(least, schema["maximum"]) if "maximum" in schema else least
    if kind == "boolean":
        return True
    if kind == "null":
        return None
    text = _FORMATS.get(schema.get("format", ""), word)
    text = text.ljust(schema.get("minLength") or 0, "x")
    return text[: schema["maxLength"]] if "maxLength" in schema else text


def _referred(root: Any, reference: Any) -> Any:
    """What ``#/a/b`` points to; None where there is nothing."""
    value = root
    for name in str(reference).removeprefix("#").strip("/").split("/"):
        if name:
            value = value.get(name) if isinstance(value, dict) else None
    return value
