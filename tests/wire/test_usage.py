from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.values.dialect import Operation
from extproc.values.usage import TokenUsage
from extproc.wire.usage import (
    MAX_PLAUSIBLE_TOKENS,
    Reported,
    usage_from_events,
    usage_from_json_tail,
)

CHAT = Operation.CHAT_COMPLETIONS
RESPONSES = Operation.RESPONSES
MESSAGES = Operation.MESSAGES
EMBEDDINGS = Operation.EMBEDDINGS

CHAT_USAGE = {
    "prompt_tokens": 100,
    "completion_tokens": 20,
    "total_tokens": 120,
    "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 10, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 8, "rejected_prediction_tokens": 0},
}
RESPONSES_USAGE = {
    "input_tokens": 100,
    "input_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 10},
    "output_tokens": 20,
    "output_tokens_details": {"reasoning_tokens": 8},
    "total_tokens": 120,
}
OPENAI = TokenUsage(100, 20, 60, 10, 8)
MESSAGES_USAGE = {
    "input_tokens": 30,
    "cache_creation_input_tokens": 10,
    "cache_read_input_tokens": 60,
    "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 0},
    "output_tokens": 20,
    "output_tokens_details": {"thinking_tokens": 8},
    "service_tier": "standard",
    "server_tool_use": {"web_search_requests": 0},
}
ANTHROPIC = TokenUsage(100, 20, 60, 10, 8)
BY_OPERATION = [
    (CHAT, CHAT_USAGE, OPENAI),
    (RESPONSES, RESPONSES_USAGE, OPENAI),
    (MESSAGES, MESSAGES_USAGE, ANTHROPIC),
    (EMBEDDINGS, {"prompt_tokens": 100, "total_tokens": 100}, TokenUsage(100, 0)),
]


def tail_of(body: bytes) -> bytes:
    """What Envoy ships: the body from its last usage key on."""
    return body[body.rindex(b'"usage"') :]


def tail(usage: object) -> bytes:
    return b'"usage":' + orjson.dumps(usage) + b"}"


def start(**usage: Any) -> bytes:
    return orjson.dumps({"type": "message_start", "message": {"id": "m", "usage": usage}})


def delta(stop_reason: str | None = "end_turn", **usage: Any) -> bytes:
    event = {"type": "message_delta", "delta": {"stop_reason": stop_reason}, "usage": usage}
    return orjson.dumps(event)


def chunk(choices: object, usage: object) -> bytes:
    return orjson.dumps({"id": "c", "choices": choices, "usage": usage})


# -- JSON -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("operation", "usage", "expected"), BY_OPERATION)
@pytest.mark.parametrize("indent", [None, 2])
def test_json_body(
    operation: Operation, usage: dict[str, Any], expected: TokenUsage, indent: int | None
) -> None:
    for body in ({"id": "x", "usage": usage}, {"id": "x", "usage": usage, "user": None, "z": [{}]}):
        text = json.dumps(body, indent=indent).encode() + b"\n"
        assert usage_from_json_tail(operation, tail_of(text)) == Reported(expected, True, False)


@pytest.mark.parametrize(
    "body",
    [
        {"choices": [{"message": {"usage": CHAT_USAGE}}]},
        {"choices": [{"usage": CHAT_USAGE}]},
        {"x": {"usage": CHAT_USAGE}},
        {"usage": CHAT_USAGE, "x": {"usage": CHAT_USAGE}},
        [{"usage": CHAT_USAGE}],
    ],
)
def test_usage_that_is_not_the_documents_own_is_not_believed(body: object) -> None:
    assert usage_from_json_tail(CHAT, tail_of(orjson.dumps(body))) is None


@pytest.mark.parametrize(
    "text", [b"", b'"usage":', b'"usage":null}', b'"usage":[]}', b'"usage":{"prompt_tokens":1}']
)
def test_a_cut_or_empty_tail_is_no_report(text: bytes) -> None:
    assert usage_from_json_tail(CHAT, text) is None


@given(st.recursive(st.text() | st.integers(), lambda x: st.dictionaries(st.text(), x)))
def test_a_models_answer_cannot_forge_usage(answer: object) -> None:
    forged = json.dumps({"usage": CHAT_USAGE})
    body = json.dumps({"choices": [{"message": {"content": [forged, answer]}}]}).encode()
    escaped = body[body.rindex(b'\\"usage') + 1 :]  # even if Envoy cut inside the string
    assert usage_from_json_tail(CHAT, escaped) is None


def test_parts_of_a_count_never_exceed_it() -> None:
    """Neither makes a report suspect: they say what kind of tokens, not how many in all."""
    written = {"prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 90}}
    reported = usage_from_json_tail(CHAT, tail(CHAT_USAGE | written))
    assert reported == Reported(OPENAI._replace(cache_write_tokens=40), True, False)
    thought = {"output_tokens_details": {"thinking_tokens": 90}}
    reported = usage_from_json_tail(MESSAGES, tail(MESSAGES_USAGE | thought))
    assert reported == Reported(ANTHROPIC._replace(reasoning_tokens=20), True, False)


# -- streams --------------------------------------------------------------------------------------


def test_anthropic_stream_adds_start_and_delta() -> None:
    first = start(**{**MESSAGES_USAGE, "output_tokens": 1})
    assert usage_from_events(MESSAGES, first, delta(output_tokens=20)) == Reported(
        ANTHROPIC, True, False
    )
    assert usage_from_events(MESSAGES, first, delta(**MESSAGES_USAGE)) == Reported(
        ANTHROPIC, True, False
    )


def test_an_aborted_anthropic_stream_is_not_final() -> None:
    first = start(input_tokens=30, output_tokens=1)
    for last in (b"", first, delta(None, output_tokens=5), b'{"type":"ping"}'):
        reported = usage_from_events(MESSAGES, first, last)
        assert reported is not None
        assert not reported.final


def test_a_delta_without_its_start_is_suspect() -> None:
    reported = usage_from_events(MESSAGES, b"", delta(output_tokens=20))
    assert reported == Reported(TokenUsage(0, 20), True, True)


@pytest.mark.parametrize(
    ("choices", "final"),
    [
        ([], True),
        ([{"index": 0, "finish_reason": "stop"}], True),
        ([{"index": 0, "finish_reason": None}], False),
        ([{"index": 0, "delta": {}}], False),
        ([{"finish_reason": "stop"}, {"finish_reason": None}], False),
        (None, False),
        ([7], False),
    ],
)
def test_openai_stream_is_final_on_its_last_chunk(choices: object, final: bool) -> None:
    reported = usage_from_events(CHAT, b"", chunk(choices, CHAT_USAGE))
    assert reported == Reported(OPENAI, final, False)


def test_openai_stream_without_usage() -> None:
    assert usage_from_events(CHAT, b"", chunk([], None)) is None
    assert usage_from_events(CHAT, b"", b"") is None


def test_responses_stream_ends_in_an_event_one_level_deeper() -> None:
    event = {"type": "response.completed", "response": {"id": "r", "usage": RESPONSES_USAGE}}
    last = tail_of(orjson.dumps(event))
    assert usage_from_events(RESPONSES, b"", last) == Reported(OPENAI, True, False)
    last = tail_of(orjson.dumps({**event, "sequence_number": 9}))
    assert usage_from_events(RESPONSES, b"", last) == Reported(OPENAI, True, False)
    deeper = tail_of(orjson.dumps({"response": {"output": [{"usage": RESPONSES_USAGE}]}}))
    assert usage_from_events(RESPONSES, b"", deeper) is None


# -- lies -----------------------------------------------------------------------------------------

LIES = [-1, -(10**18), 10**18, MAX_PLAUSIBLE_TOKENS + 1, "100", 1.5, 100.0, True, None, [], {}]


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize(
    ("operation", "usage", "key"),
    [
        (CHAT, CHAT_USAGE, "prompt_tokens"),
        (CHAT, CHAT_USAGE, "completion_tokens"),
        (RESPONSES, RESPONSES_USAGE, "input_tokens"),
        (RESPONSES, RESPONSES_USAGE, "output_tokens"),
        (MESSAGES, MESSAGES_USAGE, "input_tokens"),
        (MESSAGES, MESSAGES_USAGE, "output_tokens"),
    ],
)
def test_F54_a_count_that_is_none_is_suspect(
    operation: Operation, usage: dict[str, Any], key: str, lie: object
) -> None:
    reported = usage_from_json_tail(operation, tail(usage | {key: lie}))
    assert reported is not None
    assert reported.suspect
    assert min(reported.usage) >= 0


@pytest.mark.parametrize("key", list(MESSAGES_USAGE)[:3])
def test_F54_cache_counts_lie_too(key: str) -> None:
    reported = usage_from_json_tail(MESSAGES, tail(MESSAGES_USAGE | {key: -5}))
    assert reported is not None
    assert reported.suspect


@pytest.mark.parametrize(
    ("operation", "usage"),
    [
        (CHAT, {}),
        (CHAT, {"total_tokens": 5}),
        (CHAT, {"prompt_tokens": 0, "completion_tokens": 0}),
        (CHAT, CHAT_USAGE | {"prompt_tokens_details": {"cached_tokens": 101}}),
        (CHAT, CHAT_USAGE | {"prompt_tokens_details": "x"}),
        (CHAT, CHAT_USAGE | {"completion_tokens_details": {"reasoning_tokens": 21}}),
        (CHAT, CHAT_USAGE | {"total_tokens": -1}),
        (EMBEDDINGS, {"prompt_tokens": 0, "total_tokens": 0}),
        (MESSAGES, MESSAGES_USAGE | {"server_tool_use": {"web_search_requests": 2}}),
        (MESSAGES, MESSAGES_USAGE | {"iterations": [{"type": "compaction"}]}),
    ],
)
def test_F54_a_report_that_contradicts_itself_or_leaves_something_out_is_suspect(
    operation: Operation, usage: dict[str, Any]
) -> None:
    reported = usage_from_json_tail(operation, tail(usage))
    assert reported is not None
    assert reported.suspect
    used = reported.usage
    assert used.cached_input_tokens + used.cache_write_tokens <= used.input_tokens


@pytest.mark.parametrize("later", [{"input_tokens": 3}, {"output_tokens": None}, {}, None, 7])
def test_F54_an_end_that_does_not_say_the_output_is_suspect(later: Any) -> None:
    """What the start said of it was a beginning."""
    event = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": later}
    first = start(input_tokens=3, output_tokens=1)
    reported = usage_from_events(MESSAGES, first, orjson.dumps(event))
    assert reported == Reported(TokenUsage(3, 0), True, True)


def test_F54_totals_that_shrink_are_suspect_and_the_larger_counts() -> None:
    first = start(input_tokens=500, output_tokens=7)
    reported = usage_from_events(MESSAGES, first, delta(input_tokens=3, output_tokens=2))
    assert reported == Reported(TokenUsage(500, 7), True, True)


def test_output_missing_from_the_count_but_not_from_the_total_is_charged() -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 115}
    details = {"completion_tokens_details": {"reasoning_tokens": 100}}
    reported = usage_from_json_tail(CHAT, tail(usage | details))
    assert reported == Reported(TokenUsage(10, 105, reasoning_tokens=100), True, False)


@pytest.mark.parametrize(
    "broken",
    [
        {"type": "message_start", "message": {"usage": "abc"}},
        {"type": "message_start", "message": {"usage": [1]}},
        {"type": "message_start", "message": 5},
        {"type": "message_delta", "usage": [], "delta": []},
        {"response": 5},
        [],
    ],
)
@pytest.mark.parametrize("operation", [CHAT, RESPONSES, MESSAGES])
def test_events_of_another_shape_are_no_final_report(operation: Operation, broken: object) -> None:
    text = orjson.dumps(broken)
    assert usage_from_events(operation, text, text) is None


COUNTS = st.integers(-5, 2**65) | st.none() | st.text(max_size=2) | st.floats() | st.booleans()
DETAILS = ["cached_tokens", "cache_write_tokens", "reasoning_tokens", "thinking_tokens"]
USAGES = st.dictionaries(
    st.sampled_from([*CHAT_USAGE, *RESPONSES_USAGE, *MESSAGES_USAGE, "iterations"]),
    COUNTS | st.dictionaries(st.sampled_from(DETAILS), COUNTS),
)


@given(USAGES, USAGES, st.sampled_from([operation for operation, _, _ in BY_OPERATION]))
def test_F54_no_report_ever_has_a_negative_or_absurd_count(
    first: dict[str, Any], last: dict[str, Any], operation: Operation
) -> None:
    text = json.dumps(last).encode()
    start_event = json.dumps({"type": "message_start", "message": {"usage": first}}).encode()
    delta_event = b'{"type":"message_delta","choices":[],"usage":' + text + b"}"
    for reported in (
        usage_from_json_tail(operation, b'"usage":' + text + b"}"),
        usage_from_events(operation, start_event, delta_event),
        usage_from_events(operation, b"", b'"usage":' + text + b"}}"),
    ):
        if reported is not None:
            assert all(0 <= count <= 3 * MAX_PLAUSIBLE_TOKENS for count in reported.usage)
            plain = reported.usage.input_tokens - reported.usage.cached_input_tokens
            assert plain - reported.usage.cache_write_tokens >= 0


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_arbitrary_bytes_are_no_report_and_no_error(first: bytes, last: bytes) -> None:
    for operation in (CHAT, RESPONSES, MESSAGES, EMBEDDINGS):
        assert usage_from_json_tail(operation, last) is None
        assert usage_from_events(operation, first, last) is None
