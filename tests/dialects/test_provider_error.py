"""Errors in any shape are some error, in the provider's words."""

from __future__ import annotations

import pytest

from extproc.dialects.answer import ProviderError
from extproc.dialects.provider_error import (
    MAX_MESSAGE_CHARACTERS,
    error_in,
    in_plain_words,
    kind_of_status,
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
