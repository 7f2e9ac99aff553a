from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from extproc.demo.sample import sample

SCHEMAS: list[dict[str, Any]] = [
    {"type": "object", "properties": {"a": {"type": "string"}, "b": {}}, "required": ["a"]},
    {"type": "object", "properties": {"a": {"type": "integer"}}},
    {"type": "array", "items": {"type": "number", "minimum": 3}, "minItems": 2},
    {"enum": ["x", "y"]},
    {"const": 7},
    {"anyOf": [{"type": "null"}, {"type": "string"}]},
    {"allOf": [{"type": "object", "required": ["a"]}, {"type": "object", "required": ["b"]}]},
    {"type": ["boolean", "null"]},
    {"type": "string", "minLength": 20},
    {"type": "string", "maxLength": 2},
    {"type": "integer", "exclusiveMinimum": 4, "maximum": 9},
    {"type": "string", "format": "date-time"},
    {"$defs": {"a": {"type": "integer"}}, "properties": {"b": {"$ref": "#/$defs/a"}}},
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=str)
def test_a_sample_follows_its_schema(schema: dict[str, Any]) -> None:
    jsonschema.validate(sample(schema), schema)


def test_googles_upper_case_types_and_schemas_that_hold_themselves() -> None:
    assert sample({"type": "OBJECT", "properties": {"n": {"type": "NUMBER"}}}) == {"n": 1}
    assert sample({"$ref": "#"}, "deep") == "deep"
    assert sample({"$ref": "#/nowhere"}) == "sample"
