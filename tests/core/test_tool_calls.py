"""What is decided on a message to an MCP server."""

from __future__ import annotations

import pytest
from tool_world import ToolWorld
from world import NOW

from extproc.core.commands import ForwardCall, RefuseCall
from extproc.core.events import RequestBody, RequestHeaders
from extproc.core.tool_calls import MAX_LISTINGS, MAX_PLANS, ToolCallMachine, is_mcp
from extproc.core.tool_names import MAX_TOOLS
from extproc.policy.snapshot import Kill
from extproc.values.refusal import RefusalCode

LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
MCP_ONLY = """
name: mcp
type: gateway-config
mcp_servers:
  docs: {url: "http://tools.invalid/mcp"}
"""


@pytest.fixture
def world() -> ToolWorld:
    return ToolWorld()


def code(command: object) -> RefusalCode:
    assert isinstance(command, RefuseCall), command
    return command.refusal.code


def test_only_calls_of_tools_are_counted(world: ToolWorld) -> None:
    for body in (LIST, {"jsonrpc": "2.0", "method": "notifications/initialized"}):
        assert isinstance(world.send(body), ForwardCall)
    assert isinstance(world.send(None, method="GET"), ForwardCall)
    assert isinstance(world.send(None, method="DELETE"), ForwardCall)
    assert world.counters() == {}
    forward = world.call(x_tfy_session_id="s")
    assert (forward.labels, forward.rules) == (("docs", "search"), "session,both")
    assert world.counters() == {"session/tool_calls": (0, 1), "both/tool_calls": (0, 1)}
    assert world.reserved.amounts == (1, 0, 0, 0, 0, 0)


def test_a_get_is_answered_to_its_headers_and_a_post_to_its_body(world: ToolWorld) -> None:
    assert not world.send(None, method="GET").after_body
    assert world.send(LIST).after_body


@pytest.mark.parametrize("method", ["PUT", "PATCH", "HEAD", "OPTIONS"])
def test_other_methods_are_refused(world: ToolWorld, method: str) -> None:
    assert code(world.send(None, method=method)) is RefusalCode.METHOD_NOT_ALLOWED
    assert code(world.send(b"{}", method="DELETE")) is RefusalCode.METHOD_NOT_ALLOWED
    assert code(world.send(None)) is RefusalCode.INVALID_REQUEST


@pytest.mark.parametrize(
    "path", ["/mcp/none", "/mcp/", "/mcp/docs/", "/mcp/docs?a=b", "/mcp/%64ocs"]
)
def test_a_path_that_names_no_server(world: ToolWorld, path: str) -> None:
    assert code(world.send(LIST, path=path)) is RefusalCode.UNKNOWN_MCP_SERVER


def test_who_asks_is_checked_before_what_is_there(world: ToolWorld) -> None:
    stranger = world.send(LIST, path="/mcp/none", key="nobody")
    assert code(stranger) is RefusalCode.INVALID_CREDENTIAL
    conflict = world.send(LIST, x_tfy_project="other")
    assert code(conflict) is RefusalCode.IDENTITY_CONFLICT


def test_what_is_not_allowed_is_not_sent(world: ToolWorld) -> None:
    for tool in ("delete", "read_secret", "searching", "Search"):
        refused = world.call(tool)
        assert code(refused) is RefusalCode.TOOL_NOT_ALLOWED
        assert (refused.message_id, refused.as_result) == (b"1", False)
    assert isinstance(world.call("read_me"), ForwardCall)
    assert world.call("read_me").labels == ("docs", "other")


def test_a_limit_per_tool_is_each_tools_own(world: ToolWorld) -> None:
    for tool in ("read_a", "read_a", "read_b", "read_b"):
        assert isinstance(world.call(tool), ForwardCall)
    refused = world.call("read_a")
    assert code(refused) is RefusalCode.RATE_LIMIT_EXCEEDED
    assert refused.as_result
    assert refused.refusal.limit is not None
    assert (refused.refusal.limit.rule_id, refused.refusal.limit.unit) == ("reads", "tool_calls")
    assert refused.labels == ("docs", "other")


def test_sessions_are_the_callers_or_the_servers(world: ToolWorld) -> None:
    def until_refused(**headers: str) -> int:
        count = 0
        while isinstance(world.call("search", **headers), ForwardCall):
            count += 1
        return count

    assert until_refused(x_tfy_session_id="a") == 6
    assert until_refused(x_tfy_session_id="b") == 6
    assert until_refused(mcp_session_id="a") == 6
    assert until_refused(mcp_session_id="b") == 6
    # A caller's own word counts more; and without any word there is one bucket.
    assert until_refused(x_tfy_session_id="a", mcp_session_id="c") == 0
    assert until_refused() == 6
    assert until_refused(mcp_session_id="x" * 200) == 0


def test_billed_tools_are_paid_from_budgets(world: ToolWorld) -> None:
    assert isinstance(world.call("buy"), ForwardCall)
    assert world.reserved.amounts == (1, 0, 0, 0, 400_000, 400_000)
    assert world.counters()["all/usd"] == (0, 400_000)
    assert isinstance(world.call("buy"), ForwardCall)
    refused = world.call("buy")
    assert code(refused) is RefusalCode.BUDGET_EXCEEDED
    assert world.counters()["session/tool_calls"] == (0, 2)


def test_a_circle_is_refused_until_something_changes(world: ToolWorld) -> None:
    for _ in range(3):
        assert isinstance(world.call(arguments={"a": 1, "b": 2}), ForwardCall)
    refused = world.call(arguments={"b": 2, "a": 1})
    assert code(refused) is RefusalCode.LOOP_DETECTED
    assert refused.as_result
    extra = dict(refused.refusal.extra)
    assert (extra["repeats"], extra["period"], extra["tool"]) == ("3", "1", "search")
    assert not refused.refusal.retryable
    assert isinstance(world.call(arguments={"a": 2}), ForwardCall)
    assert isinstance(world.call(arguments={"a": 1, "b": 2}), ForwardCall)


def test_a_call_that_a_limit_refused_is_no_turn_of_a_circle(world: ToolWorld) -> None:
    for _ in range(2):
        world.call("read_a", arguments={"n": 1})
    for _ in range(5):
        refused = world.call("read_a", arguments={"n": 1})
        assert code(refused) is RefusalCode.RATE_LIMIT_EXCEEDED


def test_tools_for_polling_are_exempt(world: ToolWorld) -> None:
    for _ in range(6):
        assert isinstance(world.call("status", arguments={}), ForwardCall)


def test_lists_are_filtered_where_something_is_left_out(world: ToolWorld) -> None:
    assert world.send(LIST).is_list
    allowed = world.gate.listings["r1"]
    assert allowed.allows("search")
    assert not allowed.allows("read_secret")
    plain = world.send(LIST, path="/mcp/open")
    assert (plain.is_list, "r2" in world.gate.listings) == (False, False)
    for _ in range(MAX_LISTINGS + 1):
        world.send(LIST)
    assert len(world.gate.listings) == MAX_LISTINGS


@pytest.mark.parametrize(
    ("field", "value"),
    [("tool", "search"), ("mcp_server", "docs"), ("credential", "app"), ("session_id", "s")],
)
def test_the_kill_switch_stops_calls(world: ToolWorld, field: str, value: str) -> None:
    assert isinstance(world.call(x_tfy_session_id="s"), ForwardCall)
    world.gate.kill([Kill(field, value)])
    assert code(world.call(x_tfy_session_id="s")) is RefusalCode.KILLED
    listing = world.send(LIST, x_tfy_session_id="s")
    assert isinstance(listing, ForwardCall) == (field == "tool")
    world.gate.kill([])
    assert isinstance(world.call(x_tfy_session_id="s"), ForwardCall)


def test_invented_names_cost_no_memory() -> None:
    world = ToolWorld(
        MCP_ONLY
        + "---\nname: l\ntype: gateway-rate-limit-config\nrules:\n"
        + "  - {id: tool, limit: {tool_calls: 100000, window: 1h}, scope: tool}\n"
    )
    for number in range(MAX_TOOLS + 50):
        assert isinstance(world.call(f"tool{number}"), ForwardCall)
        world.gate.tool_calls.clear()
    assert len(world.holds) == MAX_TOOLS + 1
    (caller,) = world.gate.generation.callers._known.values()
    assert len(caller.plans) == MAX_PLANS


def test_what_is_no_message_is_refused(world: ToolWorld) -> None:
    assert code(world.send(b"nonsense")) is RefusalCode.INVALID_REQUEST
    assert code(world.call(mcp_name="other")) is RefusalCode.HEADER_MISMATCH
    assert code(world.call(content_encoding="gzip")) is RefusalCode.UNSUPPORTED_MEDIA_TYPE


def test_a_ledger_that_is_away_lets_nothing_pass(world: ToolWorld) -> None:
    machine = ToolCallMachine(world.gate)
    assert code(machine.on_ledger_failed()) is RefusalCode.STORE_UNAVAILABLE
    assert code(ToolCallMachine(world.gate).refuse_internal_error()) is RefusalCode.INTERNAL_ERROR


def test_events_in_the_wrong_state_are_our_fault(world: ToolWorld) -> None:
    machine = ToolCallMachine(world.gate)
    with pytest.raises(AssertionError):
        machine.on_body(RequestBody(b"{}", NOW, 0.0))


def test_paths_below_the_prefix_are_for_servers() -> None:
    assert is_mcp(RequestHeaders([(":path", b"/mcp/docs")], False, NOW))
    for path in (b"/v1/mcp/docs", b"/mcp", b"/v1/messages"):
        assert not is_mcp(RequestHeaders([(":path", path), ("referer", b"/mcp/")], False, NOW))
