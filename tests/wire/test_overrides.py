"""Fields that a policy sets otherwise, in the bytes of a body."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.wire.errors import WireError
from extproc.wire.overrides import Overrides, Params, overridden

BODY = b'{"model":"m", "temperature" : 0.70,"messages":[{"n":1.50}],"n":1}'
KEYS = st.text('abcdef\u00e9"\\', min_size=1, max_size=3)
VALUES = st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.lists(st.integers(0, 9)))


def test_what_is_not_named_stays_byte_for_byte() -> None:
    params = Params({"temperature": b"0", "seed": b"7"})
    assert overridden(BODY, params) == (
        b'{"model":"m", "temperature" : 0,"messages":[{"n":1.50}],"n":1,"seed":7}'
    )
    assert overridden(BODY, Params()) is BODY


def test_a_removed_field_is_gone_and_values_of_the_others_are_as_they_were() -> None:
    removed = overridden(BODY, Params({"temperature": None, "absent": None, "n": b"2"}))
    assert removed == b'{"model":"m","messages":[{"n":1.50}],"n":2}'
    assert overridden(b"{}", Params({"absent": None})) == b"{}"


def test_fields_inside_of_a_holder_are_set_one_by_one() -> None:
    params = Params(inside={"generationConfig": Params({"topK": b"4", "seed": None})})
    body = b'{"contents":[],"generationConfig":{"maxOutputTokens":9,"seed":1}}'
    assert json.loads(overridden(body, params)) == {
        "contents": [], "generationConfig": {"maxOutputTokens": 9, "topK": 4},
    }  # fmt: skip
    for absent in (b"{}", b'{"generationConfig":null}'):
        assert json.loads(overridden(absent, params)) == {"generationConfig": {"topK": 4}}
    with pytest.raises(WireError):
        overridden(b'{"generationConfig":[]}', params)


@given(st.dictionaries(KEYS, VALUES), st.dictionaries(KEYS, VALUES))
def test_it_is_what_a_dictionary_would_do_and_never_longer_than_promised(
    body: dict[str, Any], changes: dict[str, Any]
) -> None:
    fields = {
        key: None if value is None else json.dumps(value).encode() for key, value in changes.items()
    }
    text = json.dumps(body).encode()
    made = overridden(text, Params(fields))
    kept = {key: value for key, value in body.items() if fields.get(key, b"") is not None}
    assert json.loads(made) == kept | {k: v for k, v in changes.items() if v is not None}
    grown = Params(fields).added_bytes
    # A key outside ASCII is written in UTF-8: shorter than its escape, longer than its letters.
    assert len(made) <= len(text) + grown + sum(2 * len(key) for key in changes)


def test_without_the_fields_the_headers_remain() -> None:
    whole = Overrides(Params({"a": b"1"}), (("x", "1"),), ("y",))
    assert whole.headers_only == Overrides(Params(), (("x", "1"),), ("y",))
