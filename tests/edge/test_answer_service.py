"""Answers on their way out: whose are translated, whose go on as they are, whose are cut."""

from __future__ import annotations

import json
from random import Random

import pytest
from fake_stream import FakeStream
from gateway import chat
from policies import snapshot
from world import NOW, World

from extproc.core.attempt import AttemptMachine
from extproc.core.events import AttemptStarted
from extproc.core.tool_list import ToolFilter
from extproc.edge.answer_service import AnswerService
from extproc.edge.clock import Clock
from extproc.edge.services import Sidecar
from extproc.pb import extproc_pb2 as pb

FOREIGN = """
name: more
type: gateway-config
providers: {foreign: {dialect: anthropic, base_url: "https://f.invalid"}}
prices:
  - {provider: foreign, model: claude-haiku-4-5, input_usd_per_mtok: 1, output_usd_per_mtok: 5}
---
name: claude
type: gateway-load-balancing-config
rules:
  - {id: c, target: {provider: foreign, model: claude-haiku-4-5}}
"""
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
        first = self.world.ask(chat(model="claude"))
        target = first.chain.targets[0]
        started = AttemptStarted("r1", 1, target.clusters[first.chain.operation])
        AttemptMachine(self.world.gate, started).on_body(first.body, NOW)
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
    ) -> None:
        message = pb.ProcessingRequest()
        fields = message.attributes["envoy.filters.http.ext_proc"].fields
        fields["request.id"].string_value = request_id
        fields["response.code_details"].string_value = details
        found = message.response_headers
        found.end_of_stream = end
        found.headers.headers.add(key=":status", raw_value=status)
        found.headers.headers.add(key="content-type", raw_value=b"application/json")
        self.service.message(self.stream, message.SerializeToString())

    def body(self, data: bytes, *, end: bool) -> None:
        message = pb.ProcessingRequest()
        message.response_body.body = data
        message.response_body.end_of_stream = end
        self.service.message(self.stream, message.SerializeToString())


def test_a_translated_attempts_answer_is_translated() -> None:
    rig = Rig()
    rig.headers()
    assert not rig.stream.ended
    data = json.dumps(DOCUMENT).encode()
    rig.body(data[:40], end=False)
    rig.body(data[40:], end=True)
    bodies = [m.response_body.response.body_mutation.body for m in rig.stream.sent[1:]]
    assert bodies[0] == b""
    assert json.loads(bodies[1])["choices"][0]["message"]["content"] == "Hi"
    assert rig.stream.ended
    attempt = rig.world.gate.in_flight["r1"].attempts[1]
    assert attempt.reported is not None
    assert attempt.answered


@pytest.mark.parametrize("details", ["tokenweir_refused", "upstream_reset", ""])
def test_what_envoy_or_we_answered_goes_on_as_it_is(details: str) -> None:
    rig = Rig()
    rig.headers(details=details)
    (message,) = rig.stream.sent
    (mark,) = message.response_headers.response.header_mutation.set_headers
    assert mark.header.key == "x-tw-translated"
    assert rig.stream.ended
    assert not rig.world.gate.in_flight["r1"].attempts[1].answered


def test_an_attempt_in_the_callers_own_dialect_goes_on_as_it_is() -> None:
    rig = Rig()
    rig.world.gate.in_flight["r1"].attempts[1].translation = None
    rig.headers()
    assert rig.stream.ended
    assert len(rig.stream.sent) == 1


@pytest.mark.parametrize("status", [b"302", b"308"])
def test_F53_a_redirect_is_no_answer_of_the_attempt(status: bytes) -> None:
    rig = Rig()
    rig.headers(status=status)
    assert rig.stream.ended
    assert not rig.world.gate.in_flight["r1"].attempts[1].answered


def test_an_answer_that_nobody_knows_is_cut() -> None:
    rig = Rig()
    rig.headers("r2")
    assert rig.stream.failed
    assert rig.stream.sent == []


def test_what_cannot_be_read_is_refused_and_counted() -> None:
    rig = Rig()
    rig.headers()
    rig.body(b"<html>", end=True)
    refused = rig.stream.sent[1].immediate_response
    assert refused.status.code == 503
    assert json.loads(refused.body)["error"]["code"] == "no_healthy_target"
    assert b"html" not in refused.body
    assert {"x-should-retry"} <= {one.header.key for one in refused.headers.set_headers}
    assert rig.stream.ended
    assert rig.metrics.untranslatable_answers == 1


def test_what_the_caller_has_the_beginning_of_is_cut() -> None:
    rig = Rig()
    rig.headers()
    rig.stream.state.begun = True
    rig.body(b"<html>", end=True)
    assert rig.stream.failed
    assert len(rig.stream.sent) == 1


def test_messages_out_of_order_are_cut() -> None:
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


def test_a_list_of_tools_is_filtered_on_its_way_back() -> None:
    rig = listing(b'{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"secret"},{"name":"a"}]}}')
    written = rig.stream.sent[-1].response_body.response.body_mutation.body
    assert json.loads(written)["result"] == {"tools": [{"name": "a"}]}
    assert not rig.stream.failed


@pytest.mark.parametrize("text", [b"[]", b'{"result":{"tools":7}}', b'{"result":{"tools":[{}]}}'])
def test_a_list_that_cannot_be_read_is_cut(text: bytes) -> None:
    rig = listing(text)
    assert rig.stream.failed
    assert len(rig.stream.sent) == 1
