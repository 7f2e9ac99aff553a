"""The configuration as a value: pure, stable, without secrets, and all of it valid to Envoy."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority
from envoy_rig import PLAIN, compiled, policy_text

from extproc.envoy.bootstrap import bootstrap
from extproc.envoy.process import envoy_path
from extproc.envoy.render import discovery_response, render
from extproc.envoy.settings import GatewaySettings
from extproc.policy.compiler import compile_folder
from extproc.policy.snapshot import PolicySnapshot

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "envoy" / "example"
SETTINGS = GatewaySettings("127.0.0.1", 1, Path("/run/tokenweir"), Path("/state/envoy"))


def shipped(environ: dict[str, str]) -> PolicySnapshot:
    files = {path.name: path.read_bytes() for path in (ROOT / "configs").glob("*.yaml")}
    snapshot = compile_folder(files, 1, environ, "http://127.0.0.1:9000")
    assert isinstance(snapshot, PolicySnapshot), snapshot
    return snapshot


def varied() -> PolicySnapshot:
    """Many providers, of every kind of address, path, dialect and key."""
    kinds = (
        '{{dialect: openai, base_url: "http://127.0.0.1:{n}/v1"}}',
        '{{dialect: openai, base_url: "https://host-{n}.test/deep/base/path/v1"}}',
        '{{dialect: anthropic, base_url: "https://host-{n}.test:8443", credential: "env:KEY_{n}"}}',
        '{{dialect: openai, base_url: "https://10.0.0.1:{n}/v1", credential: "file:/keys/{n}"}}',
        '{{dialect: openai, base_url: "http://[::1]:{n}/v1"}}',
        "{{endpoints: {{"
        'openai: "https://both-{n}.test/v1", anthropic: "https://both-{n}.test"'
        '}}, credential: "env:KEY_{n}"}}',
    )
    texts = {f"p{n}": kinds[n % len(kinds)].format(n=n + 1) for n in range(60)}
    return compiled(policy_text(texts))


def whole(snapshot: PolicySnapshot, settings: GatewaySettings) -> dict[str, Any]:
    """Everything in one static file: what Envoy's validation reads, which follows no watch."""
    resources = copy.deepcopy(render(snapshot, settings))
    document = bootstrap(settings)
    del document["dynamic_resources"]
    (listener,) = resources["lds"]
    (routes,) = resources["rds"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    del manager["rds"]
    manager["route_config"] = routes
    static = document["static_resources"]
    static["clusters"] += resources["cds"]
    static["listeners"] = [listener]
    static["secrets"] = resources["secrets"]
    return document


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("policy", ["demo", "real", "varied"])
def test_the_real_envoy_validates_all_of_it(tmp_path: Path, policy: str, tls: bool) -> None:
    authority = Authority(tmp_path, "ca")
    pem = str(authority.server("localhost")) if tls else ""
    settings = GatewaySettings(
        "127.0.0.1", 1, tmp_path / "s", tmp_path, str(authority.file), pem, pem
    )
    keys = {"ANTHROPIC_API_KEY": "x", "OPENAI_API_KEY": "x"}
    snapshot = {"demo": lambda: shipped({}), "real": lambda: shipped(keys), "varied": varied}
    document = whole(snapshot[policy](), settings)
    _stand_alone(document)
    path = tmp_path / "whole.json"
    path.write_text(json.dumps(document))
    command = [envoy_path(), "--mode", "validate", "-c", path, "--log-level", "error"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "OK" in done.stdout


def _stand_alone(value: Any) -> None:
    """Validation opens watched files: ours become empty ones, other people's a value."""
    if isinstance(value, dict):
        if "path_config_source" in value:
            Path(value["path_config_source"]["path"]).write_text("{}")
        if str(value.get("filename", "")).startswith("/keys/"):
            del value["filename"], value["watched_directory"]
            value["inline_string"] = "x"
        for item in list(value.values()):
            _stand_alone(item)
    elif isinstance(value, list):
        for item in value:
            _stand_alone(item)


@pytest.mark.parametrize("seed", ["1", "2"])
def test_the_example_in_the_repository_is_fresh(tmp_path: Path, seed: str) -> None:
    """Refresh it with ``python envoy/generate.py``."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed}
    command = [sys.executable, ROOT / "envoy" / "generate.py", tmp_path]
    subprocess.run(command, env=environ, check=True)
    assert {path.name for path in tmp_path.iterdir()} == {p.name for p in EXAMPLE.iterdir()}
    for path in tmp_path.iterdir():
        assert path.read_text() == (EXAMPLE / path.name).read_text(), path.name


def test_equal_policies_give_equal_bytes_and_others_another_version() -> None:
    text = policy_text({"p1": PLAIN.replace("PORT", "1"), "p2": PLAIN.replace("PORT", "2")})
    one, two = (render(compiled(text, number), SETTINGS) for number in (1, 2))
    for kind in one:
        assert discovery_response(kind, one[kind]) == discovery_response(kind, two[kind])
    changed = copy.deepcopy(one["cds"])
    changed[0]["connect_timeout"] = "9s"
    assert discovery_response("cds", changed)[0] != discovery_response("cds", one["cds"])[0]


def test_a_cluster_that_changed_has_another_name() -> None:
    """Requests under way keep the cluster that they were decided with."""
    base = {"dialect": "openai", "base_url": "https://a.test/v1", "credential": "env:A"}
    changes = (
        {},
        {"base_url": "https://b.test/v1"},
        {"base_url": "http://a.test/v1"},
        {"base_url": "https://a.test:444/v1"},
        {"base_url": "https://a.test/v2"},
        {"credential": "env:B"},
        {"credential": "file:/A"},
    )
    seen: dict[str, str] = {}
    for change in changes:
        policy = compiled(policy_text({"p": json.dumps({**base, **change})}))
        for cluster in render(policy, SETTINGS)["cds"]:
            text = json.dumps(cluster)
            assert seen.setdefault(cluster["name"], text) == text


def test_secrets_are_references_each_once() -> None:
    provider = '{{dialect: openai, base_url: "https://h/v1", credential: "{}"}}'
    texts = {
        "a": provider.format("env:A_KEY"),
        "b": provider.format("env:A_KEY"),
        "c": provider.format("file:/run/secrets/c"),
    }
    resources = render(compiled(policy_text(texts)), SETTINGS)
    file = {"filename": "/run/secrets/c", "watched_directory": {"path": "/run/secrets"}}
    assert resources["secrets"] == [
        {"name": "env:A_KEY", "generic_secret": {"secret": {"environment_variable": "A_KEY"}}},
        {"name": "file:/run/secrets/c", "generic_secret": {"secret": file}},
    ]


def test_no_key_of_the_environment_is_rendered() -> None:
    keys = {"ANTHROPIC_API_KEY": "canary-1", "OPENAI_API_KEY": "canary-2"}
    text = json.dumps([render(shipped(keys), SETTINGS), bootstrap(SETTINGS)])
    assert "ANTHROPIC_API_KEY" in text
    assert "canary" not in text
