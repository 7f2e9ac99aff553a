"""MCP servers and who may call what of them, resolved. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from urllib.parse import urlsplit

from extproc.policy.drafts import CredentialDraft, Drafts, McpServerDraft
from extproc.policy.mcp_server import McpServer, Patterns, patterns
from extproc.policy.snapshot import CredentialRef, Endpoint
from extproc.values.dialect import Dialect

DEMO_PATH = "/mcp"
"""Where the demo provider is an MCP server."""


def compile_mcp_servers(
    drafts: Drafts, environ: Mapping[str, str], demo_url: str | None
) -> dict[str, McpServer]:
    """By name. A server marked ``demo: auto`` that has no URL, or whose credential variable is not
    set, is the demo provider's."""
    servers: dict[str, McpServer] = {}
    for draft in drafts.mcp_servers:
        if draft.name in servers:
            draft.section.error("", "duplicate_name", f"MCP server {draft.name} is set twice")
        server = _server(draft, environ, demo_url)
        if server is not None:
            servers[draft.name] = server
    return servers


def tools_of(
    draft: CredentialDraft, servers: Mapping[str, McpServer]
) -> Mapping[str, Patterns] | None:
    """What a credential may call, by server: ``docs`` is all of it, ``docs/search`` one tool."""
    if draft.mcp_servers is None:
        return None
    texts: dict[str, tuple[str, ...]] = {}
    for text in draft.mcp_servers:
        server, slash, tool = text.partition("/")
        if server not in servers:
            known = ", ".join(servers) or "none"
            message = f"{server[:80]!r} is no MCP server; known: {known}"
            draft.section.error("mcp_servers", "unknown_mcp_server", message)
        texts[server] = (*texts.get(server, ()), tool if slash else "*")
    return {server: patterns(tools) for server, tools in texts.items()}


def _server(
    draft: McpServerDraft, environ: Mapping[str, str], demo_url: str | None
) -> McpServer | None:
    section, url, credential = draft.section, draft.url, draft.credential
    unset = credential is not None and credential.kind == "env" and not environ.get(credential.name)
    if draft.demo == "auto" and demo_url is not None and (unset or not url):
        url, credential = demo_url + DEMO_PATH, None
    elif unset:
        message = f"MCP server {draft.name}: the variable is not set"
        section.warning("credential", "credential_unset", message)
    if not url and draft.demo == "auto":
        section.warning("url", "no_demo", f"MCP server {draft.name}: no URL, and no demo provider")
        return None
    endpoint = _endpoint(draft.name, url, credential)
    if endpoint is None:
        section.error("url", "bad_url", f"{url[:80]!r} is no http(s) URL without a query")
        return None
    return McpServer(
        draft.name,
        endpoint,
        credential,
        draft.allow,
        draft.deny,
        draft.micro_usd_per_call,
        draft.loop_guard,
    )


def _endpoint(name: str, url: str, credential: CredentialRef | None) -> Endpoint | None:
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    if not sound or parts.query or parts.fragment or parts.username or not url.isascii():
        return None
    host = parts.hostname or ""
    identity = (credential.kind, credential.name) if credential else ("", "")
    text = "\0".join((parts.scheme, host, str(port), *identity))
    cluster = f"m_{name}_{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    # Its credential goes where OpenAI's does: Authorization, as a bearer token.
    return Endpoint(Dialect.OPENAI, parts.scheme, host, port, parts.path or "/", cluster)
