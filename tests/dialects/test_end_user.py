"""Long names of end users are cut to size so that nobody becomes somebody else."""

from __future__ import annotations

from extproc.dialects.end_user import ANTHROPIC_CHARACTERS, OPENAI_CHARACTERS, end_user_id


def test_a_name_that_fits_stays() -> None:
    assert end_user_id("u" * OPENAI_CHARACTERS, OPENAI_CHARACTERS) == "u" * OPENAI_CHARACTERS
    assert end_user_id("", ANTHROPIC_CHARACTERS) == ""


def test_a_longer_one_is_told_from_every_other_and_always_the_same() -> None:
    one, other = "u" * 300 + "1", "u" * 300 + "2"
    assert len(end_user_id(one, OPENAI_CHARACTERS)) == OPENAI_CHARACTERS
    assert end_user_id(one, OPENAI_CHARACTERS) == end_user_id(one, ANTHROPIC_CHARACTERS)
    assert end_user_id(one, OPENAI_CHARACTERS) != end_user_id(other, OPENAI_CHARACTERS)
    assert end_user_id("\ud800" * 65, OPENAI_CHARACTERS)
