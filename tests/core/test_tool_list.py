"""Lists of tools, in whatever shape and pieces they come."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.core.tool_list import MAX_LIST_BYTES, ListFilter, ToolFilter, filtered
from extproc.policy.mcp_server import McpServer, patterns
from extproc.policy.snapshot import Endpoint
from extproc.values.dialect import Dialect
from extproc.wire.errors import WireError

ENDPOINT = Endpoint(Dialect.OPENAI, "http", "h", 80, "/mcp", "m_docs")
SERVER = McpServer("docs", ENDPOINT, "m_docs_l", deny=patterns(("delete_*",)))
ALLOWED = ToolFilter(SERVER, patterns(("search", "delete_all", "read_*")))


def listing(*names: str, **more: Any) -> dict[str, Any]:
    tools = [{"name": name, "inputSchema": {"type": "object"}} for name in names]
    return {"jsonrpc": "2.0", "id": 1, "result": {"tools": tools, "nextCursor": "n", **more}}


def through(pieces: list[bytes], content_type: str) -> bytes:
    listing = ListFilter(ALLOWED)
    listing.on_headers(200, content_type)
    written = [listing.on_body(piece, end=False) for piece in pieces]
    return b"".join([*written, listing.on_body(b"", end=True)])


def test_json_loses_what_is_not_allowed_and_nothing_else() -> None:
    before = json.dumps(listing("search", "delete_all", "read_a", "other"), indent=1).encode()
    after = json.loads(through([before[:40], before[40:]], "application/json; charset=utf-8"))
    assert after == listing("search", "read_a")
    every = json.dumps(listing("search", "read_b"), indent=3).encode()
    assert through([every], "application/json") == every
    assert json.loads(filtered(json.dumps(listing("x")).encode(), ALLOWED)) == listing()


def test_a_list_that_is_one_callers_own_is_not_for_shared_caches() -> None:
    public = json.dumps(listing("search", ttlMs=1000, cacheScope="public")).encode()
    assert json.loads(filtered(public, ALLOWED))["result"]["cacheScope"] == "private"
    private = public.replace(b"public", b"private")
    assert filtered(private, ALLOWED) == private


STREAM = (
    b": ping\r\n\r\nid: 0\r\ndata:\r\n\r\n"
    b'event: message\r\ndata: {"jsonrpc":"2.0","method":"notifications/progress"}\r\n\r\n'
    b"event: message\r\nid: 7\r\ndata: %b\r\n\r\n"
) % json.dumps(listing("search", "other")).encode()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, len(STREAM)), max_size=8), st.sampled_from([b"\r\n", b"\n"]))
def test_streams_in_whatever_pieces(cuts: list[int], ending: bytes) -> None:
    stream = STREAM.replace(b"\r\n", ending)
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    pieces = [stream[a:b] for a, b in pairwise(places)]
    written = through(pieces, "text/event-stream")
    head, _, last = written.rpartition(b"event: message")
    assert head == stream[: stream.rindex(b"event: message")]
    assert b"id: 7\n" in last
    data = last[last.index(b"data: ") + 6 :]
    assert json.loads(data) == listing("search")
    assert last.endswith(b"\n\n")


def test_an_event_is_passed_on_as_soon_as_it_is_whole() -> None:
    listing = ListFilter(ALLOWED)
    listing.on_headers(200, "text/event-stream")
    assert listing.on_body(b'data: {"a":1}\n', end=False) == b""
    assert listing.on_body(b"\ndata: {", end=False) == b'data: {"a":1}\n\n'


def test_escapes_hide_nothing() -> None:
    hidden = json.dumps(listing("other")).encode().replace(b'"tools"', b'"\\u0074ools"')
    assert b"other" not in filtered(hidden, ALLOWED)
    named = json.dumps(listing("search")).encode().replace(b'"search"', b'"\\u0073earch"')
    assert filtered(named, ALLOWED) == named


@pytest.mark.parametrize(
    "answer",
    [
        b"[1]",
        b'{"jsonrpc":"2.0","id":1,"result":{"tools":[],"tools":[{"name":"other"}]}}',
        b'{"result":{"tools":[{"title":"no name"}]}}',
        b'{"result":{"tools":{}}}',
        b'{"result":{"tools":[{"name":"a"}',
        b" " * (MAX_LIST_BYTES + 1),
    ],
    ids=["batch", "twice", "nameless", "no list", "cut off", "long"],
)
def test_what_cannot_be_read_is_cut(answer: bytes) -> None:
    with pytest.raises(WireError):
        through([answer], "application/json")


def test_what_is_no_list_passes_as_it_is() -> None:
    for answer in (b'{"error":{"code":-32601}}', b"", b'{"result":null}', b'{"result":{"a":1}}'):
        assert through([answer], "application/json") == answer
    assert through([b"anything"], "text/plain") == b"anything"
