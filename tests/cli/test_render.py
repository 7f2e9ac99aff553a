from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from command import tokenweir
from gateway import base_policy

from extproc.__main__ import main
from extproc.envoy.process import envoy_path

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "policy"
    folder.mkdir()
    for name, text in base_policy().items():
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("demo", [True, False], ids=["demo", "real-keys"])
def test_envoy_accepts_the_static_form(folder: Path, tmp_path: Path, demo: bool) -> None:
    arguments = ["--demo-url", "http://127.0.0.1:9"] if demo else []
    printed = tokenweir("render", folder, "--static", "--state", tmp_path, *arguments)
    assert printed.returncode == 0, printed.stderr
    config = tmp_path / "envoy.json"

    def validate(text: str) -> subprocess.CompletedProcess[str]:
        config.write_text(text)
        command = [envoy_path(), "--mode", "validate", "--reject-unknown-dynamic-fields", "-c"]
        # Envoy takes the providers' keys from its environment, and refuses when they are not there.
        return subprocess.run(
            [*command, config], env={"NO": "key"}, capture_output=True, text=True, timeout=30
        )

    accepted = validate(printed.stdout)
    assert accepted.returncode == 0, accepted.stderr
    # That it is really looked at: a misspelt setting of the listener is refused.
    broken = validate(printed.stdout.replace('"merge_slashes"', '"merge_slashez"'))
    assert broken.returncode != 0
    assert "merge_slashez" in broken.stderr


def test_the_parts_are_those_that_are_served(folder: Path, capsys: Capture) -> None:
    assert main(["render", str(folder), "--listen", "127.0.0.1:7777", "--state", "/s"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document) == {"bootstrap", "secrets", "cds", "rds", "lds"}
    address = document["lds"][0]["address"]["socket_address"]
    assert (address["address"], address["port_value"]) == ("127.0.0.1", 7777)
    watched = document["bootstrap"]["dynamic_resources"]["cds_config"]["path_config_source"]
    assert watched["path"] == "/s/envoy/cds.json"


def test_a_refused_policy_prints_no_configuration(folder: Path, capsys: Capture) -> None:
    (folder / "models.yaml").write_text("type: nonsense\n")
    assert main(["render", str(folder)]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "error   models.yaml:1: " in said.err


def test_no_key_is_ever_printed(folder: Path) -> None:
    printed = tokenweir("render", folder, "--static", NO="sk-canary")
    assert printed.returncode == 0
    assert "sk-canary" not in printed.stdout + printed.stderr
