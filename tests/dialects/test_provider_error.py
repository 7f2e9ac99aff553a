"""Errors in any shape are some error, in the provider's words."""

from __future__ import annotations

import pytest

from extproc.dialects.answer import ProviderError
from extproc.dialects.provider_error import (
    MAX_MESSAGE_CHARACTERS,
    error_in,
    in_plain_words,
    kind_of_status,
    without_keys,
)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, "invalid_request"), (401, "authentication"), (413, "too_large"),
     (418, "invalid_request"),
     (429, "rate_limit"), (500, "api"), (503, "overloaded"), (504, "timeout"), (529, "overloaded")],
)  # fmt: skip
def test_a_status_says_what_it_means(status: int, kind: str) -> None:
    assert kind_of_status(status) == kind


def test_the_error_of_an_object_or_nothing() -> None:
    assert error_in(b'{"error": {"message": "x"}}') == {"message": "x"}
    assert error_in(b'{"error": "x"}') == "x"
    for body in (b"", b"<html>", b"[]", b"7", b"{}", b"\xff"):
        assert error_in(body) is None


def test_words_are_kept_up_to_a_length() -> None:
    assert in_plain_words(500, "api", "busy", b"{}") == ProviderError(500, "api", "busy")
    page = in_plain_words(502, "api", None, b"<html>\xff" + b"x" * 9_000)
    assert page.message.startswith("<html>\ufffdx")
    assert len(page.message) == MAX_MESSAGE_CHARACTERS


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("Incorrect API key: sk-proj-aB3*****xYz9.", "Incorrect API key: [credential]"),
        ("Authorization: Bearer 0123456789abcdef bad", "Authorization: [credential] bad"),
        ("token ya29.a0AfH6SM-x_y is expired", "token [credential] is expired"),
        ("key AIzaSyA-1234567890 is not valid", "key [credential] is not valid"),
        ("AKIDEXAMPLE, AKIAIOSFODNN7EXAMPLE", "AKIDEXAMPLE, [credential]"),
    ],
)  # fmt: skip
def test_I8_a_key_in_a_message_is_masked(said: str, told: str) -> None:
    error = ProviderError(401, "authentication", said, code="c")
    assert without_keys(error) == error._replace(message=told)


@pytest.mark.parametrize(
    "words",
    [
        "The model `anthropic.claude-haiku-4-5-20251001-v1:0` does not exist",
        "Bearer authentication is required",
        "max_tokens must be at most 64000 (req_011CSHoEeqs5C35K2UUqR7Fy)",
        "task-12345678 failed",
        "",
    ],
)
def test_other_words_are_kept(words: str) -> None:
    error = ProviderError(400, "invalid_request", words)
    assert without_keys(error) is error
