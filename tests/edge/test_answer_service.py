"""Answers on their way out: whose are translated, whose go on as they are, whose are cut."""

from __future__ import annotations

import asyncio
import json
from random import Random

import pytest
from event_loop import in_a_loop
from fake_stream import FakeStream
from gateway import chat
from policies import FOREIGN, snapshot
from world import World

from extproc.core.tool_list import ToolFilter
from extproc.edge import answer_service
from extproc.edge.answer_service import HELD_BYTES, AnswerService
from extproc.edge.clock import Clock
from extproc.edge.services import Sidecar
from extproc.pb import extproc_pb2 as pb

TOOLS = """
name: tools
type: gateway-config
mcp_servers: {docs: {url: "http://127.0.0.1:9/mcp", tools: {allow: [a]}}}
"""
DOCUMENT = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-haiku-4-5",
    "content": [{"type": "text", "text": "Hi"}], "stop_reason": "end_turn",
    "stop_sequence": None, "usage": {"input_tokens": 3, "output_tokens": 1},
}  # fmt: skip


class Rig:
    """One request that was sent to Claude, and what Envoy says of its answer."""

    def __init__(self) -> None:
        self.world = World(FOREIGN)
        self.world.ask(chat(model="claude-alone"))
        sidecar = Sidecar(self.world.gate, self.world.ledger, Clock(), Random(1))
        self.metrics = sidecar.metrics
        self.service = AnswerService(sidecar)
        self.stream = FakeStream()

    def headers(
        self,
        request_id: str = "r1",
        details: str = "via_upstream",
        *,
        end: bool = False,
        status: bytes = b"200",
        content_type: bytes = b"application/json",
        encoding: bytes = b"",
    ) -> None:
        message = pb.ProcessingRequest()
        fields = message.attributes["envoy.filters.http.ext_proc"].fields
        fields["request.id"].string_value = request_id
        fields["response.code_details"].string_value = details
        found = message.response_headers
        found.end_of_stream = end
        found.headers.headers.add(key=":status", raw_value=status)
        found.headers.headers.add(key="content-type", raw_value=content_type)
        found.headers.headers.add(key="content-encoding", raw_value=encoding)
        self.service.message(self.stream, message.SerializeToString())

    def body(self, data: bytes, *, end: bool) -> None:
        message = pb.ProcessingRequest()
        message.response_body.body = data
        message.response_body.end_of_stream = end
        self.service.message(self.stream, message.SerializeToString())


@in_a_loop
async def test_a_translated_attempts_answer_is_translated() -> None:
    rig = Rig()
    rig.headers()
    data = json.dumps(DOCUMENT).encode()
    rig.body(data[:40], end=False)
    assert rig.stream.sent == []
    rig.body(data[40:], end=True)
    assert rig.stream.phases == ["response_headers", "response_body", "response_body"]
    bodies = [m.response_body.response.body_mutation.body for m in rig.stream.sent[1:]]
    assert bodies[0] == b""
    assert json.loads(bodies[1])["choices"][0]["message"]["content"] == "Hi"
    assert rig.stream.ended
    attempt = rig.world.gate.in_flight["r1"].attempts[1]
    assert attempt.reported is not None
    assert attempt.answered


@pytest.mark.parametrize("details", ["tokenweir_refused", "upstream_reset", ""])
@in_a_loop
async def test_what_envoy_or_we_answered_goes_on_as_it_is(details: str) -> None:
    rig = Rig()
    rig.headers(details=details)
    (message,) = rig.stream.sent
    (mark,) = message.response_headers.response.header_mutation.set_headers
    assert mark.header.key == "x-tw-translated"
    assert rig.stream.ended
    assert not rig.world.gate.in_flight["r1"].attempts[1].answered


@in_a_loop
async def test_an_attempt_in_the_callers_own_dialect_goes_on_as_it_is() -> None:
    rig = Rig()
    rig.world.gate.in_flight["r1"].attempts[1].translation = None
    rig.headers()
    assert rig.stream.ended
    assert len(rig.stream.sent) == 1


@pytest.mark.parametrize("status", [b"302", b"308"])
@in_a_loop
async def test_F53_a_redirect_is_no_answer_of_the_attempt(status: bytes) -> None:
    rig = Rig()
    rig.headers(status=status)
    assert rig.stream.ended
    assert not rig.world.gate.in_flight["r1"].attempts[1].answered


@in_a_loop
async def test_an_answer_that_nobody_knows_is_cut() -> None:
    rig = Rig()
    rig.headers("r2")
    assert rig.stream.failed
    assert rig.stream.sent == []


@in_a_loop
async def test_F53_what_cannot_be_read_is_refused_before_its_headers_go_on() -> None:
    rig = Rig()
    rig.headers()
    rig.body(b"<ht", end=False)
    rig.body(b"ml>", end=True)
    (message,) = rig.stream.sent
    refused = message.immediate_response
    assert refused.status.code == 503
    assert json.loads(refused.body)["error"]["code"] == "no_healthy_target"
    assert b"html" not in refused.body
    assert {"x-should-retry"} <= {one.header.key for one in refused.headers.set_headers}
    assert rig.stream.ended
    assert rig.metrics.untranslatable_answers == 1


@in_a_loop
async def test_a_streams_headers_go_on_with_its_first_piece() -> None:
    rig = Rig()
    rig.headers(content_type=b"text/event-stream")
    assert rig.stream.sent == []
    rig.body(b"event: ping\n", end=False)
    assert rig.stream.phases == ["response_headers", "response_body"]
    rig.body(b'data: {"type": "ping"}\n\n', end=False)
    assert rig.stream.phases == ["response_headers", "response_body", "response_body"]
    rig.body(b"data: {\n\n", end=False)
    assert rig.stream.failed
    assert len(rig.stream.sent) == 3


@in_a_loop
async def test_F53_a_stream_that_begins_unreadable_is_refused() -> None:
    rig = Rig()
    rig.headers(content_type=b"text/event-stream")
    rig.body(b"data: {\n\n", end=False)
    assert rig.stream.phases == ["immediate_response"]
    assert rig.stream.ended


@in_a_loop
async def test_F55_a_compressed_answer_is_refused_and_an_error_is_told_by_its_status() -> None:
    rig = Rig()
    rig.headers(encoding=b"GZIP")
    assert rig.stream.phases == ["immediate_response"]
    assert rig.world.gate.in_flight["r1"].attempts[1].answered
    rig = Rig()
    rig.headers(encoding=b"gzip", status=b"429")
    rig.body(b"\x1f\x8b", end=True)
    headers, body = rig.stream.sent
    assert "content-encoding" in headers.response_headers.response.header_mutation.remove_headers
    assert json.loads(body.response_body.response.body_mutation.body)["error"]


@in_a_loop
async def test_F53_a_long_answer_goes_on_before_its_end_and_is_cut_when_unreadable() -> None:
    rig = Rig()
    rig.headers()
    piece = b"[" * (HELD_BYTES // 2)
    rig.body(piece, end=False)
    rig.body(piece, end=False)
    assert rig.stream.sent == []
    rig.body(piece, end=False)
    assert rig.stream.phases == ["response_headers"] + ["response_body"] * 3
    rig.body(piece, end=True)
    assert rig.stream.failed
    assert len(rig.stream.sent) == 4


@in_a_loop
async def test_the_headers_of_an_answer_whose_body_is_late_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(answer_service, "HELD_S", 0.01)
    rig = Rig()
    rig.headers()
    await asyncio.sleep(0.05)
    assert rig.stream.phases == ["response_headers"]
    rig.body(json.dumps(DOCUMENT).encode(), end=True)
    assert rig.stream.phases == ["response_headers", "response_body"]
    assert rig.stream.ended


@in_a_loop
async def test_nothing_is_sent_to_who_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_service, "HELD_S", 0.01)
    rig = Rig()
    rig.headers()
    rig.service.closed(rig.stream)
    await asyncio.sleep(0.05)
    assert rig.stream.sent == []


@in_a_loop
async def test_F53_an_answer_without_a_body_is_none() -> None:
    rig = Rig()
    rig.headers(end=True)
    assert rig.stream.phases == ["immediate_response"]
    assert rig.metrics.untranslatable_answers == 1
    assert rig.world.gate.in_flight["r1"].attempts[1].answered


@in_a_loop
async def test_F53_an_error_without_a_body_is_given_one() -> None:
    rig = Rig()
    rig.headers(end=True, status=b"529")
    (message,) = rig.stream.sent
    response = message.response_headers.response
    assert response.status == response.CONTINUE_AND_REPLACE
    assert "529" in json.loads(response.body_mutation.body)["error"]["message"]
    assert [each.header.key for each in response.header_mutation.set_headers] == [
        "x-tw-translated",
        "content-type",
    ]
    assert rig.stream.ended


@in_a_loop
async def test_a_list_without_a_body_goes_on() -> None:
    rig = Rig()
    server = snapshot(more=TOOLS).mcp_servers["docs"]
    rig.world.gate.listings["r2"] = ToolFilter(server, None)
    rig.headers("r2", end=True)
    assert rig.stream.phases == ["response_headers"]
    assert rig.stream.ended


@in_a_loop
async def test_messages_out_of_order_are_cut() -> None:
    rig = Rig()
    rig.body(b"{}", end=True)
    assert rig.stream.failed
    again = Rig()
    again.headers()
    again.headers()
    assert again.stream.failed
    again.service.closed(again.stream)
    assert again.stream.state is None
    again.service.before_write()


def listing(text: bytes) -> Rig:
    """A list of tools to somebody who may call only ``a``."""
    rig = Rig()
    server = snapshot(more=TOOLS).mcp_servers["docs"]
    rig.world.gate.listings["r2"] = ToolFilter(server, None)
    rig.headers("r2")
    rig.body(text, end=True)
    assert rig.world.gate.listings == {}
    return rig


@in_a_loop
async def test_a_list_of_tools_is_filtered_on_its_way_back() -> None:
    rig = listing(b'{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"secret"},{"name":"a"}]}}')
    written = rig.stream.sent[-1].response_body.response.body_mutation.body
    assert json.loads(written)["result"] == {"tools": [{"name": "a"}]}
    assert not rig.stream.failed


@pytest.mark.parametrize("text", [b"[]", b'{"result":{"tools":7}}', b'{"result":{"tools":[{}]}}'])
@in_a_loop
async def test_a_list_that_cannot_be_read_is_cut(text: bytes) -> None:
    rig = listing(text)
    assert rig.stream.failed
    assert rig.stream.sent == []


@pytest.mark.parametrize("status", [b"200", b"404"])
@in_a_loop
async def test_a_compressed_list_is_cut(status: bytes) -> None:
    rig = Rig()
    server = snapshot(more=TOOLS).mcp_servers["docs"]
    rig.world.gate.listings["r2"] = ToolFilter(server, None)
    rig.headers("r2", encoding=b"br", status=status)
    assert rig.stream.failed
    assert rig.stream.sent == []
