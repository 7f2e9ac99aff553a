"""What Envoy is told of messages to MCP servers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from tool_world import ToolWorld
from world import NOW

from extproc.edge.mcp_codec import encode_call
from extproc.ledger.port import Remaining
from extproc.pb import extproc_pb2 as pb

LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}


@pytest.fixture
def world() -> ToolWorld:
    return ToolWorld()


def message(command: Any) -> pb.ProcessingResponse:
    return pb.ProcessingResponse.FromString(encode_call(command))


def headers(mutation: Any) -> dict[str, str]:
    assert all(option.append_action == 2 for option in mutation.set_headers)
    return {o.header.key: o.header.raw_value.decode() for o in mutation.set_headers}


def test_a_call_is_sent_on_with_its_body_untouched(world: ToolWorld) -> None:
    command = world.call("read_a", x_tfy_session_id="s", x_tfy_other="x")
    hold = next(hold for hold in world.reserved.account.holds if hold.limit.rule_id == "reads")
    said = message(command._replace(remaining=[Remaining(hold, 1, NOW + 3_599_001)]))
    common = said.request_body.response
    assert common.clear_route_cache
    assert not common.HasField("body_mutation")
    assert headers(common.header_mutation) == {
        ":path": "/mcp", ":authority": "tools.invalid", "x-tw-decided": "mcp",
    }  # fmt: skip
    assert list(common.header_mutation.remove_headers) == ["x-tfy-other"]
    verdict = MessageToDict(said.dynamic_metadata)["tokenweir"]
    (group,) = verdict.pop("priority_groups")
    assert group["clusters"][0]["cluster_name"] == group["name"]
    assert verdict == {
        "ok": True, "caller": "mcp", "gen": "1", "rules": "session,reads,both",
        "rl_lr": "2", "rl_rr": "1", "rl_tr": "3600s",
    }  # fmt: skip


def test_a_stream_is_opened_by_the_answer_to_its_headers(world: ToolWorld) -> None:
    said = message(world.send(None, method="GET", path="/mcp/open"))
    assert said.HasField("request_headers")
    assert not said.HasField("request_body")
    common = said.request_headers.response
    assert headers(common.header_mutation)[":authority"] == "open.invalid:9000"
    assert headers(common.header_mutation)[":path"] == "/a/b"


def test_money_that_is_left_is_said(world: ToolWorld) -> None:
    command = world.call("buy")
    hold = next(hold for hold in world.reserved.account.holds if hold.limit.rule_id == "all")
    said = message(command._replace(remaining=[Remaining(hold, 600_000, NOW)]))
    verdict = MessageToDict(said.dynamic_metadata)["tokenweir"]
    assert verdict["budget"] == "0.60"


def refused(command: Any) -> tuple[int, dict[str, str], dict[str, Any]]:
    immediate = message(command).immediate_response
    assert immediate.details == "tokenweir_refused"
    return immediate.status.code, headers(immediate.headers), json.loads(immediate.body)


def test_a_limit_is_the_result_of_the_call(world: ToolWorld) -> None:
    world.call("read_a")
    world.call("read_a")
    status, sent, body = refused(world.call("read_a"))
    assert (status, body["id"], body["result"]["isError"]) == (200, 1, True)
    assert sent["x-should-retry"] == "false"
    assert sent["x-tfy-applied-rules"] == "session,reads,both"


def test_an_unknown_tool_is_an_error_of_the_message(world: ToolWorld) -> None:
    status, _, body = refused(world.call("delete"))
    assert (status, body["id"], body["error"]["code"]) == (200, 1, -32602)


def test_who_is_not_known_is_told_how_to_come_back(world: ToolWorld) -> None:
    status, sent, body = refused(world.send(LIST, key="nobody"))
    assert (status, body["id"]) == (401, None)
    assert sent["www-authenticate"] == "Bearer"
    assert sent["content-type"] == "application/json"


def test_nothing_of_a_policy_breaks_a_header() -> None:
    world = ToolWorld()
    command = world.call()._replace(rules="a\r\nx-evil: 1" + "r" * 5_000)
    verdict = MessageToDict(message(command).dynamic_metadata)["tokenweir"]
    assert "\r" not in verdict["rules"]
    assert len(verdict["rules"]) <= 1_024
