"""The first token of a stream, however its bytes are cut."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.core.first_token import MAX_HELD_BYTES, FirstToken
from extproc.values.dialect import Operation

CHAT, MESSAGES = Operation.CHAT_COMPLETIONS, Operation.MESSAGES
RESPONSES, COMPLETIONS = Operation.RESPONSES, Operation.COMPLETIONS


def chunk(delta: Any = None, finish: Any = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}


@pytest.mark.parametrize(
    ("operation", "event", "speaks"),
    [
        (CHAT, chunk({"role": "assistant", "content": ""}), False),
        (CHAT, chunk({"role": "assistant", "content": None, "tool_calls": None}), False),
        (CHAT, chunk({}), False),
        (CHAT, chunk(None), False),
        (CHAT, {"choices": [], "prompt_filter_results": []}, False),
        (CHAT, chunk({"content": "h"}), True),
        (CHAT, chunk({"reasoning_content": "h"}), True),
        (CHAT, chunk({"tool_calls": [{"index": 0}]}), True),
        (CHAT, chunk({}, "stop"), True),
        (CHAT, {"error": {"message": "no"}}, True),
        (CHAT, {"choices": [], "error": {"message": "no"}}, True),
        (CHAT, [], True),
        (CHAT, {"choices": 3}, True),
        (CHAT, {"choices": [3]}, True),
        (CHAT, {"choices": [{"delta": "h"}]}, True),
        (MESSAGES, {"type": ["ping"]}, True),
        (COMPLETIONS, {"choices": [{"text": ""}]}, False),
        (COMPLETIONS, {"choices": [{"text": "h"}]}, True),
        (MESSAGES, {"type": "message_start", "message": {}}, False),
        (MESSAGES, {"type": "ping"}, False),
        (MESSAGES, {"type": "content_block_start"}, True),
        (MESSAGES, {"type": "error"}, True),
        (RESPONSES, {"type": "response.created"}, False),
        (RESPONSES, {"type": "response.in_progress"}, False),
        (RESPONSES, {"type": "response.output_item.added"}, True),
        (RESPONSES, {"type": "response.failed"}, True),
        (RESPONSES, [1], True),
    ],
)
def test_what_counts(operation: Operation, event: Any, speaks: bool) -> None:
    assert FirstToken(operation).is_in(b"data: %b\n\n" % json.dumps(event).encode()) is speaks


def test_what_cannot_be_read_is_let_go() -> None:
    assert FirstToken(CHAT).is_in(b"data: [DONE]\n\n")
    assert FirstToken(CHAT).is_in(b"data: {\n\n")
    assert not FirstToken(CHAT).is_in(b": OPENROUTER PROCESSING\n\n")
    much = FirstToken(CHAT)
    assert not much.is_in(b":" + b"x" * (MAX_HELD_BYTES - 1))
    assert much.is_in(b"x")


@given(st.lists(st.integers(0, 200), max_size=6))
def test_how_the_bytes_are_cut_changes_nothing(cuts: list[int]) -> None:
    early = (
        b'event: message_start\ndata: {"type":"message_start"}\n\n: x\n\ndata: {"type":"ping"}\n\n'
    )
    token = b'data: {"type":"content_block_start"}\n\n'
    whole = early + token
    places = sorted({min(cut, len(whole)) for cut in cuts} | {0, len(whole)})
    looking = FirstToken(MESSAGES)
    for start, end in pairwise(places):
        assert looking.is_in(whole[start:end]) is (end == len(whole))
