"""MCP servers as policies write them, and what cannot be meant."""

from __future__ import annotations

import pytest
from gateway import base_policy

from extproc.policy.compiler import compile_folder
from extproc.policy.mcp_documents import MAX_REPEATS
from extproc.policy.mcp_server import EVERY_TOOL, LoopGuardRule, patterns
from extproc.policy.snapshot import PolicySnapshot
from extproc.values.limit import Scope, Unit

GOOD = """
name: mcp
type: gateway-config
mcp_servers:
  docs:
    url: https://tools.example.com/v2/mcp
    credential: env:DOCS_TOKEN
    tools: {allow: [search, "read_*"], deny: read_secret}
    usd_per_call: {search: 0.005, "*": 0.0001}
    loop_guard: {repeats: 4, window: 5m, exempt: [status]}
  plain: {url: "http://127.0.0.1:9001", loop_guard: {}}
"""
RULE = """
name: r
type: gateway-rate-limit-config
rules:
  - {id: r, %s}
"""


def compiled(*texts: str) -> PolicySnapshot:
    files = base_policy(**{f"f{n}": text for n, text in enumerate(texts)})
    found = compile_folder({n: t.encode() for n, t in files.items()}, 1, {"DOCS_TOKEN": "x"}, None)
    assert isinstance(found, PolicySnapshot), list(map(str, found))
    return found


def findings(*texts: str) -> list[tuple[str, str, int]]:
    files = base_policy(**{f"f{n}": text for n, text in enumerate(texts)})
    found = compile_folder({n: t.encode() for n, t in files.items()}, 1, {}, "http://127.0.0.1:9")
    assert isinstance(found, list)
    return [(finding.code, finding.file, finding.line) for finding in found]


def test_a_server() -> None:
    servers = compiled(GOOD).mcp_servers
    docs, plain = servers["docs"], servers["plain"]
    assert docs.allow == patterns(("search", "read_*"))
    assert docs.deny == patterns(("read_secret",))
    assert docs.micro_usd_per_call == {"search": 5_000, "*": 100}
    assert docs.loop_guard == LoopGuardRule(4, 300_000, patterns(("status",)))
    assert (plain.allow, plain.loop_guard) == (EVERY_TOOL, LoopGuardRule(5, 600_000))


def test_tool_calls_are_limits_of_their_own() -> None:
    limit = "limit: {requests: 5, tool_calls: 9, window: 1h}, scope: session"
    policy = compiled(RULE % limit)
    requests, calls = policy.limits
    assert (requests.key, requests.of_tools) == ("r/requests", False)
    assert (calls.key, calls.of_tools) == ("r/tool_calls", True)
    assert (calls.unit, calls.ceiling, calls.scope) == (Unit.REQUESTS, 9, (Scope.SESSION,))
    nobody = ("",) * 12
    assert policy.index.matching_subject(nobody) == (requests,)
    assert policy.tool_limits.matching_subject(nobody) == (calls,)


def test_tool_calls_by_tool_and_server() -> None:
    when = "when: {tools: ['read_*'], mcp_servers: [docs]}, limit: {tool_calls: 9, window: 1h}"
    policy = compiled(GOOD, RULE % when)
    matching = policy.tool_limits.matching_subject
    assert len(matching((*("",) * 10, "read_a", "docs"))) == 1
    assert matching((*("",) * 10, "search", "docs")) == ()
    assert matching((*("",) * 10, "read_a", "plain")) == ()


SERVER = "name: m\ntype: gateway-config\nmcp_servers:\n  docs:\n    url: http://h/mcp\n    "
REFUSED = {
    "bad_name": "name: m\ntype: gateway-config\nmcp_servers:\n  a/b: {url: http://h/mcp}\n",
    "unknown_key": SERVER + "tool: [a]\n",
    "wrong_type": SERVER + "tools: [a]\n",
    "bad_tool": SERVER + "tools: {allow: ['*_read']}\n",
    "out_of_range": SERVER + f"loop_guard: {{repeats: {MAX_REPEATS + 1}}}\n",
    "bad_duration": SERVER + "loop_guard: {window: soon}\n",
    "literal_secret": SERVER + "credential: sk-123\n",
    "bad_value": SERVER + "demo: native\n",
}


@pytest.mark.parametrize("code", REFUSED)
def test_what_is_refused(code: str) -> None:
    ((found, file, line),) = findings(REFUSED[code])
    assert (found, file) == (code, "f0.yaml")
    assert line >= 4


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        ("when: {tools: [a]}, limit: {requests: 1, window: 1h}", "not_of_tools"),
        ("limit: {tokens: 1, tool_calls: 1, window: 1h}, scope: tool", "not_of_tools"),
        ("limit: {usd: 1, window: 1h}, scope: mcp_server", "not_of_tools"),
        ("when: {models: [a]}, limit: {tool_calls: 1, window: 1h}", "not_of_models"),
        ("limit: {tool_calls: 1, window: 1h}, scope: [user, provider]", "not_of_models"),
        ("limit: {tool_calls: 1, window: 1h}, on_breach: queue_then_429", "bad_action"),
        ("limit: {tool_calls: 1, window: 1h}, on_breach: fallback_to_haiku", "bad_action"),
    ],
)
def test_rules_that_cannot_be_meant(rule: str, code: str) -> None:
    ((found, file, line),) = findings(RULE % rule)
    assert (found, file, line) == (code, "f0.yaml", 5)


def test_only_rate_rules_are_told_by_tool() -> None:
    budget = "name: b\ntype: gateway-budget-config\nbudgets:\n"
    budget += "  - {id: b, ceiling_usd: 1, window: daily, per: tool}\n"
    assert [code for code, *_ in findings(budget)] == ["bad_scope"]
