"""Errors in any shape are some error, in the provider's words."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import anthropic
import httpx2
import openai
import pytest

from extproc.demo.errors import error_document
from extproc.dialects.answer import ProviderError
from extproc.dialects.anthropic.dialect import AnthropicMessages
from extproc.dialects.bedrock.dialect import Converse
from extproc.dialects.codec import Context, TargetDialect
from extproc.dialects.gemini.dialect import Gemini
from extproc.dialects.openai_chat.dialect import OpenAiChat
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


class Asked(NamedTuple):
    """What a caller's SDK raises for a status, and the type that its body names."""

    raised: type[Exception]
    kind: str


OPENAI_RAISES = {
    400: Asked(openai.BadRequestError, "invalid_request_error"),
    401: Asked(openai.AuthenticationError, "invalid_request_error"),
    403: Asked(openai.PermissionDeniedError, "invalid_request_error"),
    404: Asked(openai.NotFoundError, "invalid_request_error"),
    408: Asked(openai.APIStatusError, "server_error"),
    413: Asked(openai.APIStatusError, "invalid_request_error"),
    429: Asked(openai.RateLimitError, "rate_limit_error"),
    500: Asked(openai.InternalServerError, "server_error"),
    503: Asked(openai.InternalServerError, "server_error"),
    504: Asked(openai.InternalServerError, "server_error"),
    529: Asked(openai.InternalServerError, "server_error"),
}
ANTHROPIC_RAISES = {
    400: Asked(anthropic.BadRequestError, "invalid_request_error"),
    401: Asked(anthropic.AuthenticationError, "authentication_error"),
    403: Asked(anthropic.PermissionDeniedError, "permission_error"),
    404: Asked(anthropic.NotFoundError, "not_found_error"),
    408: Asked(anthropic.APIStatusError, "timeout_error"),
    413: Asked(anthropic.APIStatusError, "request_too_large"),
    429: Asked(anthropic.RateLimitError, "rate_limit_error"),
    500: Asked(anthropic.InternalServerError, "api_error"),
    503: Asked(anthropic.InternalServerError, "overloaded_error"),
    504: Asked(anthropic.InternalServerError, "timeout_error"),
    529: Asked(anthropic.InternalServerError, "overloaded_error"),
}
TARGETS: dict[str, TargetDialect] = {
    "openai": OpenAiChat(),
    "anthropic": AnthropicMessages(),
    "gemini": Gemini(),
    "bedrock": Converse(),
}


def answering(status: int, body: bytes) -> httpx2.Client:
    """A client of the SDKs whose server answers this."""
    headers = {"content-type": "application/json"}
    return httpx2.Client(
        transport=httpx2.MockTransport(
            lambda _: httpx2.Response(status, headers=headers, content=body)
        )
    )


@pytest.mark.parametrize("bare", [False, True], ids=["said", "bare"])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("status", OPENAI_RAISES)
def test_every_status_of_every_api_raises_the_sdks_typed_error(
    status: int, target: str, bare: bool
) -> None:
    """In the API's own words, and with no words at all: a load balancer's empty 503 too."""
    document = error_document(target, status, "the words")  # type: ignore[arg-type]
    error = TARGETS[target].read_error(status, b"" if bare else json.dumps(document).encode())
    context = Context("r1", 0, "m")
    body = OpenAiChat().write_error(error, context)
    ours = openai.OpenAI(api_key="k", max_retries=0, http_client=answering(status, body))
    expected = OPENAI_RAISES[status]
    with pytest.raises(expected.raised) as raised:
        ours.chat.completions.create(model="m", messages=[])
    told: Any = raised.value
    assert told.type == expected.kind
    assert bare or told.body["message"] == "the words"

    body = AnthropicMessages().write_error(error, context)
    theirs = anthropic.Anthropic(api_key="k", max_retries=0, http_client=answering(status, body))
    expected = ANTHROPIC_RAISES[status]
    with pytest.raises(expected.raised) as raised:
        theirs.messages.create(model="m", max_tokens=1, messages=[])
    told = raised.value
    assert told.body["error"]["type"] == expected.kind
    assert bare or told.body["error"]["message"] == "the words"
