from __future__ import annotations

from extproc.policy.mcp_server import EVERY_TOOL, NO_TOOL, LoopGuardRule, McpServer, patterns
from extproc.policy.snapshot import Endpoint
from extproc.values.dialect import Dialect

ENDPOINT = Endpoint(Dialect.OPENAI, "http", "h", 80, "/mcp", "m_docs")


def test_patterns_are_literal_or_end_in_a_star() -> None:
    some = patterns(("search", "read_*"))
    assert [some.holds(name) for name in ("search", "searching", "read_", "read_a", "read")] == [
        True, False, True, True, False,
    ]  # fmt: skip
    assert EVERY_TOOL.holds("anything")
    assert not NO_TOOL.holds("anything")
    assert patterns(("*",)) == EVERY_TOOL


def test_what_is_denied_is_not_allowed() -> None:
    server = McpServer(
        "docs", ENDPOINT, "l", allow=patterns(("read_*",)), deny=patterns(("read_secret*",))
    )
    assert server.serves("read_a")
    assert not server.serves("read_secrets")
    assert not server.serves("search")
    assert server.filters
    assert not McpServer("docs", ENDPOINT, "l").filters


def test_prices_and_the_names_that_metrics_know() -> None:
    server = McpServer(
        "docs",
        ENDPOINT,
        "l",
        deny=patterns(("drop", "rm_*")),
        micro_usd_per_call={"buy": 5, "*": 1},
        loop_guard=LoopGuardRule(3, 1000, patterns(("status",))),
    )
    assert (server.price_micro_usd("buy"), server.price_micro_usd("look")) == (5, 1)
    assert server.named_tools == {"drop", "buy", "status"}
    assert McpServer("docs", ENDPOINT, "l").price_micro_usd("buy") == 0
