"""The configuration as a value: pure, stable, and all of it valid to the real Envoy."""

from __future__ import annotations

import copy
import json
import subprocess
from pathlib import Path

import orjson
from envoy_rig import PLAIN, compiled, policy_text

from extproc.envoy.bootstrap import bootstrap
from extproc.envoy.process import envoy_command, envoy_path
from extproc.envoy.render import discovery_response, render
from extproc.envoy.settings import GatewaySettings
from extproc.policy.compiler import compile_folder

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "envoy" / "example.json"
SETTINGS = GatewaySettings(
    "0.0.0.0", 8080, Path("/run/tokenweir"), Path("/var/lib/tokenweir/envoy")
)


def example() -> dict[str, object]:
    """What the shipped policy is served with when every provider has its key."""
    files = {path.name: path.read_bytes() for path in (ROOT / "configs").glob("*.yaml")}
    snapshot = compile_folder(files, 1, {}, "http://127.0.0.1:9000")
    assert not isinstance(snapshot, list), snapshot
    return {"bootstrap": bootstrap(SETTINGS), **render(snapshot, SETTINGS)}


def test_the_example_in_the_repository_is_fresh() -> None:
    """Write it anew with: tokenweir render configs > envoy/example.json (paths as below)."""
    assert orjson.loads(EXAMPLE.read_bytes()) == orjson.loads(orjson.dumps(example()))


def test_equal_policies_give_equal_bytes_and_others_another_version() -> None:
    text = policy_text({"p1": PLAIN.replace("PORT", "1"), "p2": PLAIN.replace("PORT", "2")})
    one, two = (render(compiled(text, number), SETTINGS) for number in (1, 2))
    for kind in one:
        assert discovery_response(kind, one[kind]) == discovery_response(kind, two[kind])
    changed = copy.deepcopy(one["cds"])
    changed[0]["connect_timeout"] = "9s"
    assert discovery_response("cds", changed)[0] != discovery_response("cds", one["cds"])[0]


def test_secrets_are_references_one_to_a_file() -> None:
    provider = '{{dialect: openai, base_url: "https://h/v1", credential: "{}"}}'
    texts = {
        "a": provider.format("env:A_KEY"),
        "b": provider.format("env:A_KEY"),
        "c": provider.format("file:/run/secrets/c"),
    }
    resources = render(compiled(policy_text(texts)), SETTINGS)
    assert resources["secrets"] == [
        {
            "name": "env:A_KEY",
            "generic_secret": {"secret": {"environment_variable": "A_KEY"}},
        },
        {
            "name": "file:/run/secrets/c",
            "generic_secret": {
                "secret": {
                    "filename": "/run/secrets/c",
                    "watched_directory": {"path": "/run/secrets"},
                }
            },
        },
    ]
    text = json.dumps(resources["cds"])


def test_the_real_envoy_validates_the_bootstrap(tmp_path: Path) -> None:
    settings = GatewaySettings("127.0.0.1", 1, tmp_path / "s", tmp_path / "c")
    command = envoy_command(settings, concurrency=1)
    done = subprocess.run([*command, "--mode", "validate"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert str(envoy_path()) == command[0]
