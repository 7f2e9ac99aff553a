"""Free text in a function's field: whatever the cut, what arrives is what the model wrote."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.dialects.openai_responses.free_text import FreeText, arguments_of, text_of

PATCH = '*** Begin Patch\n*** Add File: é.txt\n+"quoted" \\ 😀\u2028\n*** End Patch'


def pieces(arguments: str, step: int) -> tuple[list[str], str]:
    reader = FreeText()
    given = [reader.feed(arguments[at : at + step]) for at in range(0, len(arguments), step)]
    return given, reader.rest(text_of(arguments))


@given(st.text(), st.integers(1, 9), st.booleans())
def test_the_text_arrives_whole_in_any_cut(text: str, step: int, ascii_only: bool) -> None:
    arguments = json.dumps({"input": text}, ensure_ascii=ascii_only, indent=step % 3 or None)
    given, rest = pieces(arguments, step)
    assert "".join(given) + rest == text == text_of(arguments)
    assert rest == ""


def test_nothing_is_held_back_but_half_an_escape() -> None:
    reader = FreeText()
    fed = [reader.feed(piece) for piece in ('{"inp', 'ut": "a', "b\\", "nc\\ud83d", '\\ude00"}')]
    assert fed == ["", "a", "b", "\nc", "😀"]


def test_there_and_back() -> None:
    assert text_of(arguments_of(PATCH)) == PATCH


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("", ""),
        ("{}", ""),
        ('{"patch": "x"}', "x"),  # another name for the only field
        ('{"input": "a\nb"}', "a\nb"),  # a line break that was not escaped
        ('{"input": "\\ud800"}', "?"),  # half a character
        ('{"a": 1}', '{"a": 1}'),
        ('{"a": "x", "b": "y"}', '{"a": "x", "b": "y"}'),
        ("*** Begin Patch", "*** Begin Patch"),
        ('"x"', '"x"'),
        ('{"input": "cut', '{"input": "cut'),
    ],
)
def test_what_models_write_instead(arguments: str, text: str) -> None:
    assert text_of(arguments) == text
    given, rest = pieces(arguments, 3)
    assert ("".join(given) + rest == text) or arguments.endswith("cut")
