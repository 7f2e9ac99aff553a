"""Schemas that a model can be held to: closed, without bounds, and nothing else changed."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from anthropic import transform_schema
from hypothesis import given
from hypothesis import strategies as st

from extproc.demo.strict.schemas import bounded, open_object
from extproc.dialects.closed_schema import (
    MAX_DEPTH,
    closed_schema,
    closed_tool,
    is_exact,
    written_format,
)
from extproc.dialects.conversation import JSON_ONLY, AnswerFormat, Tool, UntranslatableError

OPEN = {"type": "object", "properties": {"a": {"type": "string"}}}
CLOSED = {**OPEN, "additionalProperties": False}
MAP = {"type": "object", "additionalProperties": {"type": "integer"}}


def test_every_object_is_closed_wherever_it_is() -> None:
    schema = {
        "type": "object",
        "properties": {
            "list": {"type": "array", "items": OPEN},
            "either": {"anyOf": [OPEN, {"type": "null"}]},
            "maybe": {**OPEN, "type": ["object", "null"]},
            "ref": {"$ref": "#/$defs/inner"},
        },
        "required": ["list"],
        "$defs": {"inner": OPEN},
        "additionalProperties": True,
    }
    closed, dropped = closed_schema(schema, "f")
    assert not dropped
    assert open_object(closed, all_required=False) is None
    assert closed["required"] == ["list"]
    assert closed["properties"]["list"]["items"] == CLOSED
    assert closed["properties"]["ref"] == {"$ref": "#/$defs/inner"}
    assert closed_schema(closed, "f") == (closed, [])


def test_bounds_become_words_and_are_told() -> None:
    schema = {
        "type": "object",
        "properties": {
            "n": {"type": "integer", "minimum": 1, "description": "how many"},
            "day": {"type": "string", "format": "date", "maxLength": 10},
            "code": {"type": "string", "format": "iban"},
            "some": {"type": "array", "items": {}, "minItems": 1},
            "many": {"type": "array", "items": {}, "minItems": 2, "default": []},
        },
        "$schema": "https://json-schema.org/draft/2020-12/schema",
    }
    closed, dropped = closed_schema(schema, "response_format")
    assert sorted(dropped) == [
        "response_format.format", "response_format.maxLength", "response_format.minItems",
        "response_format.minimum",
    ]  # fmt: skip
    assert bounded(closed) is None
    kept = closed["properties"]
    assert kept["n"] == {"type": "integer", "description": 'how many\n\n{"minimum":1}'}
    assert kept["day"]["format"] == "date"
    assert kept["code"]["description"] == '{"format":"iban"}'
    assert kept["some"]["minItems"] == 1
    assert "$schema" not in closed
    # Anthropic's own SDK keeps the same fields.
    for name in ("n", "day"):
        own = transform_schema(schema["properties"][name])  # type: ignore[index]
        assert set(own) == set(kept[name])


@pytest.mark.parametrize(
    "schema", [MAP, {"type": "object"}, {**OPEN, "patternProperties": {"^x": {}}}]
)
def test_keys_of_any_name_cannot_be_held_to(schema: dict[str, Any]) -> None:
    with pytest.raises(UntranslatableError) as caught:
        closed_schema({"type": "array", "items": schema}, "response_format")
    assert caught.value.param == "response_format"
    assert closed_tool(Tool("f", "", schema, strict=True)) == (schema, None, ["tools.f.strict"])
    assert closed_tool(Tool("f", "", schema)) == (schema, None, [])


def test_a_schema_that_is_too_deep_is_refused() -> None:
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(MAX_DEPTH + 1):
        deep = {"type": "array", "items": deep}
    with pytest.raises(UntranslatableError, match="deep"):
        closed_schema(deep, "f")


def test_formats() -> None:
    assert written_format(None) == (None, "", [])
    assert written_format(AnswerFormat()) == (None, JSON_ONLY, ["response_format"])
    assert written_format(AnswerFormat(OPEN)) == (CLOSED, "", [])
    schema, instruction, dropped = written_format(AnswerFormat(MAP, strict=False))
    assert schema is None
    assert json.dumps(MAP).replace(" ", "") in instruction
    assert dropped == ["response_format"]
    with pytest.raises(UntranslatableError):
        written_format(AnswerFormat(MAP, strict=True))


def test_what_openai_holds_a_model_to() -> None:
    assert is_exact({"type": "string"})
    assert is_exact({**CLOSED, "required": ["a"]})
    assert not is_exact(CLOSED)
    assert not is_exact({"type": "array", "items": {"anyOf": [OPEN]}})


SCHEMAS: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from(
        [{"type": "string"}, {"type": "integer", "maximum": 3}, {"enum": ["a", "b"]}, {"const": 1}]
    ),
    lambda inner: st.one_of(
        st.fixed_dictionaries(
            {"type": st.just("object"), "properties": st.dictionaries(st.text(max_size=3), inner)},
            optional={"required": st.just([]), "minProperties": st.just(1)},
        ),
        st.fixed_dictionaries({"type": st.just("array"), "items": inner, "maxItems": st.just(2)}),
        st.fixed_dictionaries({"anyOf": st.lists(inner, min_size=1, max_size=3)}),
    ),
    max_leaves=8,
)


@given(SCHEMAS)
def test_any_schema_is_one_that_anthropic_takes_and_stays_that_one(schema: Any) -> None:
    closed, _ = closed_schema(schema, "f")
    assert open_object(closed, all_required=False) is None
    assert bounded(closed) is None
    assert closed_schema(closed, "f") == (closed, [])


ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 2) | st.sampled_from(["object", "date", "a"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["type", "properties", "required", "items", "anyOf", "format", "minItems", "minimum",
             "additionalProperties", "patternProperties", "$defs", "description"]
        ),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@given(ANYTHING)
def test_a_schema_that_is_none_is_no_error_of_ours(schema: Any) -> None:
    assert is_exact({"properties": schema}) in (True, False)
    with contextlib.suppress(UntranslatableError):
        closed_schema({"type": "object", "properties": schema}, "f")
        closed_schema(schema if isinstance(schema, dict) else {}, "f")
