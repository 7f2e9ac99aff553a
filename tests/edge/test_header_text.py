"""No text breaks out of a header."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from extproc.edge.header_text import MAX_HEADER_CHARACTERS, header_text, safe_text, set_headers
from extproc.pb import extproc_pb2 as pb


@given(st.text(max_size=50))
def test_F45_no_text_ends_its_header(text: str) -> None:
    for value in (safe_text(f"a\r\nx: y\0{text}"), header_text(f"a\r\nx: y\0{text}")):
        assert not set("\r\n\0") & set(value)
        assert value.startswith("ax: y")


def test_what_is_for_people_is_cut_and_what_is_sent_on_is_not() -> None:
    long = "x" * (MAX_HEADER_CHARACTERS + 1)
    assert header_text(long) == long[:-1]
    assert safe_text(long) == long


def test_a_header_takes_the_place_of_one_that_is_there() -> None:
    mutation = pb.HeaderMutation()
    set_headers(mutation, [("a", "1"), ("b", "2")])
    said = [(o.header.key, o.header.raw_value, o.append_action) for o in mutation.set_headers]
    assert said == [("a", b"1", 2), ("b", b"2", 2)]
