from __future__ import annotations

import argparse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.cli.addresses import address


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("127.0.0.1:8080", ("127.0.0.1", 8080)),
        ("localhost:0", ("localhost", 0)),
        ("0.0.0.0:65535", ("0.0.0.0", 65535)),
        ("[::1]:80", ("::1", 80)),
    ],
)
def test_host_and_port(text: str, wanted: tuple[str, int]) -> None:
    assert address(text) == wanted


@pytest.mark.parametrize(
    "text", ["", "8080", ":8080", "h:", "h:x", "h:-1", "h:65536", "h:١", "h:8 ", "::1:80", "[h]:80"]
)
def test_anything_else_is_named_in_the_error(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not HOST:PORT"):
        address(text)


@given(st.text())
def test_any_text_is_read_or_refused_never_a_crash(text: str) -> None:
    try:
        host, port = address(text)
    except argparse.ArgumentTypeError:
        return
    assert host
    assert 0 <= port <= 65535
