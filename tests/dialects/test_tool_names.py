"""Long names of tools become short ones that are told apart."""

from __future__ import annotations

from extproc.dialects.tool_names import MAX_NAME_CHARACTERS, short_name


def test_a_name_that_fits_stays() -> None:
    assert short_name("n" * MAX_NAME_CHARACTERS) == "n" * MAX_NAME_CHARACTERS


def test_longer_names_are_short_recognisable_and_different() -> None:
    one, other = "mcp__" + "n" * 90 + "1", "mcp__" + "n" * 90 + "2"
    assert len(short_name(one)) == MAX_NAME_CHARACTERS
    assert short_name(one).startswith("mcp__nnn")
    assert short_name(one) == short_name(one) != short_name(other)
