from __future__ import annotations

from extproc.demo.strict.schemas import bounded, open_object

CLOSED = {
    "type": "object",
    "properties": {"a": {"type": "string"}},
    "required": ["a"],
    "additionalProperties": False,
}


def test_closed_schemas_pass() -> None:
    nested = {**CLOSED, "properties": {"a": {"type": "array", "items": CLOSED}}}
    assert open_object(nested, all_required=True) is None
    assert open_object({"anyOf": [{"type": "string"}, CLOSED]}, all_required=True) is None


def test_open_objects_are_found_wherever_they_are() -> None:
    bare = {"type": "object", "properties": {}}
    assert open_object(bare, all_required=False) == ((), "")
    for path, schema in (
        (("properties", "a"), {**CLOSED, "properties": {"a": bare}}),
        (("items",), {"type": "array", "items": bare}),
        (("anyOf", "1"), {"anyOf": [CLOSED, bare]}),
        (("$defs", "x"), {**CLOSED, "$defs": {"x": bare}}),
    ):
        found = open_object(schema, all_required=False)
        assert found is not None
        assert found.context == path


def test_every_property_must_be_required_where_asked() -> None:
    loose = {**CLOSED, "required": []}
    assert open_object(loose, all_required=True) == ((), "a")
    assert open_object(loose, all_required=False) is None


def test_bounds_are_found_wherever_they_are() -> None:
    assert bounded(CLOSED) is None
    assert bounded({"type": "array", "items": {}, "minItems": 1}) is None
    assert bounded({"type": "array", "items": {}, "minItems": 2}) == ("array", "minItems")
    number = {"type": "number", "multipleOf": 2}
    for schema in (
        {**CLOSED, "properties": {"a": number}},
        {"type": "array", "items": {"anyOf": [CLOSED, number]}},
        {**CLOSED, "$defs": {"x": number}},
    ):
        assert bounded(schema) == ("number", "multipleOf")
