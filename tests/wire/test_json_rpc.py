"""Messages to MCP servers, good and bad, and the answers to those that are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcp_types import CallToolResult, JSONRPCError, JSONRPCResponse, jsonrpc_message_adapter

from extproc.values.refusal import Refusal, RefusalCode
from extproc.wire.errors import WireError
from extproc.wire.json_rpc import (
    MAX_MESSAGE_BYTES,
    MAX_NORMALISED_BYTES,
    Message,
    check_mirrored,
    digest_of,
    error_message,
    parse_message,
    refused_result,
)


def call(**fields: Any) -> bytes:
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "search"}}
    return json.dumps({**message, **fields}).encode()


def test_a_call_of_a_tool() -> None:
    message = parse_message(call(id="a\u00e9", params={"name": "t", "arguments": {"b": [1, 2]}}))
    assert message == (b'"a\\u00e9"', "tools/call", "t", b'{"b": [1, 2]}', b"")
    assert parse_message(call()) == Message(b"1", "tools/call", "search", b"")


def test_other_messages() -> None:
    listing = b'{"jsonrpc":"2.0","id":2,"method":"tools/list","params":{"cursor":"c"}}'
    assert parse_message(listing) == Message(b"2", "tools/list")
    told = b' {"jsonrpc": "2.0", "method": "notifications/initialized"}\n'
    assert parse_message(told) == Message(None, "notifications/initialized")
    for answer in (b'"result":{}', b'"error":{"code":1,"message":""}'):
        assert parse_message(b'{"jsonrpc":"2.0","id":"s-1",%b}' % answer) == Message(None, "")


BAD = {
    "no JSON": b"{",
    "no object": b'"text"',
    "batch": b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]',
    "no version": b'{"id":1,"method":"ping"}',
    "another version": b'{"jsonrpc":"1.0","id":1,"method":"ping"}',
    "no method": b'{"jsonrpc":"2.0","id":1}',
    "a method that is no text": b'{"jsonrpc":"2.0","id":1,"method":7}',
    "a long method": call(method="m" * 129),
    "an object for an id": call(id={}),
    "a long id": call(id="i" * 300),
    "a call without an id": b'{"jsonrpc":"2.0","method":"tools/call","params":{"name":"t"}}',
    "a call without params": b'{"jsonrpc":"2.0","id":1,"method":"tools/call"}',
    "a call without a name": call(params={}),
    "a name that is no text": call(params={"name": ["search"]}),
    "a long name": call(params={"name": "n" * 129}),
    "a name with a line break": call(params={"name": "a\nb"}),
    "params as a list": call(params=["search"]),
    "not UTF-8": b'{"jsonrpc":"2.0","id":1,"method":"ping","x":"\xff"}',
    "deep": call(params={"name": "t", "arguments": None}).replace(b"null", b"[" * 3000),
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD)
def test_what_is_no_message(body: bytes) -> None:
    with pytest.raises(WireError) as error:
        parse_message(body)
    assert error.value.refusal.code is RefusalCode.INVALID_REQUEST


AMBIGUOUS = {
    "method twice": b'{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call"}',
    "name twice": call().replace(b'"name"', b'"name": "a", "name"'),
    "name twice, once escaped": call().replace(b'"name"', b'"name": "a", "n\\u0061me"'),
    "Method": call(method="ping", Method="tools/call"),
    "a key with a long s": call().replace(b'"params"', b'"param\\u017f":{},"params"'),
    "requeststate": call(params={"name": "search", "requeststate": "s"}),
    "NAME": call(params={"name": "search", "NAME": "delete"}),
    "Arguments": call(params={"name": "search", "Arguments": {}}),
}


@pytest.mark.parametrize("body", AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_what_two_parsers_could_read_differently(body: bytes) -> None:
    with pytest.raises(WireError):
        parse_message(body)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_whatever_comes_is_read_or_refused(data: st.DataObject) -> None:
    body = call(params={"name": "t", "arguments": {"a": [1, "\u00e9"]}})
    at = data.draw(st.integers(0, len(body)))
    end = data.draw(st.integers(at, min(len(body), at + 12)))
    changed = body[:at] + data.draw(st.binary(max_size=12)) + body[end:]
    try:
        message = parse_message(changed)
    except WireError as error:
        error_message(error.refusal, None, "r", 1)
        return
    assert bool(message.tool) == (message.method == "tools/call")
    digest_of(message)
    if message.id is not None:
        refusal = Refusal(RefusalCode.LOOP_DETECTED, "Why.")
        json.loads(refused_result(refusal, message.id, "r", 1))


def test_a_long_message() -> None:
    long = call(params={"name": "write", "arguments": {"text": "x" * 3_000_000}})
    assert parse_message(long).tool == "write"
    with pytest.raises(WireError) as error:
        parse_message(long + b" " * MAX_MESSAGE_BYTES)
    assert error.value.refusal.code is RefusalCode.REQUEST_TOO_LARGE


def test_headers_that_repeat_the_body_must_agree_with_it() -> None:
    message = parse_message(call(params={"name": "s\u00fc\u00df"}))
    good = [("mcp-method", b"tools/call"), ("mcp-name", b"=?base64?c8O8w58=?="), ("x", b"y")]
    check_mirrored(message, good)
    check_mirrored(parse_message(call(method="ping")), [("mcp-name", b"anything")])
    for header in (
        ("mcp-method", b"tools/list"),
        ("mcp-name", b"other"),
        ("mcp-name", b"=?base64?!?="),
        ("mcp-name", b"=?base64?/w==?="),
    ):
        with pytest.raises(WireError) as error:
            check_mirrored(message, [header])
        assert error.value.refusal.code is RefusalCode.HEADER_MISMATCH


def test_calls_that_ask_for_the_same() -> None:
    def digest(arguments: bytes, tool: str = "t") -> bytes:
        return digest_of(Message(b"1", "tools/call", tool, arguments))

    assert digest(b'{"a":1,"b":{"c":2,"d":3}}') == digest(b'{ "b": {"d":3, "c":2}, "a": 1 }')
    assert digest(b"") == digest(b"{}")
    assert digest(b'{"a":"\\u0041"}') == digest(b'{"a":"A"}')
    others = [b'{"a":1}', b'{"a":2}', b'{"a":"1"}', b'{"a":[1]}', b'{"b":1}']
    assert len({digest(arguments) for arguments in others}) == len(others)
    assert digest(b"{}", "t") != digest(b"{}", "u")
    going_on = call(params={"name": "t", "requestState": "s1", "inputResponses": {"a": 1}})
    assert digest_of(parse_message(going_on)) != digest(b"")
    long = b'{"a":"%b","b":1}' % (b"x" * MAX_NORMALISED_BYTES)
    assert digest(long) == digest(long)
    assert digest(b"[" * 5_000) == digest(b"[" * 5_000)


@pytest.mark.parametrize("code", RefusalCode)
def test_the_official_client_reads_every_error(code: RefusalCode) -> None:
    refusal = Refusal(code, "Why.", extra=(("field", "tool"),))
    parsed = jsonrpc_message_adapter.validate_json(error_message(refusal, b'"a"', "r1", 3))
    assert isinstance(parsed, JSONRPCError)
    assert (parsed.id, parsed.error.message) == ("a", "Why.")
    assert (
        parsed.error.code == -32020
        or -32019 <= parsed.error.code <= -32000
        or (-32700 <= parsed.error.code <= -32600)
    )
    assert parsed.error.data == {
        "code": code.value, "field": "tool", "request_id": "r1", "retryable": False,
        "policy_generation": 3,
    }  # fmt: skip
    assert json.loads(error_message(refusal, None, "r1", 3))["id"] is None


def test_the_official_client_reads_a_refused_call() -> None:
    refusal = Refusal(RefusalCode.RATE_LIMIT_EXCEEDED, "Full.", retry_after_s=7)
    parsed = jsonrpc_message_adapter.validate_json(refused_result(refusal, b"5", "r1", 3))
    assert isinstance(parsed, JSONRPCResponse)
    result = CallToolResult.model_validate(parsed.result)
    assert (parsed.id, result.is_error) == (5, True)
    assert result.content[0].text == "Full. Try again in 7 s."  # type: ignore[union-attr]
    assert result.meta is not None
    assert result.meta["tokenweir/refusal"]["code"] == "rate_limit_exceeded"
