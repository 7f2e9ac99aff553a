"""Ids of tool calls: what travels in them, and a short form that never changes."""

from __future__ import annotations

import base64
import re

from hypothesis import given
from hypothesis import strategies as st

from extproc.wire.call_ids import (
    FOREIGN,
    fitting_call_id,
    marked_call_id,
    signed_call_id,
    split_call_id,
)

PLAIN = re.compile(r"[A-Za-z0-9_-]+")
IDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=80)


@given(IDS.filter(lambda name: FOREIGN not in name), st.binary(max_size=200))
def test_a_signature_travels_in_the_id_and_is_taken_out_again(name: str, raw: bytes) -> None:
    signature = base64.b64encode(raw).decode()
    assert split_call_id(signed_call_id(name, signature)) == (name, signature)
    assert split_call_id(marked_call_id(name)) == (name, "")


def test_a_signed_or_marked_id_is_one_that_every_vendor_takes_and_is_marked_once() -> None:
    signature = base64.b64encode(bytes(range(250, 256)) * 9).decode()
    name = signed_call_id("call_1", signature)
    assert PLAIN.fullmatch(name)
    assert marked_call_id(name) == name
    assert marked_call_id(marked_call_id("a")) == marked_call_id("a")


def test_what_is_no_signature_stays_as_it_is() -> None:
    assert signed_call_id("a", "") == "a"
    assert signed_call_id("a", "no base64!") == "a"
    assert split_call_id(FOREIGN + "QQ") == (FOREIGN + "QQ", "")
    assert split_call_id(f"a{FOREIGN}Q")[0].startswith("a")


@given(IDS, st.integers(37, 100))
def test_every_id_fits_and_one_that_did_is_left_as_it_was(name: str, most: int) -> None:
    short = fitting_call_id(name, most, plain=True)
    assert len(short) <= most
    assert PLAIN.fullmatch(short)
    assert short == fitting_call_id(name, most, plain=True)  # call and result, now and later
    assert short == fitting_call_id(short, most, plain=True)
    if PLAIN.fullmatch(name) and len(name) <= most:
        assert short == name


def test_ids_that_differ_stay_different() -> None:
    long = [f"toolu_{'x' * 60}{number}" for number in range(100)]
    assert len({fitting_call_id(name, 40) for name in long}) == 100
    assert fitting_call_id("a.b:c", 40) == "a.b:c"
    assert fitting_call_id("a.b:c", 40, plain=True) != "a.b:c"
