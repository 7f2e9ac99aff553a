"""Nothing of a request is lost in silence, and every error names the caller's own field."""

from __future__ import annotations

import pytest

from extproc.dialects import fields
from extproc.dialects.conversation import UntranslatableError
from extproc.dialects.fields import Fields, read_object
from extproc.wire.errors import WireError


def test_values_are_read_by_type_and_null_is_absent() -> None:
    read = read_object(
        b'{"t":"x","i":3,"n":1.5,"b":true,"o":{"k":1},"l":[{"a":"b"}],"s":["p","q"],"z":null}'
    )
    assert (read.text("t"), read.integer("i"), read.number("n")) == ("x", 3, 1.5)
    assert read.boolean("b") is True
    inner = read.object("o")
    assert inner is not None
    assert (inner.path, inner.integer("k")) == ("o", 1)
    assert [item.text("a") for item in read.objects("l")] == ["b"]
    assert read.texts("s") == ["p", "q"]
    assert (read.text("z", "d"), read.texts("none"), "z" in read) == ("d", [], False)
    read.done()


@pytest.mark.parametrize(
    ("method", "value"),
    [
        ("text", 1),
        ("integer", True),
        ("integer", 1.0),
        ("number", "1"),
        ("boolean", 0),
        ("object", []),
        ("json", 1),
        ("texts", {}),
        ("texts", [1]),
    ],
)
def test_another_type_is_refused_by_path(method: str, value: object) -> None:
    read = Fields({"k": value}, "messages[1]")
    with pytest.raises(WireError) as caught:
        getattr(read, method)("k")
    assert caught.value.refusal.param == "messages[1].k"


def test_what_nobody_read_is_refused_by_its_path() -> None:
    (message,) = Fields({"messages": [{"role": "user", "odd": 1}]}, "").objects("messages")
    message.text("role")
    assert message.rest() == {"odd": 1}
    with pytest.raises(UntranslatableError) as caught:
        message.done()
    assert caught.value.param == "messages[0].odd"


def test_a_body_that_is_no_object_and_lists_without_end_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for body in (b"", b"[]", b"{", b"1"):
        with pytest.raises(WireError):
            read_object(body)
    monkeypatch.setattr(fields, "MAX_ITEMS", 2)
    with pytest.raises(WireError, match="more than 2"):
        list(Fields({"l": [{}, {}, {}]}, "").objects("l"))
    with pytest.raises(WireError, match="required"):
        Fields({}, "").needed_text("id")
