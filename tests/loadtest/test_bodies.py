from __future__ import annotations

import json

import pytest

from loadtest.bodies import (
    LARGE_BYTES,
    LARGE_MESSAGES,
    MEDIUM_BYTES,
    MEDIUM_MESSAGES,
    SMALL_BYTES,
    chat_body,
    http_request,
    small_requests,
)


@pytest.mark.parametrize(
    ("size", "messages"),
    [(SMALL_BYTES, 1), (MEDIUM_BYTES, MEDIUM_MESSAGES), (LARGE_BYTES, LARGE_MESSAGES)],
)
def test_a_body_has_its_size_and_its_messages(size: int, messages: int) -> None:
    body = chat_body(size, messages)
    assert len(body) == size
    turns = json.loads(body)["messages"]
    assert len(turns) == messages
    assert all(turn["content"] for turn in turns)


def test_a_body_that_cannot_be_so_small_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        chat_body(50, 34)


def test_a_request_frames_its_body() -> None:
    head, _, body = http_request(b"{}", 7).partition(b"\r\n\r\n")
    assert body == b"{}"
    assert b"Content-Length: 2" in head
    assert b"X-TFY-Session-ID: session-007" in head


def test_the_small_load_has_many_callers() -> None:
    assert len(set(small_requests())) == 256
