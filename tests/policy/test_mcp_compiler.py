"""Where MCP servers are, and who may call what."""

from __future__ import annotations

import pytest
from gateway import base_policy

from extproc.policy.compiler import compile_folder
from extproc.policy.mcp_server import EVERY_TOOL, patterns
from extproc.policy.snapshot import CredentialRef, Finding, PolicySnapshot

SERVERS = """
name: mcp
type: gateway-config
mcp_servers:
  docs: {url: "https://tools.example.com/v2/mcp", credential: "env:DOCS_TOKEN", demo: auto}
  local: {url: "http://127.0.0.1:9001"}
  anything: {demo: auto}
"""


def compile_with(
    granted: str = "", demo: str | None = None, servers: str = SERVERS, **environ: str
) -> PolicySnapshot | list[Finding]:
    files = base_policy(mcp=servers)
    if granted:
        files["gateway.yaml"] = files["gateway.yaml"].replace(
            "  - id: app\n", f"  - id: app\n    mcp_servers: {granted}\n"
        )
    return compile_folder({n: t.encode() for n, t in files.items()}, 1, environ, demo)


def policy(granted: str = "", demo: str | None = None, **environ: str) -> PolicySnapshot:
    found = compile_with(granted, demo, **environ)
    assert isinstance(found, PolicySnapshot), list(map(str, found))
    return found


def test_where_they_are() -> None:
    servers = policy(demo="http://127.0.0.1:9", DOCS_TOKEN="x").mcp_servers
    docs, local, anything = (servers[name] for name in ("docs", "local", "anything"))
    assert (docs.endpoint.authority, docs.endpoint.base_path) == ("tools.example.com", "/v2/mcp")
    assert docs.credential == CredentialRef("env", "DOCS_TOKEN")
    assert (local.endpoint.authority, local.endpoint.base_path) == ("127.0.0.1:9001", "/")
    assert (anything.endpoint.authority, anything.endpoint.base_path) == ("127.0.0.1:9", "/mcp")
    clusters = {s.endpoint.cluster for s in servers.values()}
    assert len(clusters) == 3


def test_the_demo_provider_stands_in_where_the_credential_is_not_set() -> None:
    docs = policy(demo="http://127.0.0.1:9").mcp_servers["docs"]
    assert (docs.endpoint.authority, docs.credential) == ("127.0.0.1:9", None)
    found = policy()
    assert "anything" not in found.mcp_servers
    assert found.mcp_servers["docs"].endpoint.host == "tools.example.com"
    assert {w.code for w in found.warnings} >= {"credential_unset", "no_demo"}


def test_another_key_is_another_cluster() -> None:
    first = policy(DOCS_TOKEN="x").mcp_servers["docs"].endpoint.cluster
    other = compile_with(servers=SERVERS.replace("DOCS_TOKEN", "NEW_TOKEN"), NEW_TOKEN="x")
    assert isinstance(other, PolicySnapshot)
    assert other.mcp_servers["docs"].endpoint.cluster != first


def tools(granted: str) -> object:
    (credential,) = policy(granted, demo="http://127.0.0.1:9").credentials.values()
    return credential.tools


def test_what_a_credential_may_call() -> None:
    assert tools("") is None
    assert tools("[]") == {}
    assert tools("[docs]") == {"docs": EVERY_TOOL}
    assert tools("[docs/search, docs/read_*, local]") == {
        "docs": patterns(("search", "read_*")),
        "local": EVERY_TOOL,
    }


@pytest.mark.parametrize(
    "url",
    ["", "ftp://h/mcp", "http://", "http://h:0/mcp", "http://u@h/", "http://h/?a=b", "http://h/#a"],
)
def test_what_is_no_url(url: str) -> None:
    servers = f'name: m\ntype: gateway-config\nmcp_servers:\n  docs:\n    url: "{url}"\n'
    found = compile_with(servers=servers)
    assert isinstance(found, list)
    assert [(finding.code, finding.line) for finding in found] == [("bad_url", 5)]


def test_a_server_that_is_not_there() -> None:
    found = compile_with("[docs, nowhere/search]", "http://127.0.0.1:9")
    assert isinstance(found, list)
    assert [finding.code for finding in found] == ["unknown_mcp_server"]


def test_two_servers_of_one_name() -> None:
    again = (
        SERVERS + "---\nname: more\ntype: gateway-config\nmcp_servers:\n  local: {url: http://h}\n"
    )
    found = compile_with(servers=again)
    assert isinstance(found, list)
    assert [finding.code for finding in found] == ["duplicate_name"]
