from __future__ import annotations

from typing import Any

import pytest

from extproc.demo.strict.shape import (
    BOOLEAN,
    INTEGER,
    NUMBER,
    TEXT,
    Misfit,
    Shape,
    anything,
    base64_text,
    bracketed,
    dotted,
    either,
    exactly_one,
    list_of,
    map_of,
    maybe,
    number,
    one_of,
    record,
    tagged,
    text,
)

PAIR = record({"a": TEXT}, {"b": INTEGER})
FITS: list[tuple[Shape, Any]] = [
    (anything, None),
    (PAIR, {"a": "x", "b": None}),
    (either(TEXT, list_of(TEXT)), ["x"]),
    (tagged({"x": anything}), {"type": "x"}),
    (tagged({"x": anything}, default="x"), {}),
    (exactly_one({"a": TEXT, "b": TEXT}, {"c": TEXT}), {"a": "x", "c": "y"}),
    (maybe(TEXT), None),
    (base64_text, "_-8="),
    (map_of(NUMBER), {"x": 1.5}),
    (number(0, 1), 1),
]
MISFITS: list[tuple[Shape, Any, str, str]] = [
    (TEXT, 1, "", "type"),
    (INTEGER, True, "", "type"),
    (BOOLEAN, 1, "", "type"),
    (PAIR, {"b": 1}, "a", "missing"),
    (PAIR, {"a": None}, "a", "missing"),
    (PAIR, {"a": "x", "c": 1}, "c", "unknown"),
    (PAIR, {"a": "x", "b": "1"}, "b", "type"),
    (PAIR, [], "", "type"),
    (record({}, {"a": TEXT}, null=False), {"a": None}, "a", "type"),
    (list_of(PAIR), [{"a": "x"}, {}], "1.a", "missing"),
    (list_of(TEXT, least=1), [], "", "value"),
    (list_of(TEXT, most=1), ["x", "y"], "", "value"),
    (either(TEXT, list_of(TEXT)), [1], "0", "type"),
    (either(TEXT, list_of(TEXT)), 1, "", "type"),
    (either(one_of("x"), PAIR), "y", "", "value"),
    (tagged({"x": anything}), {"type": "y"}, "type", "value"),
    (tagged({"x": anything}), {}, "type", "missing"),
    (exactly_one({"a": TEXT, "b": TEXT}), {"a": "x", "b": "y"}, "", "value"),
    (exactly_one({"a": TEXT, "b": TEXT}), {}, "", "value"),
    (base64_text, "a b", "", "value"),
    (base64_text, "", "", "value"),
    (map_of(NUMBER), {"x": "1"}, "x", "type"),
    (number(0, 1), 1.5, "", "value"),
    (number(1, whole=True), 0, "", "value"),
    (text("[a-z]+"), "aB", "", "value"),
    (text(most=2), "abc", "", "value"),
    (text(least=1), "", "", "value"),
]


@pytest.mark.parametrize(("shape", "value"), FITS)
def test_what_fits(shape: Shape, value: Any) -> None:
    shape(value, ())


@pytest.mark.parametrize(("shape", "value", "where", "why"), MISFITS)
def test_what_does_not_fit_says_where_and_why(
    shape: Shape, value: Any, where: str, why: str
) -> None:
    with pytest.raises(Misfit) as caught:
        shape(value, ())
    assert (dotted(caught.value.path), caught.value.why) == (where, why)


def test_paths_are_written_in_two_ways() -> None:
    path = ("messages", 0, "content", 1)
    assert dotted(path) == "messages.0.content.1"
    assert bracketed(path) == "messages[0].content[1]"
