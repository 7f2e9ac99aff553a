"""What another vendor left in a conversation is edited out, and not a byte more."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.demo.signatures import sign
from extproc.demo.strict import anthropic_messages, openai_chat
from extproc.values.dialect import Operation
from extproc.wire.call_ids import FOREIGN, marked_call_id, signed_call_id
from extproc.wire.inference_request import parse_inference_request, rewrite
from extproc.wire.vendor_change import MARK, MAX_OBJECTS, NO_CHANGE, Change, change_of

FOREIGN_THOUGHT = {"type": "thinking", "thinking": "hm", "signature": f"{FOREIGN}google.QQ"}
REDACTED = {"type": "redacted_thinking", "data": f"{FOREIGN}openai.redacted.x"}
OWN_THOUGHT = {"type": "thinking", "thinking": "so", "signature": sign("anthropic", "so")}
ENABLED = {"type": "enabled", "budget_tokens": 1_024}
CALL = {"type": "tool_use", "id": marked_call_id("call_1"), "name": "f", "input": {"n": 1}}
OWN_CALL = {**CALL, "id": "toolu_1"}
TOOLS = [{"name": "f", "input_schema": {"type": "object"}}]
ASK = {"role": "user", "content": "hi"}


def assistant(*blocks: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def result(call: dict[str, Any]) -> dict[str, Any]:
    block = {"type": "tool_result", "tool_use_id": call["id"], "content": "1"}
    return {"role": "user", "content": [block]}


def messages(*turns: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 4_000, "messages": list(turns), "tools": TOOLS, **fields}


def changed(body: dict[str, Any], operation: Operation = Operation.MESSAGES) -> Change:
    return change_of(parse_inference_request(operation, orjson.dumps(body)))


def sent(body: dict[str, Any], operation: Operation = Operation.MESSAGES) -> dict[str, Any]:
    """As the caller's own vendor gets it, which must take it."""
    request = parse_inference_request(operation, orjson.dumps(body))
    written: dict[str, Any] = json.loads(
        rewrite(request, "claude-opus-4-6", None, False, change_of(request).edits)
    )
    if operation is Operation.MESSAGES:
        anthropic_messages.check(json.loads(json.dumps(written)), beta=True)
    return written


def test_foreign_thoughts_are_left_out_and_claudes_stay() -> None:
    said = {"type": "text", "text": "well"}
    body = messages(
        ASK, assistant(FOREIGN_THOUGHT, REDACTED, said), ASK, assistant(OWN_THOUGHT, said), ASK,
        thinking=ENABLED,
    )  # fmt: skip
    written = sent(body)
    assert written["messages"][1]["content"] == [said]
    assert written["messages"][3]["content"] == [OWN_THOUGHT, said]
    assert written["thinking"] == ENABLED
    assert changed(body).dropped == ("messages.thinking",)


def test_a_message_of_foreign_thoughts_only_is_left_out() -> None:
    written = sent(
        messages(ASK, assistant(FOREIGN_THOUGHT), ASK, assistant({"type": "text", "text": "y"}))
    )
    assert [message["role"] for message in written["messages"]] == ["user", "user", "assistant"]


@pytest.mark.parametrize(
    "turns",
    [
        (ASK, assistant(FOREIGN_THOUGHT, CALL), result(CALL)),
        (ASK, assistant(CALL), result(CALL)),
        (ASK, assistant(CALL), result(CALL), assistant(OWN_CALL), result(OWN_CALL)),
        (ASK, assistant(CALL), result(CALL), {"role": "user", "content": "and?"}),
        (
            ASK, assistant({"type": "text", "text": "I look."}), assistant(OWN_THOUGHT, CALL),
            result(CALL),
        ),
    ],
)  # fmt: skip
def test_in_a_round_of_tools_without_claudes_thought_it_does_not_think(turns: Any) -> None:
    clearing = {"type": "clear_thinking_20251015", "keep": "all"}
    tool_uses = {"type": "clear_tool_uses_20250919"}
    body = messages(*turns, thinking=ENABLED, context_management={"edits": [clearing, tool_uses]})
    written = sent(body)
    assert written["thinking"] == {"type": "disabled"}
    assert written["context_management"] == {"edits": [tool_uses]}
    assert "thinking" in changed(body).dropped


@pytest.mark.parametrize(
    ("turns", "thinking"),
    [
        ((ASK, assistant(OWN_THOUGHT, OWN_CALL), result(OWN_CALL)), ENABLED),
        ((ASK, assistant(OWN_THOUGHT, CALL), result(CALL), assistant("x"), ASK), ENABLED),
        ((ASK, assistant(CALL), result(CALL)), {"type": "adaptive"}),
        ((ASK, assistant(CALL), result(CALL)), {"type": "disabled"}),
    ],
)
def test_it_thinks_where_claude_lets_it(turns: Any, thinking: Any) -> None:
    turns = [
        {**turn, "content": [{"type": "text", "text": "x"}]} if turn["content"] == ["x"] else turn
        for turn in turns
    ]
    body = messages(*turns, thinking=thinking)
    assert sent(body)["thinking"] == thinking
    assert "thinking" not in changed(body).dropped


def test_signatures_in_ids_are_not_sent_along() -> None:
    call, other = {**CALL, "id": signed_call_id("call_g1", "QUJD" * 300)}, {**CALL, "id": "c2"}
    results = [*result(call)["content"], *result(other)["content"]]
    written = sent(messages(ASK, assistant(call, other), {"role": "user", "content": results}))
    assert [block["id"] for block in written["messages"][1]["content"]] == ["call_g1", "c2"]
    assert written["messages"][2]["content"][0]["tool_use_id"] == "call_g1"
    # One that is only marked passes as it is.
    assert sent(messages(ASK, assistant(CALL), result(CALL)))["messages"][1]["content"] == [CALL]


def test_every_other_byte_stays() -> None:
    numbers = b'{"n":1.50,"big":18446744073709551617}'
    kept = b'{"type" : "tool_use","id":"t\\u0031","name":"f","input":%b}' % numbers
    foreign = orjson.dumps(FOREIGN_THOUGHT)
    head = b'{ "max_tokens":5, "model" :"m", "messages": ['
    tail = b'{"role":"user","content":[{"type":"tool_result","tool_use_id":"t1"}]}], "x" : 1e2 }'
    body = b'%b{"content" :[%b , %b], "role":"assistant"}, %b' % (head, foreign, kept, tail)
    request = parse_inference_request(Operation.MESSAGES, body)
    written = rewrite(request, "m", None, False, change_of(request).edits)
    assert b'{"content" :[%b], "role":"assistant"}' % kept in written
    assert written.startswith(head[:30])
    assert written.endswith(tail)


def test_chat_ids_are_those_that_openai_takes() -> None:
    signed = signed_call_id("call_g1", "QUJD" * 300)
    long = signed_call_id("toolu_" + "x" * 60, "QUJD")
    calls = [
        {"id": name, "type": "function", "function": {"name": "f", "arguments": "{}"}}
        for name in (signed, long, "call_own")
    ]
    body = {
        "model": "gpt-4o",
        "messages": [
            ASK,
            {"role": "assistant", "content": None, "tool_calls": calls},
            *({"role": "tool", "tool_call_id": c["id"], "content": "1"} for c in calls),
        ],
    }
    written = sent(body, Operation.CHAT_COMPLETIONS)
    openai_chat.check(written)
    ids = [call["id"] for call in written["messages"][1]["tool_calls"]]
    assert (ids[0], ids[2]) == ("call_g1", "call_own")
    assert ids == [message["tool_call_id"] for message in written["messages"][2:]]
    assert changed(body, Operation.CHAT_COMPLETIONS).dropped == ()


def test_responses_hold_openais_reasoning_only() -> None:
    signed = signed_call_id("call_g1", "QUJD" * 300)
    own = {"type": "reasoning", "summary": [], "encrypted_content": "gAAA"}
    body = {
        "model": "gpt-5",
        "input": [
            ASK,
            {"type": "reasoning", "summary": [], "encrypted_content": f"{FOREIGN}google."},
            {"type": "function_call", "call_id": signed, "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": signed, "output": "1"},
            own,
        ],
    }
    change = changed(body, Operation.RESPONSES)
    items = json.loads(change.edits["input"])
    assert [item.get("call_id") for item in items] == [None, "call_g1", "call_g1", None]
    assert items[-1] == own
    assert change.dropped == ("input.reasoning",)


@pytest.mark.parametrize("operation", list(Operation))
def test_what_cannot_be_read_is_left_to_the_vendor(operation: Operation) -> None:
    for odd in ("x", 1, [1], [{"role": 1}], [{"role": "user", "content": [FOREIGN]}], {}):
        body = {"model": "m", "max_tokens": 5, "messages": odd, "input": odd, "thinking": odd}
        change = changed({**body, "note": FOREIGN}, operation)
        assert change == NO_CHANGE or not change.dropped


def test_a_body_of_endless_objects_is_not_taken_apart() -> None:
    body = b'{"model":"m","max_tokens":5,"messages":[%b{"x":"%b"}]}' % (b"{}," * MAX_OBJECTS, MARK)
    assert change_of(parse_inference_request(Operation.MESSAGES, body)) == NO_CHANGE


BLOCKS = st.sampled_from(
    [FOREIGN_THOUGHT, REDACTED, OWN_THOUGHT, CALL, OWN_CALL, {"type": "text", "text": "t"}]
)
TURNS = st.lists(
    st.one_of(
        st.lists(BLOCKS, max_size=3).map(lambda blocks: assistant(*blocks)),
        st.just(ASK),
        st.just(result(CALL)),
    ),
    max_size=6,
)


@given(TURNS, st.sampled_from([None, ENABLED, {"type": "adaptive"}]))
def test_no_foreign_thought_is_left_and_nothing_else_is_lost(turns: Any, thinking: Any) -> None:
    body = messages(*turns, thinking=thinking)
    left = json.loads(changed(body).edits.get("messages", orjson.dumps(turns)))
    foreign = (FOREIGN_THOUGHT, REDACTED)

    def blocks(of: Any) -> list[Any]:
        return [b for turn in of if isinstance(turn["content"], list) for b in turn["content"]]

    assert blocks(left) == [block for block in blocks(turns) if block not in foreign]
    assert [turn for turn in left if turn["role"] == "user"] == [
        turn for turn in turns if turn["role"] == "user"
    ]


def test_the_mark_needs_no_escape() -> None:
    assert MARK in orjson.dumps(FOREIGN_THOUGHT)
    assert MARK in json.dumps(CALL).encode()
