"""Counts that translated answers are settled by: believed, or none."""

from __future__ import annotations

from typing import Any

import pytest

from extproc.dialects.usage import StreamedUsage, reported_usage, token_count
from extproc.values.dialect import Operation
from extproc.values.usage import TokenUsage

CHAT: dict[str, Any] = {"prompt_tokens": 3, "completion_tokens": 2}
ITEMS: dict[str, Any] = {"input_tokens": 3, "output_tokens": 2}
APIS = [
    (Operation.CHAT_COMPLETIONS, CHAT),
    (Operation.RESPONSES, ITEMS),
    (Operation.MESSAGES, ITEMS),
]


@pytest.mark.parametrize(("operation", "usage"), APIS)
def test_counts_are_read_and_what_cannot_be_believed_is_none(
    operation: Operation, usage: dict[str, Any]
) -> None:
    assert reported_usage(operation, usage) == TokenUsage(3, 2)
    assert reported_usage(operation, None) is None
    prompt, output = usage
    for wrong in ({**usage, output: -1}, {**usage, output: "2"}, {**usage, prompt: 0}):
        assert reported_usage(operation, wrong) is None


def test_a_count_is_a_number_of_tokens() -> None:
    assert token_count({"a": 7}, "a") == 7
    assert token_count({}, "a") == 0
    assert token_count({"a": 7}, "a", required=True) == 7
    with pytest.raises(ValueError, match="a"):
        token_count({}, "a", required=True)
    for wrong in (-1, 1.5, True, "7", 10**12):
        with pytest.raises(ValueError, match="a"):
            token_count({"a": wrong}, "a")


def test_F54_totals_of_a_stream_only_grow() -> None:
    usage = StreamedUsage()
    for report in (TokenUsage(3, 1), TokenUsage(3, 1), TokenUsage(4, 2)):
        usage.take(report)
        assert usage.latest == report
    usage.take(None)
    assert usage.latest is None
    usage.take(TokenUsage(4, 2))
    assert usage.latest == TokenUsage(4, 2)
    for report in (TokenUsage(4, 1), TokenUsage(9, 9)):
        usage.take(report)
        assert usage.latest is None


def test_F54_input_does_not_shrink_either() -> None:
    usage = StreamedUsage()
    usage.take(TokenUsage(4, 2))
    usage.take(TokenUsage(3, 2))
    assert usage.latest is None
