"""The shared model is plain data, and says what could not be translated by the caller's words."""

from __future__ import annotations

from extproc.dialects.conversation import Conversation, Role, Text, Turn, UntranslatableError


def test_what_cannot_be_said_names_the_callers_field() -> None:
    error = UntranslatableError("messages[2].content[0]", "audio has no equal here")
    assert (error.param, str(error)) == (
        "messages[2].content[0]",
        "messages[2].content[0]: audio has no equal here",
    )


def test_two_conversations_share_nothing_by_default() -> None:
    one, two = (Conversation("m", [Turn(Role.USER, [Text("x")])]) for _ in range(2))
    one.dropped.append("seed")
    one.extra["a"] = 1
    assert one != two
    assert (two.dropped, two.extra) == ([], {})
