from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.values.dialect import Operation
from extproc.wire.conversation import OPENING_BYTES, conversation_root
from extproc.wire.inference_request import parse_inference_request

CHAT = Operation.CHAT_COMPLETIONS
USER = {"role": "user", "content": "find the bug"}
REPLY = {"role": "assistant", "content": "which one?"}


def root(operation: Operation, **body: Any) -> str:
    document = {"model": "m", "max_tokens": 5, **body}
    return conversation_root(parse_inference_request(operation, orjson.dumps(document)))


def test_the_root_stays_the_same_as_the_conversation_grows() -> None:
    system = {"role": "system", "content": 'you are an agent of "user"'}
    first = root(CHAT, messages=[system, USER])
    assert first == root(CHAT, messages=[system, USER, REPLY, {"role": "user", "content": "x"}])
    assert first == root(CHAT, messages=[system, USER, REPLY], temperature=1, stream=True)
    assert len(first) == 24


def test_another_opening_is_another_conversation() -> None:
    roots = [
        root(CHAT, messages=[USER]),
        root(CHAT, messages=[{"role": "user", "content": "find the bugs"}]),
        root(CHAT, messages=[{"role": "system", "content": "be brief"}, USER]),
        root(CHAT, messages=[{"role": "developer", "content": "be brief"}, USER]),
        root(Operation.MESSAGES, messages=[USER], system="be brief"),
        root(Operation.RESPONSES, input=[USER], instructions="be brief"),
        root(Operation.RESPONSES, input="find the bug"),
        root(Operation.COMPLETIONS, prompt="find the bugs"),
    ]
    assert len(set(roots)) == len(roots)


def test_moving_cache_markers_and_block_lists_do_not_change_it() -> None:
    mark = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    blocks = [{"type": "text", "text": "find the bug", **mark}]
    turns = [
        root(Operation.MESSAGES, system="s", messages=[USER]),
        root(Operation.MESSAGES, system="s", messages=[{"role": "user", "content": blocks}]),
        root(Operation.MESSAGES, system=[{"type": "text", "text": "s", **mark}], messages=[USER]),
        root(Operation.MESSAGES, system="s", messages=[USER, REPLY, {**USER, "content": blocks}]),
    ]
    assert len(set(turns)) == 1


def test_claude_codes_user_id_names_the_session() -> None:
    def of(user_id: object, text: str) -> str:
        messages = [{"role": "user", "content": text}]
        return root(Operation.MESSAGES, messages=messages, metadata={"user_id": user_id})

    assert of("user_1_session_2", "a") == of("user_1_session_2", "b")
    assert of("user_1_session_2", "a") != of("user_1_session_3", "a")
    for nothing in (None, "", 7):
        assert of(nothing, "a") != of(nothing, "b")
    for metadata in (None, "x", []):
        assert root(CHAT, messages=[USER], metadata=metadata) == root(CHAT, messages=[USER])


def test_a_long_opening_is_cut_alike_on_every_turn() -> None:
    for filler in ("x", "é", "\n"):
        long = {"role": "user", "content": filler * (OPENING_BYTES + 1)}
        first = root(CHAT, messages=[long])
        assert first == root(CHAT, messages=[long, REPLY])
        assert first != root(CHAT, messages=[{"role": "user", "content": "y" + long["content"]}])


@pytest.mark.parametrize(
    "raw",
    [
        b"[" + b"[" * 900 + b"]" * 900 + b"]",
        b"[" + b"9" * 5_000 + b"]",
        b'[{"role":"user","content":' + b"[" * 900 + b"]" * 900 + b"}]",
        b"[]",
        b"null",
        b"1e999",
        b'[ { "role" : "user" , "content" : "\\ud83d\\ude00" } ]',
    ],
)
def test_odd_openings_still_have_a_root(raw: bytes) -> None:
    body = b'{"model":"m","messages":' + raw + b"}"
    assert len(conversation_root(parse_inference_request(CHAT, body))) == 24


@given(st.lists(st.dictionaries(st.sampled_from(["role", "content"]), st.text()), max_size=4))
def test_appending_after_the_first_user_message_never_matters(messages: list[Any]) -> None:
    begun = [*messages, USER]
    assert root(CHAT, messages=begun) == root(CHAT, messages=[*begun, *messages])
