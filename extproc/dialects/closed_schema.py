"""JSON Schemas for models that are held to them: each object says all that it may hold.

Anthropic and Bedrock refuse a schema with an object that is not closed, and every bound on numbers,
lengths and counts. Closing an object lets through fewer answers, all of which fit the schema as it
was. A bound cannot be held to: it is told to the model in words, as Anthropic's own SDKs do it.
"""

from __future__ import annotations

from typing import Any

import orjson

from extproc.dialects.conversation import (
    JSON_ONLY,
    AnswerFormat,
    Json,
    Tool,
    UntranslatableError,
)

_KEPT = frozenset(
    ("$ref", "allOf", "anyOf", "const", "description", "enum", "format", "items", "title", "type")
)
_OBJECT = frozenset(("additionalProperties", "properties", "required"))
_SCHEMAS = ("$defs", "definitions", "properties")
_BOUNDS = frozenset(
    (
        "exclusiveMaximum", "exclusiveMinimum", "maxItems", "maxLength", "maximum", "minItems",
        "minLength", "minimum", "multipleOf", "pattern", "uniqueItems",
    )
)  # fmt: skip
"""Those that an answer might break. What else is put into words says nothing of the answer."""
_FORMATS = frozenset(
    (
        "date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid",
    )
)  # fmt: skip
_LEAST_ITEMS = (0, 1)
MAX_DEPTH = 100
"""Of objects in each other. Providers refuse far less deep ones."""


def closed_schema(schema: Json, param: str) -> tuple[Json, list[str]]:
    """The schema with all its objects closed, and the bounds that are words now, as
    ``param.minimum``. Raises ``UntranslatableError`` for objects with keys of any name: nothing but
    an empty one would fit them."""
    bounds: dict[str, None] = {}
    closed = _closed(schema, param, bounds, MAX_DEPTH)
    return closed, [f"{param}.{key}" for key in bounds]


def written_format(wanted: AnswerFormat | None) -> tuple[Json | None, str, list[str]]:
    """The schema that the answer is held to, the instruction that stands for what it cannot be held
    to, and what was left out. Raises ``UntranslatableError`` for a schema that must hold, and
    cannot."""
    if wanted is None:
        return None, "", []
    if wanted.schema is None:
        return None, JSON_ONLY, ["response_format"]
    try:
        schema, dropped = closed_schema(wanted.schema, "response_format")
    except UntranslatableError:
        if wanted.strict:
            raise
        told = orjson.dumps(wanted.schema).decode()
        return None, f"{JSON_ONLY} It follows this JSON Schema: {told}", ["response_format"]
    return schema, "", dropped


def closed_tool(tool: Tool) -> tuple[Json, bool | None, list[str]]:
    """The schema of a tool, whether its calls are held to it, and what was left out: a tool whose
    arguments have any name can be called all the same."""
    if not tool.strict:
        return tool.schema, tool.strict, []
    param = f"tools.{tool.name}"
    try:
        schema, dropped = closed_schema(tool.schema, param)
    except UntranslatableError:
        return tool.schema, None, [f"{param}.strict"]
    return schema, True, dropped


def is_exact(schema: Json) -> bool:
    """Whether each object is closed and has all of its keys: what OpenAI holds a model to. Others
    hold it to schemas with keys that may be absent, too."""
    stack: list[Any] = [schema]
    while stack:
        value = stack.pop()
        if isinstance(value, list):
            stack += value
        if not isinstance(value, dict):
            continue
        properties = value.get("properties")
        if value.get("type") == "object" or isinstance(properties, dict):
            if value.get("additionalProperties") is not False:
                return False
            required = value.get("required") or []
            if not isinstance(properties or {}, dict) or not isinstance(required, list):
                return False
            named = {name for name in required if isinstance(name, str)}
            if not named.issuperset(properties or {}):
                return False
        for key, inner in value.items():
            if key in _SCHEMAS and isinstance(inner, dict):
                stack += inner.values()
            elif key in ("items", "anyOf", "allOf", "oneOf"):
                stack.append(inner)
    return True


def _closed(schema: Any, param: str, bounds: dict[str, None], depth: int) -> Any:
    if not isinstance(schema, dict):
        return schema
    if depth == 0:
        raise UntranslatableError(param, "the schema is nested too deeply")

    def inside(value: Any) -> Any:
        return _closed(value, param, bounds, depth - 1)

    made: Json = {}
    words: Json = {}
    for key, value in schema.items():
        if key in _SCHEMAS and isinstance(value, dict):
            made[key] = {name: inside(shape) for name, shape in value.items()}
        elif key in ("anyOf", "allOf", "oneOf") and isinstance(value, list):
            made["anyOf" if key == "oneOf" else key] = [inside(shape) for shape in value]
        elif key == "items":
            made[key] = inside(value)
        elif _is_kept(key, value):
            made[key] = value
        else:
            words[key] = value
    kinds = schema.get("type")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if "object" in kinds or "properties" in schema:
        _check_named(schema, param)
        made["additionalProperties"] = False
        words.pop("patternProperties", None)
    bounds.update(dict.fromkeys(key for key in words if key in _BOUNDS or key == "format"))
    told = {key: value for key, value in words.items() if key not in ("$schema", "$id")}
    if told:
        text = f"{orjson.dumps(told).decode()}"
        described = schema.get("description")
        made["description"] = f"{described}\n\n{text}" if described else text
    return made


def _is_kept(key: str, value: Any) -> bool:
    if key == "format":
        return isinstance(value, str) and value in _FORMATS
    if key == "minItems":
        return value in _LEAST_ITEMS
    return key in _KEPT or key in _OBJECT


def _check_named(schema: Json, param: str) -> None:
    more = schema.get("additionalProperties", True)
    if "properties" not in schema and more is not False:
        raise UntranslatableError(param, "its schema has an object with keys of any name")
    if isinstance(more, dict) or schema.get("patternProperties"):
        raise UntranslatableError(param, "its schema has an object with keys of any name")
