"""MCP servers, as written: the key ``mcp_servers`` of a ``gateway-config``."""

from __future__ import annotations

import re

from extproc.policy.drafts import Drafts, McpServerDraft
from extproc.policy.limit_documents import read_duration_ms, read_micro_usd
from extproc.policy.mcp_server import EVERY_TOOL, NO_TOOL, LoopGuardRule, patterns
from extproc.policy.reading import Section
from extproc.values.window import MAX_LENGTH_MS

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
"""Part of a path."""
_TOOL = re.compile(r"[A-Za-z0-9._/-]{0,128}\*?")

MIN_REPEATS, MAX_REPEATS = 2, 20
"""Once is no loop; and what is remembered of each session grows with it."""
DEFAULT_REPEATS = 5
DEFAULT_LOOP_WINDOW_MS = 600_000
"""A loop that takes longer than ten minutes a turn costs little."""


def read_mcp_servers(document: Section, drafts: Drafts) -> None:
    """The mapping ``mcp_servers``, by name."""
    servers = document.section("mcp_servers")
    if servers is None:
        return
    for name, node in servers.items():
        section = Section(node, document.file, document.findings, f"MCP server {name[:80]}")
        if not _NAME.fullmatch(name):
            section.error("", "bad_name", f"{name[:80]!r} is no part of a path")
        drafts.mcp_servers.append(_server(name, section))
        section.done()


def _server(name: str, section: Section) -> McpServerDraft:
    allow, deny = EVERY_TOOL, NO_TOOL
    tools = section.section("tools")
    if tools is not None:
        if "allow" in tools:
            allow = patterns(_tools(tools, "allow"))
        deny = patterns(_tools(tools, "deny"))
        tools.done()
    return McpServerDraft(
        section,
        name,
        section.text("url"),
        section.reference("credential"),
        section.choice("demo", ("auto", "off"), "off"),
        allow,
        deny,
        _prices(section),
        _loop_guard(section),
    )


def _tools(section: Section, key: str) -> tuple[str, ...]:
    texts = section.texts(key)
    for text in texts:
        if not _TOOL.fullmatch(text) or not text:
            section.error(key, "bad_tool", f"{text[:80]!r} is no tool's name, with or without *")
    return texts


def _prices(section: Section) -> dict[str, int]:
    prices = {}
    priced = section.section("usd_per_call")
    if priced is not None:
        for tool, _ in priced.items():
            if tool != "*" and (not _TOOL.fullmatch(tool) or tool.endswith("*")):
                priced.error(tool, "bad_tool", f"{tool[:80]!r} is no tool's name, nor * for all")
            prices[tool] = read_micro_usd(priced, tool, priced.decimal(tool))
    return prices


def _loop_guard(section: Section) -> LoopGuardRule | None:
    guard = section.section("loop_guard")
    if guard is None:
        return None
    rule = LoopGuardRule(
        guard.integer("repeats", DEFAULT_REPEATS, MIN_REPEATS, MAX_REPEATS),
        read_duration_ms(guard, "window", DEFAULT_LOOP_WINDOW_MS, MAX_LENGTH_MS),
        patterns(_tools(guard, "exempt")),
    )
    guard.done()
    return rule
