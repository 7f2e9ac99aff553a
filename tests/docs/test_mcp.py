"""What docs/mcp.md shows, held against the code."""

from __future__ import annotations

import json
import re
from dataclasses import replace

from command import ROOT
from tool_world import ToolWorld
from world import NOW

from extproc.core.commands import RefuseCall
from extproc.core.events import Ending
from extproc.policy.mcp_documents import DEFAULT_REPEATS, MAX_REPEATS, MIN_REPEATS
from extproc.wire.json_rpc import refused_result

PAGE = (ROOT / "docs" / "mcp.md").read_text()


def shape(value: object) -> object:
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [shape(inner) for inner in value]
    return type(value).__name__


def test_the_refusal_on_the_page_is_of_the_shape_that_is_sent() -> None:
    (policy,) = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    _, _, limits = policy.partition("---\n")
    # The page's rules, so small that the second call is refused.
    servers = "name: m\ntype: gateway-config\nmcp_servers: {docs: {url: 'http://h/mcp'}}\n"
    world = ToolWorld(servers + "---\n" + limits.replace("tool_calls: 200", "tool_calls: 1"))
    world.call(x_tfy_session_id="s")
    world.end(Ending(200))
    command = world.call(x_tfy_session_id="s")
    assert isinstance(command, RefuseCall)
    assert command.refusal.limit is not None
    limit = replace(command.refusal.limit, resets_at_ms=NOW + 3_600_000)
    refusal = replace(command.refusal, limit=limit)
    sent = json.loads(refused_result(refusal, b"7", command.request_id, 7))
    (shown,) = re.findall(r"^```json\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert shape(json.loads(shown)) == shape(sent)
    text = json.loads(shown)["result"]["content"][0]["text"]
    assert text.replace("200", "1") == sent["result"]["content"][0]["text"]


def test_the_bounds_of_the_loop_guard_are_those_that_are_read() -> None:
    policy = (ROOT / "docs" / "policy.md").read_text()
    assert f"`repeats` {MIN_REPEATS} to {MAX_REPEATS}, {DEFAULT_REPEATS} if left out" in policy
